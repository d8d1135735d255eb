"""Depth keeps the contract of every system."""

import numpy as np
import pytest
from pictures_on_disk import drawn, write

from diffusion_suite.core.testing import DomainContract


class TestDepth(DomainContract):
    domain = "depth"
    system = "depth"
    module = "diffusion_suite.depth.module:DepthModule"
    suffix = ".png"
    train_overrides = (
        "drawn=2",
        "validation=0",
        "side=32",
        "widths=[32,32]",
        "layers=1",
        "attention_from=1",
        "batch_size=2",
        "workers=0",
    )
    tolerance = 1e-5

    @pytest.fixture(autouse=True)
    def _weights(self, network):
        type(self).predict_overrides = (
            f"weights={network}",
            "outputs=[npy]",
            "uncertainty=false",
            "members=2",
            "steps=1",
        )

    def write_sample(self, path, seed):
        write(path, drawn(32, 40, seed))

    def read_output(self, path):
        return np.load(path)
