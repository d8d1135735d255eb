"""Scene statistics: block by block the same as at once, missing samples and odd bands left out of them."""

from collections.abc import Iterator

import numpy as np
import pytest
from drawn_scenes import clean_cube, noisy

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.statistics import gather

ROWS, COLUMNS, BANDS = 96, 80, 12
LEVELS = np.linspace(0.02, 0.06, BANDS)


def scene(share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    cube = noisy(clean_cube(ROWS, COLUMNS, BANDS, 3), LEVELS)
    return cube, numpy_generator(0, "observed").random(cube.shape) < share


def blocks(cube: np.ndarray, observed: np.ndarray, size: int = 32) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for top in range(0, len(cube), size):
        for left in range(0, cube.shape[1], size):
            window = np.s_[top : top + size, left : left + size]
            yield cube[window], observed[window]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_at_once_against_numpy(share):
    cube, observed = scene(share)
    found = gather([(cube, observed)])
    samples = np.where(observed, cube, np.nan)
    np.testing.assert_allclose(found.mean, np.nanmean(samples, (0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.deviation, np.nanstd(samples, (0, 1)), rtol=1e-4)
    np.testing.assert_array_equal(found.low, np.nanmin(samples, (0, 1)))
    np.testing.assert_array_equal(found.high, np.nanmax(samples, (0, 1)))
    np.testing.assert_array_equal(found.count, observed.sum((0, 1)))
    assert found.usable.all()


@pytest.mark.parametrize("share", [1.0, 0.8])
def test_streaming_is_the_same_as_at_once(share):
    cube, observed = scene(share)
    whole, streamed = gather([(cube, observed)]), gather(blocks(cube, observed))
    for name in ("mean", "deviation", "low", "high", "count"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(streamed.noise, whole.noise, rtol=0.05)


def test_large_offsets_lose_no_digits():
    cube, observed = scene()
    found = gather(blocks(cube + 10_000, observed))
    np.testing.assert_allclose(found.deviation, cube.std((0, 1)), rtol=1e-2)


@pytest.mark.parametrize("unit", [1.0, 1e4, 1e-3])
def test_noise_in_any_unit(unit):
    cube, observed = scene()
    found = gather([((cube * unit).astype(np.float32), observed)])
    ratio = found.noise / (LEVELS * unit)
    assert ratio.min() > 0.95
    assert ratio.max() < 1.5
    assert np.median(ratio) < 1.15


def test_noise_with_few_bands_comes_from_neighbours():
    flat = noisy(np.zeros((80, 80, 3)), np.array([0.1, 2.0, 30.0]))
    np.testing.assert_allclose(gather([(flat, np.ones(flat.shape, bool))]).noise, [0.1, 2, 30], rtol=0.05)


def test_missing_samples_may_hold_anything():
    cube, observed = scene(0.7)
    spoilt = np.where(observed, cube, np.float32(-9999))
    first, second = gather(blocks(cube, observed)), gather(blocks(spoilt, observed))
    for name, value in vars(first).items():
        np.testing.assert_allclose(getattr(second, name), value, rtol=1e-4, err_msg=name)


def test_bands_that_are_constant_or_never_observed():
    cube, observed = scene()
    cube[..., 2], observed[..., 5] = 7.0, False
    found = gather(blocks(cube, observed))
    assert np.flatnonzero(~found.usable).tolist() == [2, 5]
    assert (found.mean[2], found.deviation[2], found.low[2], found.high[2]) == (7, 0, 7, 7)
    assert np.isnan([found.mean[5], found.deviation[5], found.low[5], found.high[5]]).all()
    assert found.count[5] == 0
    assert np.isfinite(found.noise[found.usable]).all()
    assert (found.noise[found.usable] > 0).all()


def test_blocks_without_samples_and_dead_columns_do_not_count():
    cube, observed = scene()
    plain = gather(blocks(cube, observed))
    empty = (np.full((32, 32, BANDS), 1e9, np.float32), np.zeros((32, 32, BANDS), bool))
    with_empty = gather([empty, *blocks(cube, observed)])
    np.testing.assert_array_equal(with_empty.mean, plain.mean)
    cube[:, 11, 4] = -50.0
    dead = gather(blocks(cube, observed))
    assert dead.count[4] == ROWS * (COLUMNS - 1)
    assert dead.low[4] > -1


def test_nothing_observed_is_an_error():
    with pytest.raises(InputError, match="no sample"):
        gather([(np.ones((4, 4, 2), np.float32), np.zeros((4, 4, 2), bool))])
