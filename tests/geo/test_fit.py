"""The network fitted to one cube: stops without a clean cube, beats its input, any task and mask."""

import numpy as np
import pytest
import torch

from diffusion_suite.core.inverse import BicubicDownsampling
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.eigen_solver import EigenImages
from diffusion_suite.geo.restoration.fit import CHECK_EVERY, restore_fit, unseen_detail
from diffusion_suite.geo.restoration.left_out import split
from diffusion_suite.geo.restoration.measurement import Whitened, signal_subspace
from diffusion_suite.geo.restoration.symmetries import SYMMETRIES, turned, turned_back

ROWS, COLUMNS, BANDS, RANK = 32, 40, 12, 3


def clean_cube() -> np.ndarray:
    """Three blocky images times smooth spectra, several times stronger than unit noise."""
    rng = numpy_generator(0, "fit scene")
    images = rng.normal(size=(ROWS // 8, COLUMNS // 8, RANK)).repeat(8, 0).repeat(8, 1)
    waves = np.linspace(0, 1, BANDS)[None] * np.arange(1, RANK + 1)[:, None]
    return (images @ (2 * np.cos(np.pi * waves))).astype(np.float32)


def measure(clean: np.ndarray, share: float = 1.0) -> Whitened:
    rng = numpy_generator(0, "fit noise")
    observed = rng.random(clean.shape) < share
    noisy = clean + rng.standard_normal(clean.shape).astype(np.float32)
    mean = np.average(noisy, axis=(0, 1), weights=observed)
    return Whitened.of(noisy, observed, mean, np.ones(clean.shape[-1], np.float32))


def fitted(data: Whitened, steps: int, **settings) -> tuple[EigenImages, dict]:
    return restore_fit(
        data, signal_subspace(data, RANK), steps=steps, runs=settings.pop("runs", 1), **settings
    )


def rmse(found: np.ndarray, clean: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - clean) ** 2)))


def projected(data: Whitened) -> np.ndarray:
    loadings = signal_subspace(data, RANK).loadings
    return data.back(data.values @ loadings @ loadings.T)


def test_denoises_better_than_its_subspace_and_knows_its_error():
    clean = clean_cube()
    data = measure(clean)
    found, log = fitted(data, 75, runs=2)
    error = rmse(found.values(), clean)
    assert error < 0.7 * rmse(projected(data), clean)
    assert 0.5 < np.sqrt(np.mean(found.deviation() ** 2)) / error < 2
    assert len(log["best_step"]) == 2
    assert all(
        errors[best] == min(errors.values())
        for errors, best in zip(log["withheld_error"], log["best_step"], strict=True)
    )


def test_stops_when_withheld_samples_are_predicted_no_better():
    rng = numpy_generator(0, "pure noise")
    noise = rng.standard_normal((20, 20, BANDS)).astype(np.float32)
    data = Whitened.of(noise, np.ones(noise.shape, bool), np.zeros(BANDS), np.ones(BANDS, np.float32))
    _, log = fitted(data, 20 * CHECK_EVERY)
    errors, best = log["withheld_error"][0], log["best_step"][0]
    assert max(errors) < 20 * CHECK_EVERY
    assert errors[best] == min(errors.values())
    assert 0.7 < errors[best] < 1.4


def test_seed_decides_the_result():
    data = measure(clean_cube()[:16, :16])
    first, again, other = (fitted(data, 6, seed=seed)[0].values() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fills_missing_samples():
    clean = clean_cube()
    data = measure(clean, share=0.4)
    missing = ~data.observed
    found, _ = fitted(data, 75)
    assert rmse(found.values()[missing], clean[missing]) < 0.5 * clean[missing].std()


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarges(factor):
    images = (
        torch.from_numpy(clean_cube())
        .permute(2, 0, 1)[None]
        .repeat_interleave(3, 2)
        .repeat_interleave(3, 3)[..., :72, :72]
    )
    rows, columns = images.shape[2:]
    low = BicubicDownsampling(factor, rows, columns, BANDS).A(images)[0].permute(1, 2, 0).numpy()
    data = measure(low)
    found, _ = fitted(data, 8, factor=factor)
    clean = images[0].permute(1, 2, 0).numpy()
    nearest = data.back(data.values).repeat(factor, 0).repeat(factor, 1)
    assert found.values().shape == clean.shape == found.deviation().shape
    assert rmse(found.values(), clean) < 0.7 * rmse(nearest, clean)


def test_few_samples_withhold_nothing_and_half_precision_works():
    data = measure(clean_cube()[:8, :8])
    found, log = fitted(data, 3, dtype=torch.bfloat16)
    assert log["calibration"] == 1
    assert log["best_step"] == [3]
    assert np.isfinite(found.values()).all()


def test_folds_leave_each_sample_out_once_and_do_not_see_it():
    data = measure(clean_cube()[:16, :16])
    subspace = signal_subspace(data, RANK)
    folds = split(data, subspace, None, 4, (0,), torch.device("cpu"))
    assert (sum(fold.left_out.int() for fold in folds) == 1).all()
    left_out = folds[0].left_out[0].permute(1, 2, 0).numpy()
    changed = Whitened(data.values + 9 * left_out.astype(np.float32), data.observed, data.mean, data.noise)
    other = split(changed, subspace, None, 4, (0,), torch.device("cpu"))
    torch.testing.assert_close(other[0].pseudo, folds[0].pseudo)
    assert not torch.allclose(other[1].pseudo, folds[1].pseudo)


def test_crops_of_enlarged_folds_ignore_their_cut_edges():
    data = measure(clean_cube())
    fold = split(data, signal_subspace(data, RANK), None, 4, (0,), torch.device("cpu"))[0]
    part = fold.cut(32, (3, 5, 0), 2)
    assert part.pseudo.shape[-2:] == (16, 16)
    assert not part.left_out[..., :2, :].any()
    assert part.left_out[..., 2:-2, 2:-2].any()
    values = torch.randn(1, BANDS, 2 * ROWS, 2 * COLUMNS)
    cut = values[..., 6 : 6 + 32, 10 : 10 + 32]
    operator = BicubicDownsampling(2, 2 * ROWS, 2 * COLUMNS, BANDS)
    error = (operator.A(values) - fold.target)[..., 3 : 3 + 16, 5 : 5 + 16]
    expected = error[part.left_out].square().mean()
    torch.testing.assert_close(part.error(cut, 2), expected, rtol=1e-4, atol=0)


def test_unseen_detail_is_that_of_the_image():
    rng = numpy_generator(0, "detail")
    flat, rough = torch.ones(1, 1, 32, 32), torch.from_numpy(rng.normal(size=(1, 1, 8, 8)))
    assert unseen_detail(flat, 4).max() < 1e-10
    assert unseen_detail(rough.repeat_interleave(4, 2).repeat_interleave(4, 3), 4).min() > 0
    assert not unseen_detail(rough, 1).any()


@pytest.mark.parametrize("turn", range(SYMMETRIES))
def test_turns_are_undone(turn):
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert torch.equal(turned_back(turned(x, turn), turn), x)
