"""The commands: everything that is common comes from the core."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import atomic_path, expand_inputs, prepare_output
from diffusion_suite.core.manifest import Manifest
from diffusion_suite.core.training import SuiteDataModule, SuiteModule, fit


class Layer(SuiteModule):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def loss(self, batch, generator):
        noise = torch.randn(batch.shape, generator=generator)
        return (self.layer(batch + noise) - batch).square().mean()


class Draws(torch.utils.data.Dataset):
    endless = True

    def __init__(self, width):
        self.width = width

    def __getitem__(self, index):
        return torch.randn(self.width, generator=seeding.generator("draws", index))


def train(request):
    config = request.config
    with seeding.seeded(config.seed, "weights"):
        module = Layer(config.width)
    fit(module, SuiteDataModule(Draws(config.width)), config, Path(request.output))


def read(path):
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is no array ({error})", "give a .npy file") from error


def predict(request):
    folder = Path(request.output)
    manifest = Manifest(folder / "manifest.jsonl")
    for path in expand_inputs(request.inputs, {".npy"}):
        if manifest.finished(path, request.config_hash) and not request.config.overwrite:
            continue
        start, array = time.perf_counter(), read(path)
        prepare_output([folder / path.name], request.config.overwrite)
        noise = seeding.numpy_generator(request.config.seed, path.name).standard_normal(array.shape)
        with atomic_path(folder / path.name) as part:
            np.save(part, array + request.config.strength * noise)
        manifest.append(
            input=path,
            output=folder / path.name,
            seed=request.config.seed,
            config_hash=request.config_hash,
            seconds=time.perf_counter() - start,
        )


def info(request):
    for name in request.inputs:
        if name.endswith(".ckpt"):
            print(name, torch.load(name, weights_only=True)["global_step"], "steps")
        else:
            print(name, read(name).shape)
