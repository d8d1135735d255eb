"""Features at (layer, time): what hooks read, on which state, pooled how; hooks are always taken off."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation import (
    Fusion,
    blocks_of,
    extract,
    extract_from,
    extract_inverted,
    pool,
    reading,
    resize_tokens,
)
from diffusion_suite.core.representation.pooling import token_grid
from diffusion_suite.core.schedulers import Denoiser, DiscreteVP, Mixture, RectifiedFlow, betas, invert
from diffusion_suite.core.testing.tiny import TinyTransformer


def tiny():
    with seeding.seeded("features"):
        network = TinyTransformer(width=16, depth=3, heads=2)
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2)
    return network.eval()


def data(*shape):
    return torch.randn(shape, generator=seeding.generator("data"))


def hooks_left(network):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in network.modules())


def test_features_are_the_outputs_of_the_layers_at_the_noised_state():
    network, x0, eps = tiny(), data(2, 1, 8, 12), data(2, 2, 1, 8, 12)
    denoiser = Denoiser(network, RectifiedFlow(), "velocity")
    found = extract(denoiser, x0, [0.1, 0.4], [1, "norm"], noise=eps, pooling="none")
    assert list(found) == [("blocks.1", 0.1), ("norm", 0.1), ("blocks.1", 0.4), ("norm", 0.4)]
    seen = []
    handle = network.blocks[1].register_forward_hook(lambda _m, _i, out: seen.append(out))
    network(0.6 * x0 + 0.4 * eps[1], torch.full((2,), 0.4))
    handle.remove()
    assert_close(found["blocks.1", 0.4], seen[0])
    assert found["blocks.1", 0.4].shape == (2, 24, 16)
    assert hooks_left(network) == 0


def test_draws_are_averaged_and_the_items_are_their_own():
    network, x0 = tiny(), data(3, 1, 8, 8)
    denoiser = Denoiser(network, RectifiedFlow(), "velocity")
    noise = data(4, 3, 1, 8, 8)
    both = extract(denoiser, x0, [0.2, 0.5], [-1], noise=noise, draws=2)
    single = [extract(denoiser, x0, 0.5, [-1], noise=noise[k : k + 1])["blocks.2", 0.5] for k in (2, 3)]
    assert_close(both["blocks.2", 0.5], (single[0] + single[1]) / 2)
    batch = extract(
        denoiser, x0, 0.2, [0], noise=[seeding.generator(0, item) for item in range(3)], label=torch.arange(3)
    )
    alone = extract(denoiser, x0[2:], 0.2, [0], noise=[seeding.generator(0, 2)], label=torch.tensor([2]))
    assert_close(batch["blocks.0", 0.2][2:], alone["blocks.0", 0.2], rtol=0, atol=1e-5)


def test_pooling():
    tokens, like = data(2, 24, 5), torch.zeros(2, 1, 8, 12)
    maps = pool(tokens, "map", like)
    assert maps.shape == (2, 5, 4, 6)
    assert torch.equal(maps[:, :, 1, 2], tokens[:, 8])
    assert_close(pool(maps, "mean", like), pool(tokens, "mean", like))
    assert torch.equal(pool(maps, "tokens", like), tokens)
    assert_close(pool(tokens, 2, like)[:, :, 0, 1], maps[:, :, :2, 3:].mean((2, 3)))
    assert pool(tokens[:, 0], "mean", like) is not None
    with pytest.raises(ConfigError, match="no grid"):
        pool(tokens[:, :23], "map", like)
    with pytest.raises(ConfigError, match="unknown pooling"):
        pool(tokens[:, :23], "max", like)


@pytest.mark.parametrize(
    ("count", "sides", "grid"),
    [
        (16, (8, 8), (4, 4)),
        (24, (8, 12), (4, 6)),
        (35, (9, 13), (5, 7)),
        (1, (8, 8), (1, 1)),
        (6, (20, 30), (2, 3)),
        (256, (8, 8), (16, 16)),
    ],
)
def test_grids_of_tokens(count, sides, grid):
    assert token_grid(count, *sides) == grid


def test_tokens_between_grids():
    tokens = data(2, 24, 3)
    assert resize_tokens(tokens, (4, 6), (4, 6)) is tokens
    halved = resize_tokens(tokens, (4, 6), (2, 3))
    assert_close(halved[:, 0], tokens[:, [0, 1, 6, 7]].mean(1))
    constant = torch.ones(1, 6, 3)
    assert_close(resize_tokens(constant, (2, 3), (5, 7)), torch.ones(1, 35, 3))
    with pytest.raises(ValueError, match="grid of 3 x 3"):
        resize_tokens(tokens, (3, 3), (2, 2))


def test_inverted_features_are_those_of_the_inverted_states():
    path = DiscreteVP(betas("linear", 100))
    mixture = Mixture(torch.ones(1), torch.ones(1, 8), 0.5 * torch.eye(8)[None])
    exact = mixture.denoiser(path, "eps")

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x_t, t):
            return exact.model(self.inner(x_t), t)

    denoiser = Denoiser(Network(), path, "eps")
    x0, grid = data(3, 8), [60, 40, 20, 0, -1]
    found = extract_inverted(denoiser, x0, [-1, 20, 60], ["inner"], grid=grid, pooling="none")
    assert_close(found["inner", 60], invert(exact, x0, grid, exact=False))
    assert_close(found["inner", 20], invert(exact, x0, grid[2:], exact=False))
    assert_close(found["inner", -1], x0)
    with pytest.raises(ConfigError, match=r"\[30\] are not on the grid"):
        extract_inverted(denoiser, x0, [30], ["inner"], grid=grid)


def test_hooks_go_when_a_pass_fails():
    network = tiny()
    with pytest.raises(RuntimeError, match="stop"), reading(network, [0, 2]):
        raise RuntimeError("stop")
    assert hooks_left(network) == 0
    denoiser = Denoiser(network, RectifiedFlow(), "velocity")
    with pytest.raises(ValueError, match="divisible"):
        extract(denoiser, data(1, 1, 7, 8), 0.1, [0], noise=data(1, 1, 1, 7, 8))
    assert hooks_left(network) == 0


def test_bad_layers_are_one_line():
    denoiser = Denoiser(tiny(), RectifiedFlow(), "velocity")
    x0 = data(1, 1, 8, 8)
    with pytest.raises(ConfigError, match="has 3 blocks"):
        extract(denoiser, x0, 0.1, [3], noise=x0[None])
    with pytest.raises(ConfigError, match=r"no layer 'block\.0'"):
        extract(denoiser, x0, 0.1, ["block.0"], noise=x0[None])
    with pytest.raises(ConfigError, match="'guidance' is not passed"):
        extract(denoiser, x0, 0.1, ["guidance"], noise=x0[None])
    with pytest.raises(ConfigError, match="is no module"):
        extract_from(Denoiser(lambda x, t: x, RectifiedFlow(), "x0"), [(0.1, x0)], [0])
    with pytest.raises(ConfigError, match="no list of blocks"):
        blocks_of(nn.Linear(1, 1))


def test_gradients_flow_to_the_data_where_they_are_wanted():
    denoiser = Denoiser(tiny(), RectifiedFlow(), "velocity")
    x0 = data(1, 1, 8, 8).requires_grad_()
    found = extract(denoiser, x0, 0.1, [1], noise=data(1, 1, 1, 8, 8))["blocks.1", 0.1]
    found.sum().backward()
    assert x0.grad.abs().sum() > 0
    with torch.no_grad():
        assert not extract(denoiser, x0, 0.1, [1], noise=data(1, 1, 1, 8, 8))["blocks.1", 0.1].requires_grad


def test_features_of_a_diffusers_unet():
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=None,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    assert list(blocks_of(network)) == [
        "down_blocks.0",
        "down_blocks.1",
        "mid_block",
        "up_blocks.0",
        "up_blocks.1",
    ]
    denoiser = Denoiser(
        lambda x, t, **cond: network(x, t, **cond).sample, DiscreteVP(betas("linear", 100)), "eps"
    )
    x0 = data(2, 1, 8, 16)
    found = extract(denoiser, x0, 5, [0, "mid_block", -1], noise=x0[None], pooling=2, network=network)
    assert [values.shape for values in found.values()] == [(2, 8, 2, 2), (2, 16, 2, 2), (2, 8, 2, 2)]
    assert hooks_left(network) == 0


@pytest.mark.parametrize("kind", ["global", "local", "experts"])
def test_fusion(kind):
    with seeding.seeded("fusion"):
        fusion = Fusion([[3, 5], [7]], width=8, kind=kind)
    maps = [[data(2, 3, 4, 6), data(2, 5, 4, 6)], [data(2, 7, 2, 3)]]
    fused = fusion(maps)
    assert [part.shape for part in fused] == [(2, 8, 4, 6), (2, 8, 2, 3)]
    alone = fusion([[part[1:] for part in scale] for scale in maps])
    assert_close(alone[0], fused[0][1:], rtol=0, atol=1e-5)
    torch.stack([part.square().sum() for part in fused]).sum().backward()
    assert all(weight.grad is not None for weight in fusion.parameters())


def test_fusion_weights_are_a_mean_at_the_start():
    fusion = Fusion([[3, 3]], width=8)
    maps = [data(1, 3, 2, 2), data(1, 3, 2, 2)]
    both = [block(part) for block, part in zip(fusion.bottlenecks[0], maps, strict=True)]
    assert_close(fusion([maps])[0], (both[0] + both[1]) / 2)
    with pytest.raises(ConfigError, match="unknown fusion"):
        Fusion([[3]], kind="sum")
    with pytest.raises(ConfigError, match="no maps"):
        Fusion([[3], []])
