"""The eigen-image prior and the stacks built on it: sizes, symmetries, units, saving."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core.inverse import BicubicDownsampling
from diffusion_suite.core.seeding import generator, numpy_generator
from diffusion_suite.geo.restoration.eigen_denoising import (
    GUIDES,
    UNMEASURED,
    ClassicalStack,
    PriorStack,
    Stack,
)
from diffusion_suite.geo.restoration.eigen_prior import WEAKEST, EigenPrior
from diffusion_suite.geo.restoration.scenes import eigen_scene
from diffusion_suite.geo.restoration.symmetries import SYMMETRIES, turned

CHANNELS = 8
SCALES = torch.tensor([[20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.3, 0.2]])


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("eigen prior", *shape))


@pytest.fixture(scope="module")
def network() -> EigenPrior:
    """Tiny, with random weights everywhere, the last layers that start at zero included."""
    prior = EigenPrior(CHANNELS, (6, 8, 10), (1, 1, 1)).eval()
    source = generator("weights")
    with torch.no_grad():
        for weight in prior.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=source) / max(1, weight[0].numel()) ** 0.5)
    return prior.requires_grad_(False)


@pytest.fixture(scope="module")
def starter() -> EigenPrior:
    return EigenPrior.from_pretrained("starter").eval().requires_grad_(False)


def noisy_scene(size: int = 48, rank: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Clean stack, the same under unit noise, and the deviations (1, rank)."""
    images, relative = eigen_scene(numpy_generator(seed, "prior scene"), size, rank)
    scale = torch.from_numpy(np.maximum(10 * relative, WEAKEST))[None]
    clean = torch.from_numpy(images)[None] * scale[:, :, None, None]
    return clean, clean + draws(*clean.shape), scale


def level(value: float, rank: int) -> Tensor:
    return torch.full((1, rank, 1, 1), value)


def test_untrained_network_is_the_wiener_filter_of_white_channels():
    x, sigma = draws(2, CHANNELS, 9, 10), 0.7
    expected = SCALES**2 / (SCALES**2 + sigma**2)
    assert_close(EigenPrior(CHANNELS, (4, 4), (1, 1))(x, sigma, SCALES), expected[:, :, None, None] * x)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (5, 7), (16, 16), (37, 61)])
def test_any_size(network, size):
    x = draws(1, CHANNELS, *size)
    out = network(x, 1.0, SCALES)
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert_close(network(torch.cat([x, -x]), 1.0, SCALES)[:1], out)


def test_size_does_not_change_what_is_far_from_the_border(network):
    x = draws(1, CHANNELS, 96, 96)
    whole, part = network(x, 1.0, SCALES), network(x[..., :88, :84], 1.0, SCALES)
    assert_close(part[..., :40, :40], whole[..., :40, :40], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("unit", [1e-3, 250.0])
def test_unit_does_not_matter(network, unit, factor):
    x, sigma = draws(1, CHANNELS, 17, 12), draws(1, CHANNELS, 17, 12).exp()
    out = network(x, sigma, SCALES, factor)
    assert_close(
        network(unit * x, unit * sigma, unit * SCALES, factor), unit * out, rtol=1e-4, atol=1e-4 * unit
    )


def test_level_as_number_by_channel_or_as_map(network):
    x = draws(1, CHANNELS, 10, 8)
    out = network(x, 0.5, SCALES)
    assert_close(network(x, torch.full((1, CHANNELS), 0.5), SCALES), out)
    assert_close(network(x, torch.full((1, 1, 10, 8), 0.5), SCALES[0]), out)


def test_hopeless_noise_gives_nothing_and_no_noise_gives_the_input(network):
    x = draws(1, CHANNELS, 10, 8)
    assert network(0 * x, 1e4, SCALES).abs().max() < 2 * SCALES.max()
    assert_close(network(x, 1e-6, SCALES), x, atol=1e-4, rtol=0)


def test_saved_and_loaded(network, tmp_path):
    folder = network.save_pretrained(tmp_path / "prior")
    loaded = EigenPrior.from_pretrained(folder)
    x = draws(1, CHANNELS, 13, 8)
    assert torch.equal(loaded(x, 1.0, SCALES), network(x, 1.0, SCALES))
    assert loaded.config == network.config


@pytest.mark.parametrize("rank", [1, 3, CHANNELS])
def test_missing_channels_are_padded(network, rank):
    x = draws(1, rank, 12, 10)
    found = PriorStack(network)(x, level(0.8, rank), SCALES[:, :rank])
    padded, scale, sigma = (
        torch.zeros(1, CHANNELS, 12, 10),
        torch.full((1, CHANNELS), WEAKEST),
        level(1.0, CHANNELS),
    )
    padded[:, :rank], scale[:, :rank], sigma[:, :rank] = x, SCALES[:, :rank], 0.8
    assert_close(found, network(padded, sigma, scale)[:, :rank])


def test_channels_above_eight_go_in_groups_with_the_strongest(network):
    rank = 2 * CHANNELS + 1
    x, scale = draws(1, rank, 12, 10), torch.linspace(9, 0.2, rank)[None]
    found = PriorStack(network)(x, level(1.0, rank), scale)
    assert found.shape == x.shape
    assert_close(found[:, :CHANNELS], network(x[:, :CHANNELS], 1.0, scale[:, :CHANNELS]))
    second = [*range(GUIDES), *range(CHANNELS, 2 * CHANNELS - GUIDES)]
    expected = network(x[:, second], 1.0, scale[:, second])[:, GUIDES:]
    assert_close(found[:, CHANNELS : 2 * CHANNELS - GUIDES], expected)


@pytest.mark.parametrize("turn", range(SYMMETRIES))
def test_averaged_stack_turns_with_its_input(network, turn):
    x, sigma = draws(1, 5, 12, 9), draws(1, 5, 12, 9).exp()
    stack = PriorStack(network, SYMMETRIES)
    out = stack(x, sigma, SCALES[:, :5])
    assert_close(
        stack(turned(x, turn), turned(sigma, turn), SCALES[:, :5]), turned(out, turn), atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(out, PriorStack(network)(x, sigma, SCALES[:, :5]), atol=1e-3)


@pytest.mark.parametrize("make", [PriorStack, lambda _: ClassicalStack()], ids=["prior", "classical"])
def test_stacks_remove_noise(starter, make):
    errors = []
    for seed in range(2):
        clean, x, scale = noisy_scene(seed=seed)
        wiener = x * (scale**2 / (scale**2 + 1))[:, :, None, None]
        found = make(starter)(x, level(1.0, 5), scale)
        errors.append(((found - clean).square().mean() / (wiener - clean).square().mean()).item())
    assert max(errors) < 0.8, errors


def test_prior_beats_wavelets_and_gains_by_turns(starter):
    errors = []
    for seed in (0, 3, 4, 5):
        clean, x, scale = noisy_scene(seed=seed)
        stacks = (PriorStack(starter, SYMMETRIES), PriorStack(starter), ClassicalStack())
        errors.append([(stack(x, level(1.0, 5), scale) - clean).square().mean().item() for stack in stacks])
    averaged, single, classical = np.array(errors).T
    assert (averaged < single).all()
    assert single.sum() < 0.95 * classical.sum(), errors


@pytest.mark.parametrize("make", [PriorStack, lambda _: ClassicalStack()], ids=["prior", "classical"])
def test_pixels_that_were_not_measured_are_filled(starter, make):
    clean, x, scale = noisy_scene()
    sigma = level(1.0, 5).expand(x.shape).clone()
    sigma[..., 20:23, :] = 10 * UNMEASURED * float(scale.max())
    found = make(starter)(torch.where(sigma > 2, 0.0, x), sigma, scale)
    gap = (found - clean)[:, :1, 20:23]
    assert gap.square().mean() < 0.5 * clean[:, :1, 20:23].square().mean()


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("make", [PriorStack, lambda _: ClassicalStack()], ids=["prior", "classical"])
def test_enlarged_stack_agrees_with_the_small_one(starter, make, factor):
    rows, columns = 12, 16
    clean, _, scale = noisy_scene(48, 3)
    clean = clean[..., : rows * factor, : columns * factor]
    operator = BicubicDownsampling(factor, rows * factor, columns * factor, 3)
    small = operator.A(clean)
    stack: Stack = make(starter)
    found = stack.enlarge(small + draws(*small.shape), small, scale, factor)
    assert found.shape == clean.shape
    assert (operator.A(found) - small).square().mean().sqrt() < 1.0
    flat = small.mean((2, 3), keepdim=True)
    assert (found - clean).square().mean() < 0.7 * (flat - clean).square().mean()


def test_classical_stack_on_tiny_images_and_empty_channels():
    x = draws(1, 3, 5, 6)
    found = ClassicalStack()(x, level(1.0, 3), torch.tensor([[3.0, 1.0, WEAKEST]]))
    assert found.isfinite().all()
    assert (found[:, 2] == 0).all()
    assert found[:, :2].std() < x[:, :2].std()
