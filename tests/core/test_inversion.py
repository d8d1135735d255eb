"""Exact inversion and the DPM-Encoder give the data back."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    Denoiser,
    DiscreteVP,
    LinearVP,
    Mixture,
    Path,
    RectifiedFlow,
    Step,
    Trigonometric,
    betas,
    ddim,
    dpm_decode,
    dpm_encode,
    even_times,
    index_times,
    invert,
    karras_times,
    standard_normal,
)
from diffusion_suite.core.schedulers.fixed_point import fixed_point

TABLE = DiscreteVP(betas("linear", 1000))
GRIDS: list[tuple[Path, list[float]]] = [
    (TABLE, [*index_times(1000, 25, "leading")]),
    (TABLE, [*index_times(1000, 25, "trailing")]),
    (RectifiedFlow(), even_times(25)),
    (Trigonometric(), even_times(25, 0.98)),
    (LinearVP(), even_times(40)),
    (EDM(), karras_times(25)),
]


def mixture(dtype: torch.dtype = torch.float64) -> Mixture:
    return Mixture(
        torch.tensor([0.4, 0.6], dtype=dtype),
        torch.tensor([[-1.0, 0.5], [0.9, -0.4]], dtype=dtype),
        torch.tensor([[[0.4, 0.1], [0.1, 0.3]], [[0.25, 0.0], [0.0, 0.5]]], dtype=dtype),
    )


def data(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return mixture().sample(count, seeding.generator("inversion")).to(dtype)


class Counted(Denoiser):
    calls = 0

    def predict(self, x_t: Tensor, t: Any, **cond: Any) -> Tensor:
        self.calls += 1
        return super().predict(x_t, t, **cond)


def counted(path: Path, dtype: torch.dtype = torch.float64) -> Counted:
    inner = mixture(dtype).denoiser(path)
    return Counted(inner.model, path, "x0")


@pytest.mark.parametrize("mixed", [0, 3])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("path", "times"), GRIDS, ids=lambda value: type(value).__name__)
def test_exact_inversion_gives_the_data_back(
    path: Path, times: list[float], dtype: torch.dtype, bound: float, mixed: int
) -> None:
    x0, denoiser = data(6, dtype), mixture(dtype).denoiser(path)
    latent = invert(denoiser, x0, times, anderson=mixed)
    assert latent.dtype == dtype
    assert_close(ddim(denoiser, latent, times), x0, rtol=0, atol=bound)


def test_usual_inversion_is_one_evaluation_a_step_and_loses_some_of_the_data() -> None:
    times, denoiser = index_times(1000, 25, "leading"), counted(TABLE)
    latent = invert(denoiser, data(6), times, exact=False)
    assert denoiser.calls == 25
    assert 1e-3 < float((ddim(denoiser, latent, times) - data(6)).abs().max()) < 1.0


def test_mixing_iterates_takes_fewer_evaluations() -> None:
    times, calls = index_times(1000, 20, "leading"), []
    for mixed in (0, 3):
        denoiser = counted(TABLE)
        invert(denoiser, data(6), times, tolerance=1e-12, anderson=mixed)
        calls.append(denoiser.calls)
    assert calls[1] < 0.8 * calls[0]


def test_callback_sees_every_step() -> None:
    seen: list[Step] = []
    times, denoiser = index_times(1000, 10), mixture().denoiser(TABLE)
    latent = invert(denoiser, data(2), times, anderson=3, callback=seen.append)
    assert [step.index for step in seen] == list(range(10))
    assert [step.t for step in seen] == times[-2::-1]
    assert_close(seen[0].x, data(2))
    states = [*(step.x for step in seen[1:]), latent]
    for step, state in zip(seen, states, strict=True):
        assert_close(step.x0, denoiser.x0(state, step.t), rtol=0, atol=1e-6)


def test_guidance_acts_in_the_steps_in_which_the_sampler_has_it() -> None:
    class Limited(Denoiser):
        def at_step(self, t: float, index: int, count: int) -> Denoiser:
            assert count == 6
            return mixture().denoiser(TABLE) if index < 3 else self

    plain = mixture().restricted([1]).denoiser(TABLE)
    limited, times = Limited(plain.model, TABLE, "x0"), index_times(1000, 6, "leading")
    latent = invert(limited, data(3), times, anderson=3)
    assert_close(ddim(limited, latent, times), data(3), rtol=0, atol=1e-6)


def test_a_map_that_does_not_contract_is_warned_of() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        return 9.0 * x

    denoiser, x0 = Denoiser(model, RectifiedFlow(), "eps"), torch.ones(3, 4, dtype=torch.float64)
    x0[1] = 0.0  # its own fixed point, where nothing grows
    with pytest.warns(RuntimeWarning, match="2 of 3 items.*does not contract"):
        left = invert(denoiser, x0, [0.5, 0.0], iterations=20)
    assert bool(torch.isfinite(left).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = invert(denoiser, x0, [0.5, 0.0], anderson=3)
    assert_close(ddim(denoiser, mixed, [0.5, 0.0]), x0, rtol=0, atol=1e-6)


def test_a_model_that_is_not_finite_is_warned_of_too() -> None:
    denoiser = Denoiser(lambda x, t: x * float("nan"), RectifiedFlow(), "eps")
    with pytest.warns(RuntimeWarning, match="1 of 1 items"):
        invert(denoiser, torch.ones(1, 2), [0.5, 0.0], iterations=3)


def test_fixed_points_of_a_linear_map() -> None:
    draw = seeding.generator("linear")
    matrix = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    shift = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    exact = torch.linalg.solve(torch.eye(5, dtype=torch.float64) - 0.1 * matrix, shift.T).T
    for memory in (0, 3):
        found, residual = fixed_point(lambda z: shift + 0.1 * z @ matrix.T, shift, 1e-12, 200, memory)
        assert_close(found, exact, rtol=0, atol=1e-11)
        assert bool((residual <= 1e-12).all())
    # Anderson's method with a memory as long as the map is wide solves expanding maps too.
    found, _ = fixed_point(lambda z: shift[:, :2] - 2.0 * z, shift[:, :2], 1e-10, 50, 3)
    assert_close(found, shift[:, :2] / 3.0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mixed", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_items_latent_does_not_depend_on_its_batch(dtype: torch.dtype, mixed: int) -> None:
    times, denoiser = index_times(1000, 20, "leading"), mixture(dtype).denoiser(TABLE)
    x0 = data(4, dtype)
    together = invert(denoiser, x0, times, tolerance=1e-3, anderson=mixed)
    for item in range(4):
        alone = invert(denoiser, x0[item : item + 1], times, tolerance=1e-3, anderson=mixed)
        assert_close(alone[0], together[item], rtol=0, atol=1e-5)


def test_pictures_of_any_shape_are_inverted() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        blurred = (6.0 * x + x.roll(1, -1) + x.roll(-1, -2)) / 8.0
        return blurred / (1.0 + 4.0 * t.view(-1, 1, 1, 1) ** 2)

    denoiser, times = Denoiser(model, RectifiedFlow(), "x0"), even_times(20)
    for batch in (1, 3):
        x0 = torch.randn(batch, 2, 5, 8, generator=seeding.generator(batch), dtype=torch.float64).tanh()
        latent = invert(denoiser, x0, times, anderson=3)
        assert_close(ddim(denoiser, latent, times), x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [{"tolerance": 0.0}, {"iterations": 0}, {"anderson": -1}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        invert(mixture().denoiser(TABLE), data(1), index_times(1000, 4), **bad)
    with pytest.raises(ConfigError):
        invert(mixture().denoiser(TABLE), data(1), [-1, 4, 8])


# DPM-Encoder


@pytest.mark.parametrize("eta", [0.1, 0.7, 1.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
@pytest.mark.parametrize(("path", "times"), GRIDS, ids=lambda value: type(value).__name__)
def test_encoded_data_come_back(
    path: Path, times: list[float], dtype: torch.dtype, bound: float, eta: float
) -> None:
    denoiser, x0 = (
        mixture(dtype).denoiser(path, "v"),
        data(5, dtype),
    )
    latents = dpm_encode(denoiser, x0, times, eta=eta, noise=seeding.generator("encode"))
    assert_close(dpm_decode(denoiser, latents), x0, rtol=0, atol=bound)
    without = dpm_decode(denoiser, latents, residual=False)
    assert_close(without, x0 - latents.residual, rtol=0, atol=bound)
    assert latents.noise.shape == (len(times) - 1, *x0.shape)


def test_the_start_is_noised_at_the_first_time() -> None:
    times, x0 = index_times(1000, 10, "leading"), data(5)
    noise = torch.randn(10, *x0.shape, generator=seeding.generator("start"), dtype=torch.float64)
    latents = dpm_encode(mixture().denoiser(TABLE), x0, times, noise=noise)
    assert times[0] == 900
    assert_close(latents.start, TABLE.add_noise(x0, noise[0], 900))


def test_a_translation_belongs_to_the_other_domain() -> None:
    source, target = (mixture().restricted([k]) for k in (0, 1))
    x0 = source.sample(500, seeding.generator("translate"))
    times = index_times(1000, 50, "leading")
    latents = dpm_encode(source.denoiser(TABLE), x0, times, noise=seeding.generator("noise"))
    moved = dpm_decode(target.denoiser(TABLE), latents, residual=False)
    assert_close(moved.mean(0), target.means[0], rtol=0, atol=0.1)
    together = torch.corrcoef(torch.stack([x0[:, 0], moved[:, 0]]))[0, 1]
    assert float(together) > 0.8, "the translation keeps what the data have of their own"


def test_encoding_an_item_does_not_depend_on_its_batch() -> None:
    times, denoiser, x0 = (
        index_times(1000, 10),
        mixture(torch.float32).denoiser(TABLE),
        data(4, torch.float32),
    )

    def encoded(items: list[int]) -> Tensor:
        draws = [seeding.generator("item", item) for item in items]
        latents = dpm_encode(denoiser, x0[items], times, noise=draws)
        return torch.cat([latents.start[None], latents.noise, latents.residual[None]])

    together = encoded([0, 1, 2, 3])
    for item in range(4):
        assert_close(encoded([item])[:, 0], together[:, item], rtol=0, atol=1e-4)
    first = standard_normal([seeding.generator("item", 2)], x0[:1])
    assert_close(encoded([2])[0], TABLE.add_noise(x0[2:3], first, 999))


@pytest.mark.parametrize("eta", [0.0, 1.2, -0.1])
def test_an_encoder_needs_noise(eta: float) -> None:
    with pytest.raises(ConfigError):
        dpm_encode(
            mixture().denoiser(TABLE), data(1), index_times(1000, 4), eta=eta, noise=seeding.generator(0)
        )
