"""Heads on features: closed forms, separable data, what is refused, and the grid of layers and times."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.representation import (
    AttentiveHead,
    accuracy,
    fit_attentive,
    fit_linear,
    fit_pixels,
    nearest,
    probe_grid,
)
from diffusion_suite.core.schedulers import Denoiser, RectifiedFlow


def clusters(count, seed, width=6, classes=3):
    draw = seeding.generator(seed)
    labels = torch.randint(classes, (count,), generator=draw)
    centres = 3 * torch.randn(classes, width, generator=seeding.generator("centres"))
    return centres[labels] + torch.randn(count, width, generator=draw), labels


@pytest.mark.parametrize("optimizer", ["lbfgs", "adamw"])
def test_linear_head_separates_clusters_of_any_scale(optimizer):
    features, labels = clusters(300, "train")
    unseen, answers = clusters(200, "test")
    scale = torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 1.0])
    head = fit_linear(features * scale + 50, labels, optimizer=optimizer, steps=40)
    assert accuracy(head(unseen * scale + 50), answers) > 0.97


def test_linear_head_is_at_the_optimum():
    features, labels = clusters(200, "train", classes=2)
    head = fit_linear(features, labels, weight_decay=0.1, steps=500)
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    share = torch.softmax(standard @ head.linear.weight.T + head.linear.bias, 1)
    wrong = share - nn.functional.one_hot(labels, 2)
    assert_close(wrong.T @ standard / 200, -0.1 * head.linear.weight, rtol=0, atol=2e-4)
    assert_close(wrong.mean(0), torch.zeros(2), rtol=0, atol=2e-4)


def test_constant_features_do_no_harm():
    features, labels = clusters(100, "train")
    head = fit_linear(torch.cat([features, torch.full((100, 1), 7.0)], 1), labels)
    assert torch.isfinite(head(torch.cat([features, torch.full((100, 1), 9.0)], 1))).all()


def test_attentive_head_finds_the_token_that_tells():
    def tokens(seed):
        vectors, labels = clusters(240, seed)
        draw = seeding.generator(seed, "places")
        found = torch.randn(240, 5, 8, generator=draw)
        found[..., 6:] = 0.0
        place = torch.randint(5, (240,), generator=draw)
        found[torch.arange(240), place, :6] = 2 * vectors
        found[torch.arange(240), place, 6] = 4.0
        return found, labels

    head = fit_attentive(*tokens("train"), heads=2)
    unseen, answers = tokens("test")
    assert accuracy(head(unseen), answers) > 0.9
    assert head(unseen[:1]).shape == (1, 3)
    assert isinstance(head, AttentiveHead)


def test_pixel_head():
    labels = torch.randint(2, (4, 6, 10), generator=seeding.generator("pixels"))
    labels = labels[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2)
    maps = torch.stack([labels[:, ::2, ::2] * 2.0 - 1, torch.zeros(4, 3, 5)], 1)
    head = fit_pixels(maps, torch.where(labels == 0, 0, 1))
    assert head(maps).shape == (4, 2, 3, 5)
    assert accuracy(head(maps), labels[:, ::2, ::2]) == 1.0
    assert head(maps, (6, 10)).shape == (4, 2, 6, 10)
    masked = labels.clone()
    masked[0] = -1
    assert fit_pixels(maps, masked).linear.weight.isfinite().all()


def test_nearest_votes_have_their_closed_form():
    features = torch.eye(3)
    labels = torch.tensor([0, 1, 1])
    query = torch.tensor([[2.0, 1.0, 0.0]])
    cosines = [2 / math.sqrt(5), 1 / math.sqrt(5)]
    weights = torch.softmax(torch.tensor(cosines) / 0.07, 0)
    assert_close(nearest(features, labels, query, k=2), weights[None])
    assert_close(nearest(features, labels, query, k=20).sum(1), torch.ones(1))


def test_features_that_cannot_be_used_are_refused():
    features, labels = clusters(20, "train")
    with pytest.raises(InputError, match="20 features and 19 labels"):
        fit_linear(features, labels[:19])
    features[3, 1] = float("nan")
    with pytest.raises(InputError, match="not all finite"):
        nearest(features, labels, features)


class Telling(nn.Module):
    """One layer shows the data, the other nothing."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity(), nn.Identity()])

    def forward(self, x_t, t):
        self.blocks[0](x_t)
        self.blocks[1](torch.zeros_like(x_t))
        return x_t


@pytest.mark.parametrize("head", ["linear", "knn", "attentive"])
def test_grid_tells_where_the_classes_show(head):
    (features, labels), (unseen, answers) = clusters(150, "train", 8), clusters(90, "test", 8)
    shape = (-1, 1, 8) if head == "attentive" else (-1, 8)
    denoiser = Denoiser(Telling(), RectifiedFlow(), "x0")
    table = probe_grid(
        denoiser,
        (features.reshape(shape), labels),
        (unseen.reshape(shape), answers),
        [0.05, 0.9],
        [0, 1],
        head=head,
        batch_size=64,
    )
    scores = {(score.layer, score.t): score.accuracy for score in table}
    assert table.best.layer == "blocks.0"
    assert table.best.t == 0.05
    assert scores["blocks.0", 0.05] > 0.95
    assert scores["blocks.0", 0.9] < scores["blocks.0", 0.05]
    assert scores["blocks.1", 0.05] < 0.5
    lines = str(table).splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["0.05", "0.9"]


def test_grid_does_not_hang_on_the_batches():
    known, unseen = clusters(60, "train"), clusters(30, "test")
    denoiser = Denoiser(Telling(), RectifiedFlow(), "x0")
    tables = [probe_grid(denoiser, known, unseen, [0.5], [0], batch_size=size, draws=2) for size in (7, 60)]
    assert tables[0].best.accuracy == tables[1].best.accuracy
    with pytest.raises(ConfigError, match="unknown head"):
        probe_grid(denoiser, known, unseen, [0.5], [0], head="mlp")
