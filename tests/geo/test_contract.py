"""Restoration keeps the contract of every system."""

import numpy as np

from diffusion_suite.core import seeding
from diffusion_suite.core.testing import DomainContract


class TestRestoration(DomainContract):
    domain = "geo"
    system = "restoration"
    module = "diffusion_suite.geo.restoration.module:EigenPriorModule"
    suffix = ".npy"
    train_overrides = (
        "scenes=2",
        "photographs=false",
        "validation=0",
        "patch=32",
        "channels=3",
        "widths=[4]",
        "blocks=[1]",
        "batch_size=2",
        "workers=0",
    )
    predict_overrides = ("mode=subspace", "pictures=false")

    def write_sample(self, path, seed):
        rng = seeding.numpy_generator("contract", seed)
        spectra = rng.random((3, 8)).cumsum(1)
        abundance = rng.random((24, 20, 3)).cumsum(0)
        np.save(path, (abundance @ spectra + rng.normal(0, 0.3, (24, 20, 8))).astype(np.float32))

    def read_output(self, path):
        return np.load(path)
