"""Estimates of noise, dead lines, stripes and impulses on cubes where the answer is known."""

import numpy as np
import pytest
from drawn_scenes import clean_cube, noisy

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.measurement import Whitened, clean_measurement, signal_subspace
from diffusion_suite.geo.restoration.noise import (
    band_noise,
    dead_lines,
    explained,
    impulses,
    imputed,
    isolated,
    regression_noise,
    stripe_offsets,
)

ROWS, COLUMNS, BANDS = 80, 64, 20


def everywhere(cube: np.ndarray) -> np.ndarray:
    return np.ones(cube.shape, bool)


def pure_noise(levels: np.ndarray, rows: int = 240, columns: int = 180) -> np.ndarray:
    return noisy(np.zeros((rows, columns, len(levels))), levels)


def measured(seed: int = 0, sigma: float = 0.03) -> Whitened:
    """A drawn scene under Gaussian noise, in units of it."""
    cube = noisy(clean_cube(ROWS, COLUMNS, BANDS, 4, seed), sigma, seed)
    return Whitened.of(cube, everywhere(cube), cube.mean((0, 1)), np.full(BANDS, sigma, np.float32))


def sparse_stripes(seed: int = 0) -> np.ndarray:
    """(columns, bands) offsets of 2 to 8 noise levels on 15 % of the columns of each band."""
    rng = numpy_generator(seed, "stripes")
    size = rng.uniform(2, 8, (COLUMNS, BANDS)) * rng.choice([-1, 1], (COLUMNS, BANDS))
    return np.where(rng.random((COLUMNS, BANDS)) < 0.15, size, 0).astype(np.float32)


def test_level_of_pure_noise():
    levels = np.array([0.01, 0.1, 3.0, 250.0], np.float32)
    cube = pure_noise(levels)
    np.testing.assert_allclose(band_noise(cube, everywhere(cube)), levels, rtol=0.03)


def test_planes_and_stripes_leave_the_level_alone():
    cube = pure_noise(np.full(3, 0.5, np.float32))
    rows, columns = np.mgrid[:240, :180]
    stripes = 40 * numpy_generator(0, "columns").standard_normal(180)
    changed = cube + (2 * rows - 3 * columns + stripes)[..., None].astype(np.float32)
    np.testing.assert_allclose(
        band_noise(changed, everywhere(cube)), band_noise(cube, everywhere(cube)), rtol=1e-3
    )


@pytest.mark.parametrize("share", [0.7, 0.45, 0.12])
def test_level_with_missing_samples(share):
    cube = pure_noise(np.full(4, 2.0, np.float32))
    observed = numpy_generator(0, "observed").random(cube.shape) < share
    np.testing.assert_allclose(band_noise(np.where(observed, cube, 1e6), observed), 2.0, rtol=0.08)


def test_level_of_a_band_without_neighbours_is_unknown():
    cube = pure_noise(np.ones(2, np.float32), 20, 20)
    observed = everywhere(cube)
    observed[..., 1] = False
    observed[::5, ::5, 1] = True
    assert np.isnan(band_noise(cube, observed)).tolist() == [False, True]


def test_regression_residual_in_closed_form():
    """Bands that share one component: C = a a^T + diag(s^2), and (C^-1)_bb by Sherman and Morrison."""
    a, s = np.array([3.0, 1.0, 0.5, 2.0]), np.array([0.1, 0.2, 0.3, 0.4])
    ratio = a**2 / s**2
    expected = s / np.sqrt(1 - ratio / (1 + ratio.sum()))
    np.testing.assert_allclose(regression_noise(np.outer(a, a) + np.diag(s**2)), expected, rtol=1e-5)


def test_regression_residual_bounds_the_noise_from_above():
    clean = clean_cube(ROWS, COLUMNS, BANDS)
    levels = np.linspace(0.01, 0.05, BANDS)
    covariance = np.cov(noisy(clean, levels).reshape(-1, BANDS).T)
    ratio = regression_noise(covariance) / levels
    assert ratio.min() > 0.97
    assert np.median(ratio) < 1.15


def test_dead_lines_are_those_of_one_value():
    cube = noisy(clean_cube(30, 40, 3), 0.02)
    cube[:, 7, 1], cube[:, 20, 1], cube[11, :, 2] = 0.0, 1.5, 0.7
    expected = np.zeros(cube.shape, bool)
    expected[:, [7, 20], 1] = expected[11, :, 2] = True
    np.testing.assert_array_equal(dead_lines(cube, everywhere(cube)), expected)


def test_dead_line_with_a_few_other_samples():
    cube = noisy(clean_cube(30, 40, 2), 0.02)
    cube[:28, 7, 0] = 0.0
    assert dead_lines(cube, everywhere(cube))[:, 7, 0].all()
    cube[:20, 9, 0] = 0.0
    assert not dead_lines(cube, everywhere(cube))[:, 9, 0].any()


def test_constant_quantised_and_saturated_bands_are_not_dead():
    cube = noisy(clean_cube(30, 40, 3), 0.1)
    cube[..., 0] = 4.0
    cube[..., 1] = np.round(cube[..., 1] / 0.3)
    cube[..., 2] = np.clip(cube[..., 2], None, np.quantile(cube[..., 2], 0.02))
    assert 3 <= np.unique(cube[..., 1]).size <= 8
    assert not dead_lines(cube, everywhere(cube)).any()


def test_nodata_border_is_not_dead():
    cube = noisy(clean_cube(30, 40, 3), 0.02)
    observed = everywhere(cube)
    observed[:, :9] = observed[25:] = False
    assert not dead_lines(np.where(observed, cube, 0), observed).any()


def test_stripes_are_recovered():
    errors = []
    for seed in range(3):
        data, offsets = measured(seed), sparse_stripes(seed)
        values = data.values + offsets
        found = stripe_offsets(values - values.mean((0, 1)), data.observed)
        errors.append(np.abs(found - offsets).mean() / np.abs(offsets).mean())
    assert max(errors) < 1 / 3, errors


@pytest.mark.parametrize("seed", range(3))
def test_clean_scene_shows_no_stripes(seed):
    data = measured(seed)
    assert not stripe_offsets(data.values, data.observed).any()
    assert not stripe_offsets(data.values.swapaxes(0, 1), data.observed.swapaxes(0, 1)).any()


def test_nodata_border_shows_no_stripes():
    data = measured()
    outside = np.zeros(data.observed.shape, bool)
    outside[:, :15] = outside[70:] = True
    cut = data.hide(outside)
    values = imputed(cut.values, cut.observed, signal_subspace(cut, None).loadings)
    assert not stripe_offsets(values, cut.observed).any()
    cleaned, found = clean_measurement(cut, None)
    assert (found["striped_columns"], found["striped_rows"], found["dead"]) == (0, 0, 0)
    assert cleaned.observed.sum() > 0.999 * cut.observed.sum()


def test_cleaning_takes_stripes_dead_columns_and_impulses_out():
    data, offsets = measured(), sparse_stripes()
    values = data.values + offsets
    values[:, 5, 3] = values[:, 40, 8] = -9.0
    hot = np.zeros(values.shape, bool)
    hot.reshape(-1)[numpy_generator(0, "hot").choice(values.size, 60, replace=False)] = True
    hot[:, 5, 3] = hot[:, 40, 8] = False
    values[hot] += 25
    cleaned, found = clean_measurement(
        Whitened.of(values, everywhere(values), np.zeros(BANDS), np.ones(BANDS, np.float32)), None
    )
    assert found["dead"] == pytest.approx(2 * ROWS / values.size)
    assert not cleaned.observed[:, 5, 3].any()
    assert not cleaned.observed[:, 40, 8].any()
    assert (hot & ~cleaned.observed).sum() >= 58
    kept = cleaned.observed & ~hot
    assert kept.mean() > 0.985
    before = np.abs(values - data.values)[kept].mean()
    assert np.abs(cleaned.back(cleaned.values) - data.values)[kept].mean() < 0.6 * before


def test_imputed_samples_are_those_of_the_subspace():
    rng = numpy_generator(0, "imputed")
    loadings = np.linalg.qr(rng.standard_normal((BANDS, 3)))[0].astype(np.float32)
    values = (rng.standard_normal((9, 8, 3)) @ loadings.T).astype(np.float32)
    observed = rng.random(values.shape) < 0.7
    filled = imputed(np.where(observed, values, 0), observed, loadings, iterations=200)
    np.testing.assert_array_equal(filled[observed], values[observed])
    np.testing.assert_allclose(filled, values, atol=1e-3)


def test_impulses_are_found_and_little_else():
    data = measured()
    loadings = signal_subspace(data, 4).loadings
    assert impulses(data.values, data.observed, loadings).mean() < 1e-5
    values = data.values.copy()
    values[10, 12, 3] += 12
    values[50, 3, 9] -= 12
    found = impulses(values, data.observed, loadings)
    assert sorted(map(tuple, np.argwhere(found))) == [(10, 12, 3), (50, 3, 9)]


def test_what_other_bands_say_too_is_explained():
    data = measured()
    loadings = signal_subspace(data, 4).loadings
    struck = np.zeros(data.values.shape, bool)
    struck[10, 12, 3] = struck[30, 20, 5] = True
    values = data.values.copy()
    values[10, 12, 3] += 40
    assert np.argwhere(explained(values, ~struck, loadings)).tolist() == [[30, 20, 5]]


def test_isolated_samples_are_found_and_single_pixel_targets_are_not():
    data = measured()
    alone = isolated(data.values, data.observed)
    assert alone.mean() < 1e-3
    values = data.values.copy()
    values[10, 12, 3] += 40
    values[30, 20] += 40
    found = isolated(values, data.observed)
    assert found[10, 12, 3]
    assert not found[30, 20].any()
    assert (found != alone).sum() <= 2


def test_bright_targets_are_no_impulses():
    clean = clean_cube(ROWS, COLUMNS, BANDS, 4, seed=2)
    clean[10:14, 20:25] *= 12
    cube = noisy(clean, 0.02)
    data = Whitened.of(cube, everywhere(cube), cube.mean((0, 1)), np.full(BANDS, 0.02, np.float32))
    cleaned, _ = clean_measurement(data, None)
    assert cleaned.observed[10:14, 20:25].mean() > 0.95


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_a_level_told_too_small_does_not_empty_the_cube(share):
    data = measured(seed=2)
    cleaned, found = clean_measurement(data.rescale(np.full(BANDS, share, np.float32)), None)
    assert found["impulses"] < 0.06
    assert cleaned.observed.mean() > 0.94


def test_many_impulses_are_found():
    data = measured(seed=2)
    hot = numpy_generator(0, "many").random(data.values.shape) < 0.02
    struck = data.shift(np.where(hot, -20, 0).astype(np.float32))
    cleaned, found = clean_measurement(struck, None)
    assert found["impulses"] == pytest.approx(hot.mean(), rel=0.2)
    assert (~cleaned.observed[hot]).mean() > 0.93
    assert cleaned.observed[~hot].mean() > 0.995
