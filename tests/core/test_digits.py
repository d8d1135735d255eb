"""Real data: a tiny flow on handwritten digits classifies, draws, and is a better probe when aligned."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from diffusion_suite.core import seeding
from diffusion_suite.core.metrics import frechet_distance
from diffusion_suite.core.representation import (
    Noised,
    RepresentationAlignment,
    classify,
    contrastive_loss,
    probe_grid,
)
from diffusion_suite.core.schedulers import Denoiser, RectifiedFlow, even_times, heun
from diffusion_suite.core.testing.tiny import TinyTransformer
from diffusion_suite.core.training import SuiteDataModule, SuiteModule, TrainConfig, fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CLASSES = 10
TRAIN = 1400


@functools.cache
def digits():
    """((pictures, labels) of 1,400, (pictures, labels) of the other 397), pictures in [-1, 1]."""
    data = load_digits()
    pictures = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=seeding.generator("digits"))
    known, unseen = order[:TRAIN], order[TRAIN:]
    return (pictures[known], labels[known]), (pictures[unseen], labels[unseen])


class DigitFlow(SuiteModule):
    """Rectified flow with dropped labels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyTransformer()

    @property
    def denoiser(self):
        return Denoiser(self.network, RectifiedFlow(), "velocity")

    def loss(self, batch, generator):
        x0, label = batch
        eps = torch.randn(x0.shape, generator=generator)
        t = torch.rand(len(x0), generator=generator)
        dropped = torch.rand(len(x0), generator=generator) < 0.1
        self.noised = Noised(x0, eps, t, RectifiedFlow())
        label = torch.where(dropped, CLASSES, label)
        return (self.network(self.noised.x_t, t, label=label) - (eps - x0)).square().mean()


def train_flow(folder: Path, steps: int, seed: int = 0, callbacks=(), **more):
    """A flow trained for some steps, in evaluation mode."""
    settings = {"batch_size": 128, "workers": 0, "warmup_steps": 50, "learning_rate": 2e-3}
    settings |= {"schedule": "constant", "weight_decay": 0.0, "ema_decay": 0.99, "checkpoint_every": steps}
    config = TrainConfig(steps=steps, seed=seed, trainer={"accelerator": "cpu"}, **(settings | more))
    with seeding.seeded(seed, "weights"):
        module = DigitFlow()
    fit(module, SuiteDataModule(TensorDataset(*digits()[0])), config, folder, callbacks=callbacks)
    return module.eval()


class Teacher(nn.Module):
    """A convolutional encoder of 8 x 8 pictures: maps (batch, 64, 4, 4)."""

    width = 64

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
        )
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, pictures):
        return self.layers(pictures)


def augmented(pictures, generator):
    """Turned, scaled and shifted a little, and noised."""
    count = len(pictures)
    angle = 0.3 * torch.randn(count, generator=generator)
    scale = 1 + 0.15 * torch.randn(count, generator=generator)
    shift = 0.2 * torch.randn(count, 2, 1, generator=generator)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    grid = F.affine_grid(
        torch.cat([scale[:, None, None] * turn, shift], 2), pictures.shape, align_corners=False
    )
    moved = F.grid_sample(pictures + 1, grid, align_corners=False) - 1
    return moved + 0.2 * torch.randn(moved.shape, generator=generator)


@functools.cache
def teacher(steps: int = 300):
    """An encoder trained on the 1,400 digits by contrast of two augmented views, without labels."""
    (pictures, _), _ = digits()
    draw = seeding.generator("teacher")
    with seeding.seeded("teacher"):
        network = Teacher()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(steps):
        batch = pictures[torch.randint(TRAIN, (256,), generator=draw)]
        views = network(torch.cat([augmented(batch, draw), augmented(batch, draw)]))
        first, second = network.head(views.mean((2, 3))).chunk(2)
        optimizer.zero_grad()
        contrastive_loss(first, second).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def share_right(module):
    pictures, labels = digits()[1]
    noise = [seeding.generator("classifier", item) for item in range(len(labels))]
    with torch.no_grad():
        found = classify(
            module.denoiser, pictures, torch.arange(CLASSES), noise=noise, budgets=(4, 16), keep=(3, 1)
        )
    return float((found.labels == labels).float().mean())


def test_a_conditional_flow_classifies_and_draws_digits(tmp_path):
    assert share_right(train_flow(tmp_path, 300)) >= 0.90
    module = train_flow(tmp_path, 1000)
    assert share_right(module) >= 0.96
    start = torch.randn(1000, 1, 8, 8, generator=seeding.generator("samples"))
    with torch.no_grad():
        drawn = heun(module.denoiser, start, even_times(20), label=torch.arange(1000) % CLASSES)
    assert frechet_distance(digits()[1][0].flatten(1), drawn.flatten(1)) <= 1.2


def test_alignment_lifts_the_best_probe(tmp_path):
    known, unseen = digits()
    encoder, lifts = teacher(), []
    for seed in range(3):
        add_on = RepresentationAlignment(
            1, lambda batch: encoder(batch[0]), width=64, teacher_width=64, hidden=256
        )
        best = []
        for name, callbacks in (("plain", []), ("aligned", [add_on])):
            module = train_flow(tmp_path / f"{name}-{seed}", 400, seed, callbacks)
            best.append(probe_grid(module.denoiser, known, unseen, [0.05, 0.1], [1, 2, 3]).best)
        lifts.append(best[1].accuracy - best[0].accuracy)
    assert sum(lifts) / len(lifts) >= 0.02, lifts
