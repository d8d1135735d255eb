"""VS2M: the merged networks against a loop over ranks, sizes, padding, seeds, published weights."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import CheckpointError, ConfigError
from diffusion_suite.geo.restoration.levels import PUBLISHED_LEVELS, Levels, levels_for
from diffusion_suite.geo.restoration.network import VS2M, SpatialNetworks, mirrored
from diffusion_suite.geo.restoration.published import from_published, published_names, to_published

TINY = Levels((6, 8), (6, 8), (0, 4), (5, 3), (3, 3))
ATTENTIVE = Levels((4, 6, 8), (4, 12, 8), (4, 0, 2), (5, 3, 3), (3, 3, 3))


def one_rank(
    weights: Mapping[str, Tensor], levels: Levels, x: Tensor, place: str = "", level: int = 0
) -> Tensor:
    """The published network of one rank, written as it is nested, from published weights."""

    def convolve(name: str, x: Tensor) -> Tensor:
        margin = weights[name + ".weight"].shape[-1] // 2
        x = functional.pad(x, (margin,) * 4, mode="reflect") if margin else x
        return functional.conv2d(x, weights[name + ".weight"], weights[name + ".bias"])

    def normalise(name: str, x: Tensor) -> Tensor:
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        scale, shift = (weights[f"{name}.{part}"][None, :, None, None] for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def activate(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    deep = place + ("1.1." if levels.skip[level] else "1.")
    d = activate(normalise(deep + "2", functional.avg_pool2d(convolve(deep + "1.1", x), 2)))
    d = activate(normalise(deep + "5", convolve(deep + "4.1", d)))
    if level + 1 < len(levels):
        d = one_rank(weights, levels, d, deep + "7.", level + 1)
    d = functional.interpolate(d, scale_factor=2, mode="bilinear", align_corners=False)
    if levels.skip[level]:
        g = activate(normalise(place + "1.0.2", convolve(place + "1.0.1.1", x)))
        rows, columns = min(d.shape[2], g.shape[2]), min(d.shape[3], g.shape[3])
        cut = []
        for part in (g, d):
            top, left = (part.shape[2] - rows) // 2, (part.shape[3] - columns) // 2
            cut.append(part[:, :, top : top + rows, left : left + columns])
        d = torch.cat(cut, 1)
    d = normalise(place + "2", d)
    offset = 1 if levels.attends(level) else 0
    if offset:
        first, second = weights[place + "3.ca.se.0.weight"], weights[place + "3.ca.se.2.weight"]
        pooled = (functional.adaptive_max_pool2d(d, 1), functional.adaptive_avg_pool2d(d, 1))
        channel = sum(functional.conv2d(functional.conv2d(p, first).relu(), second) for p in pooled)
        o = d * torch.sigmoid(channel)
        summary = torch.cat([o.max(1, keepdim=True).values, o.mean(1, keepdim=True)], 1)
        kernel, bias = weights[place + "3.sa.conv.weight"], weights[place + "3.sa.conv.bias"]
        d = o * torch.sigmoid(functional.conv2d(summary, kernel, bias, padding=24)) + d
    d = activate(normalise(f"{place}{4 + offset}", convolve(f"{place}{3 + offset}.1", d)))
    d = activate(normalise(f"{place}{7 + offset}", convolve(f"{place}{6 + offset}.1", d)))
    return convolve(f"{9 + offset}.1", d) if level == 0 else d


def spectrum_of_one_rank(weights: Mapping[str, Tensor], z: Tensor) -> Tensor:
    last = max(int(name.split(".")[0]) for name in weights)
    for index in range(1, last + 1, 2):
        z = weights[f"{index}.weight"] @ z + weights[f"{index}.bias"]
        if index < last:
            z = z.clamp(0, 6) if index == 1 else z.clamp(min=0)
    return z


def of_rank(state: Mapping[str, Tensor], kind: str, rank: int) -> dict[str, Tensor]:
    prefix = f"{kind}.{rank}."
    return {
        key.removeprefix(prefix): value.detach() for key, value in state.items() if key.startswith(prefix)
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("levels", [TINY, ATTENTIVE], ids=["tiny", "attentive"])
def test_merged_networks_equal_a_loop_over_ranks(levels: Levels, dtype: torch.dtype) -> None:
    network = VS2M(3, 16, 24, 5, levels=levels, hidden=(7, 9)).to(dtype)
    state = to_published(dict(network.named_parameters()), levels)
    expected = torch.zeros(24, 16, 5, dtype=dtype)
    for rank in range(3):
        image = one_rank(of_rank(state, "image_net", rank), levels, network.plane)
        expected += image[0, 0][:, :, None] * spectrum_of_one_rank(
            of_rank(state, "mask_net", rank), network.spectrum
        )
    bound = 1e-12 if dtype == torch.float64 else 2e-5
    assert_close(network().detach(), expected.permute(2, 1, 0), rtol=0, atol=bound)


def test_sides_that_do_not_divide_are_cut_at_the_centre_as_published() -> None:
    levels = Levels((6, 8), (6, 8), (4, 4), (5, 3), (3, 3))
    network = SpatialNetworks(2, levels, seeding.generator("odd")).double()
    noise = torch.rand(1, 1, 21, 19, generator=seeding.generator("odd", "input"), dtype=torch.float64)
    names = published_names(levels, 0, 1)
    weights = {names["spatial." + name].split(".", 2)[2]: p[1] for name, p in network.named_parameters()}
    assert_close(network(noise)[1], one_rank(weights, levels, noise)[0, 0], rtol=0, atol=1e-12)


def test_published_size() -> None:
    network = VS2M(1, 128, 128, 32)
    assert network.levels is PUBLISHED_LEVELS
    assert sum(p.numel() for p in network.spatial.parameters()) == 2_586_615
    assert sum(p.numel() for p in network.spectral.parameters()) == 140_064


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (8, 16), (17, 33), (40, 70)])
def test_any_rectangle(size: tuple[int, int]) -> None:
    network = VS2M(2, *size, bands=3, hidden=(8,))
    cube = network()
    assert cube.shape == (3, *size)
    cube.square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in network.parameters())


def test_levels_fit_the_image() -> None:
    for side, count in ((4, 2), (8, 2), (15, 2), (16, 3), (32, 4), (64, 5), (127, 5), (128, 6), (1000, 6)):
        levels = levels_for(side, 2 * side)
        assert len(levels) == count
        valid = levels.valid_side(side)
        assert valid % 2**count == 0
        assert valid >= 2 ** (count + 1)
        assert valid - side < 2**count or side < 8
        attended = [i for i in range(count) if levels.attends(i)]
        assert all(levels.skip[i] + levels.up[i + 1] == 132 for i in attended)


def test_the_plane_is_mirrored() -> None:
    assert mirrored(4, 8).tolist() == [2, 1, 0, 1, 2, 3, 2, 1]
    assert mirrored(2, 7).tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert mirrored(1, 3).tolist() == [0, 0, 0]
    plane = torch.rand(10, 9, generator=seeding.generator("plane"))
    network = VS2M(1, 9, 10, 2, levels=TINY, plane=plane, hidden=(4,))
    assert network.plane.shape == (1, 1, 12, 12)
    assert torch.equal(network.plane[0, 0, 1:11, 1:10], plane)


def test_a_padded_image_is_the_cut_of_the_padded_plane() -> None:
    network = VS2M(2, 9, 10, 2, levels=TINY, hidden=(4,))
    full = network.spatial(network.plane)
    images, _ = network.factors()
    assert torch.equal(images, full[:, 1:11, 1:10].transpose(1, 2))


def test_seeds_decide_everything_and_nothing_else_does() -> None:
    def cube(seed: int) -> Tensor:
        return VS2M(2, 8, 8, 3, seed=seed, hidden=(4,))().detach()

    first, before = cube(1), torch.random.get_rng_state()
    torch.rand(3)
    assert torch.equal(cube(1), first)
    assert not torch.equal(cube(2), first)
    torch.random.set_rng_state(before)
    cube(3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_initial_weights_are_the_framework_s_own() -> None:
    network = SpatialNetworks(2, Levels((64,), (64,), (0,), (3,), (3,)), seeding.generator("spread"))
    level = network.levels[0]
    for parameter, fan_in in ((level.second.weight, 576), (level.second.bias, 576), (level.down.weight, 9)):
        bound = fan_in**-0.5
        assert bool((parameter.abs() <= bound).all())
        assert_close(float(parameter.detach().std()), bound / 3**0.5, rtol=0.1, atol=0)
    assert bool((level.down_norm.weight == 1).all())
    assert bool((level.down_norm.bias == 0).all())


@pytest.mark.parametrize(
    "levels", [TINY, ATTENTIVE, PUBLISHED_LEVELS], ids=["tiny", "attentive", "published"]
)
def test_published_weights_there_and_back(levels: Levels) -> None:
    network = VS2M(2, 8, 8, 3, levels=levels, hidden=(5, 4))
    parameters = dict(network.named_parameters())
    state = to_published(parameters, levels)
    state["image_net.0.1.2.running_mean"] = torch.zeros(3)
    merged = from_published(state, parameters, levels)
    assert merged.keys() == parameters.keys()
    assert all(torch.equal(merged[name], parameters[name]) for name in parameters)


def test_other_weights_are_refused_by_name() -> None:
    parameters = dict(VS2M(2, 8, 8, 3, levels=TINY, hidden=(5,)).named_parameters())
    state = to_published(parameters, TINY)
    short = {key: value for key, value in state.items() if key != "mask_net.1.3.bias"}
    with pytest.raises(CheckpointError, match=r"missing mask_net\.1\.3\.bias, unexpected nothing"):
        from_published(short, parameters, TINY)
    with pytest.raises(CheckpointError, match=r"unexpected image_net\.7\.x"):
        from_published(state | {"image_net.7.x": torch.zeros(1)}, parameters, TINY)
    with pytest.raises(CheckpointError, match=r"image_net\.0\.9\.1\.bias has shape"):
        from_published(state | {"image_net.0.9.1.bias": torch.zeros(2)}, parameters, TINY)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rank": 0},
        {"bands": 0},
        {"plane": torch.zeros(8, 9)},
        {"spectrum": torch.zeros(4)},
    ],
)
def test_bad_sizes_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        VS2M(**({"rank": 1, "height": 8, "width": 8, "bands": 3} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [((4,), (4,), (0,), (4,), (3,)), ((4, 4), (4,), (0,), (3,), (3,))])
def test_bad_levels_are_refused(sizes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ConfigError):
        Levels(*sizes)
