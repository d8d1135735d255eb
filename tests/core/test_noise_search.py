"""Search, refinement and storage of start noises."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import CheckpointError, ConfigError, InputError
from diffusion_suite.core.inverse import (
    fit_noise,
    load_noise,
    mean_squared_error,
    refine_noise,
    save_noise,
    search_noise,
)


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("search", *shape))


B, C = draws(5, 4), draws(5, 3)
CONDITIONS = [draws(3), draws(3, 1)[:, 0], draws(1, 3)[0]]
PAIRS = [(y, draws(1, 5) + index) for index, y in enumerate(CONDITIONS)]


def linear(z: Tensor, y: Tensor) -> Tensor:
    return z @ B.T + C @ y


def quadratic(noises: Tensor) -> Tensor:
    scores = [sum(((B @ z + C @ y - x[0]) ** 2).mean() for y, x in PAIRS) / len(PAIRS) for z in noises]
    return torch.stack([torch.as_tensor(score) for score in scores])


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_winner_of_a_linear_sampler_is_found(batch: int) -> None:
    candidates = draws(40, 4)
    expected = quadratic(candidates)
    found = search_noise(linear, PAIRS, candidates, batch=batch)
    assert found.index == int(expected.argmin())
    assert_close(found.distances, expected)
    assert torch.equal(found.noise, candidates[found.index : found.index + 1])


def test_candidates_are_keyed_one_by_one() -> None:
    few, many = (search_noise(linear, PAIRS, count, shape=(4,), seed=3) for count in (5, 20))
    assert_close(few.distances, many.distances[:5])
    assert float(many.distances.min()) <= float(few.distances.min())
    with pytest.raises(ConfigError, match="no reference pairs"):
        search_noise(linear, [])
    with pytest.raises(ConfigError, match="0 candidates"):
        search_noise(linear, PAIRS, 0)


def test_another_distance_may_win_another_noise() -> None:
    found = search_noise(linear, PAIRS, draws(40, 4), distance=lambda a, b: -mean_squared_error(a, b))
    assert found.index == int(quadratic(draws(40, 4)).argmax())


def test_refinement_moves_the_mean_towards_better_noise() -> None:
    start = torch.zeros(1, 4)
    refined = refine_noise(linear, PAIRS, start, rounds=40)
    best = torch.linalg.lstsq(
        torch.cat([B] * 3), torch.cat([x[0] - C @ y for y, x in PAIRS])[:, None]
    ).solution.T
    assert torch.equal(refined, refine_noise(linear, PAIRS, start, rounds=40))
    floor = float(quadratic(best)[0])
    assert float(quadratic(refined)[0]) - floor < 0.5 * (float(quadratic(start)[0]) - floor)
    with pytest.raises(ConfigError, match="0 rounds"):
        refine_noise(linear, PAIRS, start, rounds=0)


def test_a_noise_is_kept_in_a_file(tmp_path: Path) -> None:
    noise = draws(1, 3, 4, 4)
    save_noise(noise, tmp_path / "noise.safetensors")
    assert torch.equal(load_noise(tmp_path / "noise.safetensors"), noise)
    (tmp_path / "other").write_text("no noise")
    for name in ("other", "missing"):
        with pytest.raises(CheckpointError, match="holds no start noise"):
            load_noise(tmp_path / name)


def test_a_noise_is_cropped_and_tiled_to_other_sizes() -> None:
    noise = draws(1, 3, 4, 6)
    fitted = fit_noise(noise, (3, 7, 5))
    assert fitted.shape == (1, 3, 7, 5)
    assert torch.equal(fitted[:, :, :4], noise[..., :5])
    assert torch.equal(fitted[:, :, 4:], noise[:, :, :3, :5])
    for shape in ((2, 4, 6), (4, 6)):
        with pytest.raises(InputError, match="does not fit"):
            fit_noise(noise, shape)
