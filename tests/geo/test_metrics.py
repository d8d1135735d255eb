"""The figures against values made by hand, scikit-image and torchmetrics."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from diffusion_suite.geo.restoration.metrics import HALO, Scorer, band_range, score


def unit_cube(seed: int = 0, shape: tuple[int, int, int] = (20, 17, 4)) -> np.ndarray:
    cube = np.random.default_rng(seed).random(shape)
    low, high = cube.min((0, 1)), cube.max((0, 1))
    return (cube - low) / (high - low)


def test_psnr_by_hand() -> None:
    clean = np.zeros((8, 8, 2))
    clean[0, 0] = 1
    restored = clean.copy()
    restored[..., 0] += 0.1
    restored[..., 1] += 0.01
    found = score(clean, restored)
    assert found.psnr_bands == pytest.approx([20, 40])
    assert found.psnr == pytest.approx(30)


def test_psnr_does_not_depend_on_the_unit() -> None:
    clean, restored = unit_cube(), unit_cube(1)
    here, there = score(clean, restored), score(clean * 8000 - 200, restored * 8000 - 200)
    assert (there.psnr, there.ssim, there.sam) == pytest.approx((here.psnr, here.ssim, here.sam))


def test_identical_cubes() -> None:
    found = score(unit_cube(), unit_cube())
    assert found.psnr == np.inf
    assert found.ssim == pytest.approx(1)
    assert found.sam == pytest.approx(0, abs=1e-4)
    assert found.ergas == 0
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["psnr"] == "inf"


def test_ssim_is_that_of_scikit_image() -> None:
    clean, restored = unit_cube(), unit_cube(1)
    bands = range(clean.shape[2])
    expected = [
        structural_similarity(clean[..., b], restored[..., b], data_range=1, win_size=7) for b in bands
    ]
    assert score(clean, restored).ssim_bands == pytest.approx(expected)


def test_sam_by_hand() -> None:
    clean = np.zeros((2, 2, 2))
    clean[0] = [1, 0]
    clean[1] = [0, 1]
    restored = np.zeros((2, 2, 2))
    restored[0] = [1, 1]
    restored[1] = [0, 3]
    assert score(clean, restored).sam == pytest.approx(22.5)


def test_sam_and_ergas_agree_with_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.image import (
        error_relative_global_dimensionless_synthesis,
        spectral_angle_mapper,
    )

    clean, restored = unit_cube(), np.clip(unit_cube() + 0.1 * unit_cube(1), 0, None)
    found = score(clean, restored, ratio=4)
    a, b = (torch.from_numpy(x.transpose(2, 0, 1)[None].copy()) for x in (restored, clean))
    assert found.sam == pytest.approx(np.degrees(float(spectral_angle_mapper(a, b))))
    assert found.ergas == pytest.approx(float(error_relative_global_dimensionless_synthesis(a, b, ratio=4)))


def test_missing_samples_do_not_count() -> None:
    clean, restored = unit_cube(), unit_cube(1)
    spoilt, holes = restored.copy(), clean.copy()
    holes[3, 4] = np.nan
    holes[5, 6, 1] = np.nan
    spoilt[3, 4] = 1e6
    spoilt[5, 6, 1] = np.nan
    found = score(holes, spoilt)
    seen = np.isfinite(holes)
    error = np.where(seen, clean - restored, 0)
    expected = -10 * np.log10((error**2).sum((0, 1)) / seen.sum((0, 1)))
    assert found.psnr_bands == pytest.approx(expected)
    assert np.isfinite([found.ssim, found.sam, found.ergas]).all()


def test_a_missing_result_counts_as_the_lowest_value() -> None:
    clean = unit_cube()
    restored = clean.copy()
    restored[2, 2, 0] = np.nan
    expected = clean[2, 2, 0] ** 2 / (20 * 17)
    assert score(clean, restored).psnr_bands[0] == pytest.approx(-10 * np.log10(expected))


def test_blocks_give_the_figures_of_the_whole() -> None:
    clean, restored = unit_cube(shape=(31, 12, 3)), unit_cube(1, (31, 12, 3))
    seen = np.ones(clean.shape, bool)
    scorer = Scorer(*band_range((clean[t : t + 5], seen[t : t + 5]) for t in range(0, 31, 5)))
    for top in range(0, 31, 10):
        bottom = min(31, top + 10)
        first, last = max(0, top - HALO), min(31, bottom + HALO)
        scorer.add(
            clean[first:last], restored[first:last], seen[first:last], slice(top - first, bottom - first)
        )
    whole, parts = score(clean, restored), scorer.scores()
    for name in ("psnr", "ssim", "sam", "ergas"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name)), name


def test_constant_and_empty_bands_and_one_band() -> None:
    clean = unit_cube()
    clean[..., 1] = 5
    clean[..., 2] = np.nan
    found = score(clean, np.nan_to_num(clean) + 0.1)
    assert found.psnr_bands[1] == pytest.approx(20)
    assert np.isnan(found.psnr_bands[2])
    assert np.isfinite(found.psnr)
    assert np.isnan(score(clean[..., :1], clean[..., :1]).sam)


def test_clipping_as_in_the_published_figures() -> None:
    clean = unit_cube()
    assert score(clean, np.where(clean == 1, 3.0, clean), clip=True).psnr == np.inf
