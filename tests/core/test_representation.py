"""Self-conditioning, anomaly maps, feedback to an encoder, label augmentation; a light import."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diffusion_suite.core import representation, seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation import (
    SelfConditioned,
    aggregated,
    anomaly_score,
    compensation_loss,
    denoising_map,
    feedback_loss,
    joint_labels,
    reconstruction_map,
    rotated,
    rotation_loss,
    segment_mask,
)
from diffusion_suite.core.schedulers import Denoiser, Mixture, RectifiedFlow, even_times
from diffusion_suite.core.testing.tiny import TinyTransformer


def values(*shape):
    return torch.randn(shape, generator=seeding.generator("representation", *shape))


def test_import_is_light_and_every_name_is_there():
    code = (
        "import sys, diffusion_suite.core.representation as r; assert 'torch' not in sys.modules; r.extract"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert all(hasattr(representation, name) for name in representation.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        representation.nothing  # noqa: B018


def tiny():
    with seeding.seeded("self"):
        network = TinyTransformer(width=16, depth=3, heads=2)
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2)
    return network


def test_self_conditioning_starts_as_the_network_and_changes_later_blocks_only():
    network, x, t = tiny(), values(2, 1, 8, 8), torch.rand(2, generator=seeding.generator("t"))
    plain = network(x, t)
    conditioned = SelfConditioned(network, 0, 16, 16)
    assert_close(conditioned(x, t), plain)
    seen = {}
    for index, block in enumerate(network.blocks):
        block.register_forward_hook(lambda _m, i, _o, index=index: seen.update({index: i[1]}))
    nn.init.normal_(conditioned.map.weight)
    changed = conditioned(x, t, label=torch.tensor([1, 2]))
    assert not torch.allclose(seen[0], seen[1])
    assert_close(seen[1], seen[0] + conditioned.map(conditioned.bottleneck))
    assert_close(seen[2], seen[1])
    changed.sum().backward()
    assert conditioned.map.weight.grad.abs().sum() > 0
    twin = copy.deepcopy(conditioned)
    with torch.no_grad():
        nn.init.zeros_(twin.map.weight)
        assert_close(twin(x, t), plain)
        assert not torch.allclose(conditioned(x, t), plain)
    with pytest.raises(ConfigError, match="no block comes after"):
        SelfConditioned(network, -1, 16, 16)


def test_self_conditioning_of_named_conditions_on_maps():
    class Block(nn.Module):
        def forward(self, x, temb):
            return x + temb[:, :, None, None]

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x, temb):
            for block in self.blocks:
                x = block(x, temb=temb)
            return x

    made = SelfConditioned(Network(), 0, 3, 3, argument="temb")
    nn.init.eye_(made.map.weight)
    x, temb = values(2, 3, 4, 6), values(2, 3)
    hidden = x + temb[:, :, None, None]
    assert_close(made(x, temb), hidden + (temb + hidden.mean((2, 3)))[:, :, None, None])


def normal():
    return Mixture(torch.ones(1), torch.zeros(1, 32), 0.1 * torch.eye(32)[None]).denoiser(RectifiedFlow())


def test_strange_items_score_higher():
    x0 = values(6, 2, 4, 4) * 0.1**0.5
    x0[5, :, 1:3, 1:3] += 2.0
    noise = [seeding.generator("anomaly", item) for item in range(6)]
    errors = denoising_map(normal(), x0, [0.1, 0.2], noise=noise, draws=4)
    assert errors.shape == x0.shape
    scores = anomaly_score(errors, share=0.25, smooth=3)
    assert scores.argmax() == 5
    assert errors[5, :, 1:3, 1:3].mean() > 3 * errors[5, :, 0].mean()
    again = denoising_map(normal(), x0[5:], [0.1, 0.2], noise=[seeding.generator("anomaly", 5)], draws=4)
    assert_close(again, errors[5:], rtol=0, atol=1e-5)


def test_reconstruction_takes_the_strange_part_away():
    x0 = values(3, 2, 4, 4) * 0.1**0.5
    x0[2, 0, 0, 0] = 4.0
    times = even_times(10, 0.5)
    noise = [seeding.generator("reconstruction", item) for item in range(3)]
    errors = reconstruction_map(normal(), x0, times, noise=noise)
    assert errors[2].flatten().argmax() == 0
    assert errors[2, 0, 0, 0] > 1.0
    assert reconstruction_map(normal(), x0, even_times(1, 1e-3), noise=torch.zeros_like(x0)).max() < 1e-2
    with pytest.raises(ConfigError, match="make no step"):
        reconstruction_map(normal(), x0, [0.5], noise=noise)


def test_score_of_a_map():
    errors = torch.arange(16.0).view(1, 1, 4, 4)
    assert_close(anomaly_score(errors), torch.tensor([7.5]))
    assert_close(anomaly_score(errors, share=0.1), torch.tensor([14.5]))
    assert_close(anomaly_score(torch.ones(2, 3, 5, 7), smooth=3), torch.ones(2))
    for options in ({"share": 0.0}, {"smooth": 2}):
        with pytest.raises(ConfigError, match="odd"):
            anomaly_score(errors, **options)


def test_feedback_has_the_analytic_gradient_for_a_linear_encoder_and_denoiser():
    draw = seeding.generator("feedback")
    x, eps = (torch.randn(5, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    matrix = torch.randn(3, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    project = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    gain = torch.randn(4, 4, generator=draw, dtype=torch.float64)

    def model(x_t, t, text):
        return x_t @ gain.T + text

    loss = feedback_loss(
        Denoiser(model, RectifiedFlow(), "x0"),
        lambda x: x @ matrix.T,
        lambda features: features @ project.T,
        x,
        0.3,
        noise=eps,
        name="text",
    )
    away = (0.7 * x + 0.3 * eps) @ gain.T + x @ matrix.T @ project.T - x
    assert_close(loss, away.square().mean())
    wanted = 2 / away.numel() * project.T @ away.T @ x
    assert_close(torch.autograd.grad(loss, matrix)[0], wanted, rtol=0, atol=1e-12)


def test_label_augmentation():
    pictures, labels = values(2, 1, 4, 4), torch.tensor([2, 0])
    turned = rotated(pictures)
    assert turned.shape == (8, 1, 4, 4)
    assert torch.equal(turned[2:4], pictures.rot90(1, (-2, -1)))
    assert joint_labels(labels).tolist() == [8, 0, 9, 1, 10, 2, 11, 3]
    logits = torch.zeros(8, 12)
    logits[torch.arange(8), joint_labels(labels)] = 3.0
    assert torch.equal(aggregated(logits), 3 * nn.functional.one_hot(labels, 3).float())
    plain = torch.zeros(2, 3)
    cross = nn.functional.cross_entropy
    alone = cross(logits, joint_labels(labels)) + cross(plain, labels)
    assert_close(rotation_loss(logits, plain, labels, distilled=0.0), alone)
    same = aggregated(logits)
    assert_close(
        rotation_loss(logits, same, labels), cross(logits, joint_labels(labels)) + cross(same, labels)
    )
    assert rotation_loss(logits, plain, labels) > alone
    with pytest.raises(ValueError, match="not square"):
        rotated(values(1, 1, 4, 6))


def test_segments_are_shown_up_to_their_time():
    mask = segment_mask(torch.tensor([0.0, 0.3, 1.0]), 8, 4)
    assert mask.sum(1).tolist() == [2, 4, 8]
    assert mask[1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert segment_mask(torch.tensor([999.0]), 4, 2, 1000.0).sum() == 4
    with pytest.raises(ConfigError, match="no 3 equal segments"):
        segment_mask(torch.zeros(1), 8, 3)


def test_compensation_of_what_the_denoiser_loses():
    x0, eps = values(4, 32) * 0.1**0.5, values(4, 32).flip(0)
    t = torch.tensor([0.1, 0.3, 0.6, 0.9])
    lost = x0 - normal().x0(RectifiedFlow().add_noise(x0, eps, t), t)
    options = {"noise": eps, "segments": 4}
    found = compensation_loss(normal(), lambda x: lost, lambda _x, _t, z: z, x0, t, **options)
    hidden = 1 - segment_mask(t, 32, 4)
    assert_close(found, (hidden * lost).square().mean())
