"""Losses on purpose: the amounts asked for, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_suite.core.errors import SuiteError
from diffusion_suite.geo.restoration.simulate import degrade, parse


def smooth_cube(rows: int = 64, cols: int = 60, bands: int = 5) -> np.ndarray:
    y, x = np.mgrid[:rows, :cols] / 20
    spectra = 1 + np.arange(bands)
    cube = 1000 + 500 * np.sin(y[..., None] + spectra) * np.cos(x[..., None] * 0.7) + 50 * spectra
    return cube.astype(np.float32)


@pytest.mark.parametrize(
    "text", ["denoise", "denoise:0.2", "complete:0.1", "sr:4", "stripes", "dead:0.05", "mixed"]
)
def test_every_kind_is_repeatable(text: str) -> None:
    clean = smooth_cube()
    first, again, other = (degrade(clean, parse(text), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.cube, again.cube, equal_nan=True)
    assert not np.array_equal(first.cube, other.cube, equal_nan=True)
    assert first.cube.dtype == np.float32
    assert first.sigma.shape == (5,)


def test_noise_has_the_level_asked_for() -> None:
    clean = smooth_cube()
    done = degrade(clean, parse("denoise:0.1"))
    span = clean.max((0, 1)) - clean.min((0, 1))
    assert done.sigma == pytest.approx(0.1 * span, rel=1e-4)
    assert (done.cube - clean).std((0, 1)) == pytest.approx(done.sigma, rel=0.06)


def test_completion_keeps_the_share_asked_for() -> None:
    clean = smooth_cube()
    done = degrade(clean, parse("complete:0.3"), sigma=0)
    seen = np.isfinite(done.cube)
    assert seen.mean() == pytest.approx(0.3, abs=0.02)
    assert done.cube[seen] == pytest.approx(clean[seen], rel=1e-5)


def test_super_resolution_shrinks() -> None:
    clean = smooth_cube(64, 60)
    clean[0, 0, 2] = np.nan
    done = degrade(clean, parse("sr:4"), sigma=0)
    assert done.cube.shape == (16, 15, 5)
    assert np.isnan(done.cube[0, 0, 2])
    assert np.isfinite(done.cube).sum() == done.cube.size - 1
    block = clean[20:24, 20:24, 1].mean()
    assert done.cube[5, 5, 1] == pytest.approx(block, rel=0.01)


def test_dead_columns_and_stripes() -> None:
    dead = degrade(smooth_cube(), parse("dead:0.2"), sigma=0)
    gone = np.isnan(dead.cube)
    assert np.array_equal(gone.all(0), gone.any(0))
    assert 0.1 < gone.mean() < 0.3
    striped = degrade(smooth_cube(), parse("stripes:0.2"), sigma=0)
    offset = striped.cube - smooth_cube()
    assert offset.std(0).max() < 1e-3 * offset.std()
    assert 0.1 < (np.abs(offset[0]) > 1e-2).mean() < 0.3


def test_mixed_noise_differs_by_band() -> None:
    clean = smooth_cube()
    done = degrade(clean, parse("mixed:0.1"))
    span = clean.max((0, 1)) - clean.min((0, 1))
    assert np.ptp(done.sigma / span) > 0.01
    assert np.isnan(done.cube).any()


@pytest.mark.parametrize(
    "text", ["blur", "denoise:x", "denoise:-1", "complete:0", "complete:1.5", "sr:1", "sr:2.5", "dead:1"]
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SuiteError, match=f"simulate={text}"):
        parse(text)


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [((64, 60), "give one of 2, 4, or crop the scene to 63 x 60"), ((7, 60), "crop the scene to 6 x 60")],
)
def test_a_factor_that_does_not_divide_is_refused(shape: tuple[int, int], remedy: str) -> None:
    with pytest.raises(SuiteError, match=f"factor 3 does not divide .*{remedy}"):
        degrade(smooth_cube(*shape), parse("sr:3"))
