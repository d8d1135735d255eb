"""A training run of its own process, for the tests that kill it or run it on two: FOLDER key=value ..."""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from diffusion_suite.core import seeding
from diffusion_suite.core.training import SuiteDataModule, SuiteModule, TrainConfig, fit


class Points(Dataset):
    def __len__(self):
        return 37

    def __getitem__(self, index):
        return torch.randn(4, generator=seeding.generator("points", index))


class Tiny(SuiteModule):
    def __init__(self, dropout: float = 0.3, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause
        self.noise = 0.1 if dropout else 0.0
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout), nn.SiLU(), nn.Linear(8, 4))

    def loss(self, batch, generator):
        time.sleep(self.pause)
        noise = torch.randn(batch.shape, generator=generator)
        return (self.network(batch + self.noise * noise) - batch).square().mean()


def main(folder: str, *overrides: str) -> None:
    given = dict(item.split("=") for item in overrides)
    config = TrainConfig(
        steps=int(given["steps"]),
        batch_size=int(given.get("batch_size", 4)),
        workers=int(given.get("workers", 0)),
        warmup_steps=2,
        learning_rate=1e-2,
        ema_decay=0.9,
        checkpoint_every=5,
        log_every=10,
        trainer={"accelerator": "cpu", "devices": int(given.get("devices", 1))},
    )
    with seeding.seeded(0, "weights"):
        module = Tiny(0.0 if "plain" in given else 0.3, float(given.get("pause", 0)))
    fit(module, SuiteDataModule(Points()), config, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
