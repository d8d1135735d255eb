"""DDS2M on small drawn scenes: every mode, every kind of input, its own unit, honest about its error."""

import json
from functools import cache

import numpy as np
import pytest
from drawn_scenes import clean_cube, noisy, rmse

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.inverse import BicubicDownsampling
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration import dds2m
from diffusion_suite.geo.restoration.dds2m import DDS2M, Restoration
from diffusion_suite.geo.restoration.statistics import gather

ROWS, COLUMNS, BANDS, SIGMA = 37, 61, 12, 0.1
SETTINGS = {
    "default": {"steps": 20, "runs": 1},
    "prior": {"runs": 1},
    "fit": {"steps": 20, "runs": 1},
    "subspace": {},
    "paper": {"steps": 8, "rank": 2},
}
FAST = ("prior", "subspace")
OURS = ("default", "prior", "fit", "subspace")


@cache
def clean() -> np.ndarray:
    return clean_cube(ROWS, COLUMNS, BANDS, seed=4)


@cache
def degraded() -> np.ndarray:
    return noisy(clean(), SIGMA)


@cache
def restorer(mode: str) -> DDS2M:
    return DDS2M(mode, device="cpu", precision="32", **SETTINGS[mode])


def restore(mode: str, cube: np.ndarray, **more: object) -> Restoration:
    return restorer(mode).restore(cube, **more)


def holes(share: float, shape: tuple[int, ...] = (ROWS, COLUMNS, BANDS)) -> np.ndarray:
    """Flags of the samples that stay."""
    return numpy_generator(0, "holes").random(shape) < share


def assert_well_formed(found: Restoration, mode: str, shape: tuple[int, ...]) -> None:
    assert found.cube.shape == found.uncertainty.shape == shape
    assert found.cube.dtype == found.uncertainty.dtype == np.float32
    assert np.isfinite(found.cube).all()
    assert np.isfinite(found.uncertainty).all()
    assert json.loads(json.dumps(found.log))["mode"] == mode


@pytest.mark.parametrize("mode", OURS)
def test_every_mode_denoises_a_rectangle(mode):
    found = restore(mode, degraded(), sigma=SIGMA)
    assert_well_formed(found, mode, (ROWS, COLUMNS, BANDS))
    assert rmse(found.cube, clean()) < 0.5 * SIGMA
    assert found.log["task"] == "denoise"


@pytest.mark.parametrize("arguments", [{"sigma": SIGMA}, {"mask": np.eye(10, 14) == 0}, {"factor": 2}])
def test_published_recipe_takes_the_same_arguments(arguments):
    """Too few steps to be good; how good it is, the golden cases and the benchmarks show."""
    found = restore("paper", degraded()[:10, :14], **arguments)
    factor = arguments.get("factor", 1)
    assert_well_formed(found, "paper", (10 * factor, 14 * factor, BANDS))
    assert 0 <= found.cube.min() < found.cube.max() <= 1


def test_modes_rank_as_they_should():
    errors = {mode: rmse(restore(mode, degraded(), sigma=SIGMA).cube, clean()) for mode in OURS}
    assert errors["prior"] < errors["subspace"], errors
    assert errors["default"] < 1.02 * errors["prior"], errors


@pytest.mark.parametrize("mode", OURS)
def test_noise_that_is_not_told_is_estimated(mode):
    truth, cube = clean()[:28, :32], degraded()[:28, :32]
    told, estimated = (restore(mode, cube, sigma=sigma) for sigma in (SIGMA, None))
    assert rmse(estimated.cube, truth) < 1.1 * rmse(told.cube, truth)
    assert np.median(estimated.log["noise"]) == pytest.approx(SIGMA, rel=0.15)


@pytest.mark.parametrize("mode", OURS)
@pytest.mark.parametrize("sigma", [SIGMA, None])
def test_any_unit(mode, sigma):
    cube = np.where(holes(0.97), degraded(), np.nan)[:20, :24].astype(np.float32)
    plain = restore(mode, cube, sigma=sigma)
    scaled = restore(mode, cube * 10_000 + 500, sigma=sigma and sigma * 10_000)
    error = (scaled.cube - 500) / 10_000 - plain.cube
    assert np.sqrt(np.mean(error**2)) < 1e-3 * np.ptp(clean())
    spread = scaled.uncertainty / 10_000 - plain.uncertainty
    assert np.sqrt(np.mean(spread**2)) < 1e-3 * np.ptp(clean())


@pytest.mark.parametrize("mode", OURS)
def test_a_unit_without_rounding_changes_nothing(mode):
    plain = restore(mode, degraded()[:16, :20], sigma=SIGMA)
    scaled = restore(mode, degraded()[:16, :20] * 2**13, sigma=SIGMA * 2**13)
    np.testing.assert_allclose(scaled.cube / 2**13, plain.cube, rtol=1e-6)


@pytest.mark.parametrize("mode", OURS)
def test_peaks_are_not_clipped(mode):
    bright = clean().copy()
    bright[10:14, 20:25] *= 12
    inside = restore(mode, noisy(bright, 0.02)[:24, :32], sigma=0.02).cube[11:13, 21:24]
    assert bright[11:13, 21:24].max() > 4 * clean().max()
    assert rmse(inside, bright[11:13, 21:24]) < 0.02 * inside.max()


@pytest.mark.parametrize("mode", OURS)
@pytest.mark.parametrize("share", [0.9, 0.3])
def test_missing_samples_are_filled(mode, share):
    truth, seen = clean()[:32, :36], holes(share)[:32, :36]
    cube = np.where(seen, noisy(truth, 0.05), np.nan).astype(np.float32)
    cube[5:8, 20:23], seen[5:8, 20:23] = np.nan, False
    cube[0, 0, 0], cube[1, 1, 1] = np.inf, -np.inf
    found = restore(mode, cube, sigma=0.05)
    assert found.log["task"] == "complete"
    assert np.isfinite(found.cube).all()
    assert np.isfinite(found.uncertainty).all()
    limit = {"fit": 0.6}.get(mode, 0.45)
    assert rmse(found.cube[~seen], truth[~seen]) < limit * truth.std((0, 1)).mean()


@pytest.mark.parametrize("mode", FAST)
def test_mask_is_the_same_as_nan(mode):
    seen, cube = holes(0.5)[:20, :24], degraded()[:20, :24]
    with_nan = restore(mode, np.where(seen, cube, np.nan), sigma=SIGMA)
    with_mask = restore(mode, np.where(seen, cube, 1e6), mask=seen.astype(np.uint8), sigma=SIGMA)
    np.testing.assert_array_equal(with_nan.cube, with_mask.cube)
    pixels = seen[..., 0]
    by_pixel = restore(mode, cube, mask=pixels, sigma=SIGMA)
    by_band = restore(mode, cube, mask=np.repeat(pixels[..., None], BANDS, 2), sigma=SIGMA)
    np.testing.assert_array_equal(by_pixel.cube, by_band.cube)


@pytest.mark.parametrize("mode", OURS)
def test_bands_that_cannot_be_restored(mode):
    cube = degraded().copy()
    cube[..., 3], cube[..., 7] = np.nan, 42.0
    cube[4, 5, 7] = np.nan
    found = restore(mode, cube, sigma=SIGMA)
    assert np.isnan(found.cube[..., 3]).all()
    assert np.isnan(found.uncertainty[..., 3]).all()
    assert (found.cube[..., 7] == 42).all()
    assert (found.uncertainty[..., 7] == 0).all()
    others = [band for band in range(BANDS) if band not in (3, 7)]
    assert rmse(found.cube[..., others], clean()[..., others]) < 0.5 * SIGMA


@pytest.mark.parametrize("mode", FAST)
def test_constant_cube_comes_back(mode):
    found = restore(mode, np.full((9, 11, 3), 5.0))
    assert (found.cube == 5).all()
    assert (found.uncertainty == 0).all()


@pytest.mark.parametrize("mode", OURS)
def test_one_band_and_a_plain_image(mode):
    image = clean()[:24, :30, :1]
    noisy_image = noisy(image, SIGMA)
    cube, flat = restore(mode, noisy_image, sigma=SIGMA), restore(mode, noisy_image[..., 0], sigma=SIGMA)
    assert cube.cube.shape == flat.cube.shape == image.shape
    np.testing.assert_array_equal(cube.cube, flat.cube)
    assert rmse(cube.cube, image) < 0.95 * SIGMA


@pytest.mark.parametrize("mode", OURS)
@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 30, 4), (5, 3, 40), (2, 2, 1)])
def test_tiny_cubes(mode, shape):
    cube = numpy_generator(0, "tiny", *shape).random(shape).astype(np.float32)
    for sigma in (0.1, None):
        found = restore(mode, cube, sigma=sigma)
        assert found.cube.shape == shape
        assert np.isfinite(found.cube).all()
        assert np.abs(found.cube - cube).max() < 2


@pytest.mark.parametrize("mode", OURS)
def test_result_is_a_function_of_cube_and_seed(mode):
    cube = np.where(holes(0.6), degraded(), np.nan)[:20, :24]
    first, again, other = (restore(mode, cube, sigma=SIGMA, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.cube, again.cube)
    np.testing.assert_array_equal(first.uncertainty, again.uncertainty)
    assert not np.array_equal(first.cube, other.cube)
    assert rmse(first.cube, other.cube) < SIGMA / 2


def test_runs_of_the_published_recipe_are_averaged():
    one, three = (
        DDS2M("paper", steps=20, rank=2, runs=runs, device="cpu").restore(degraded()[:10, :14], sigma=SIGMA)
        for runs in (1, 3)
    )
    assert (one.uncertainty == 0).all()
    assert (three.uncertainty > 0).mean() > 0.99
    assert rmse(three.cube, clean()[:10, :14]) < rmse(one.cube, clean()[:10, :14])


@pytest.mark.parametrize("mode", FAST)
def test_noise_level_of_each_band(mode):
    levels = np.geomspace(0.02, 0.3, BANDS).astype(np.float32)
    cube = noisy(clean(), levels)
    each = restore(mode, cube, sigma=levels)
    one = restore(mode, cube, sigma=float(np.sqrt(np.mean(levels**2))))
    assert rmse(each.cube, clean()) < 0.8 * rmse(one.cube, clean())
    spread = np.sqrt((each.uncertainty**2).mean((0, 1)))
    assert (spread < 1.2 * levels + 0.02).all()


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("sigma", [0.0, 0.001, 0.005])
def test_little_noise_leaves_the_cube_alone(mode, sigma):
    found = restore(mode, noisy(clean(), sigma), sigma=sigma)
    assert found.log["impulses"] < 0.05
    assert rmse(found.cube, clean()) < max(sigma, 0.003)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("mode", OURS)
def test_super_resolution_of_a_rectangle(mode, factor):
    import torch

    rows, columns = 12 * factor, 17 * factor
    whole = clean_cube(rows, columns, 8, seed=2)
    operator = BicubicDownsampling(factor, rows, columns, 8)

    def down(cube: np.ndarray) -> np.ndarray:
        return operator.A(torch.from_numpy(cube).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()

    found = restore(mode, noisy(down(whole), 0.02), factor=factor, sigma=0.02)
    assert found.cube.shape == found.uncertainty.shape == whole.shape
    assert found.log["task"] == "sr"
    assert rmse(down(found.cube), down(whole)) < 0.06
    nearest = noisy(down(whole), 0.02).repeat(factor, 0).repeat(factor, 1)
    assert rmse(found.cube, whole) < rmse(nearest, whole)


@pytest.mark.parametrize("mode", OURS)
def test_uncertainty_is_that_of_the_error(mode):
    ratios = []
    for seed in (0, 2):
        truth = clean_cube(40, 40, BANDS, seed=seed)
        found = restore(mode, noisy(truth, SIGMA, seed), sigma=SIGMA)
        assert (found.uncertainty > 0).all()
        ratios.append(float(np.sqrt(np.mean(found.uncertainty**2))) / rmse(found.cube, truth))
    assert all(0.5 < ratio < 2 for ratio in ratios), ratios


def test_uncertainty_is_larger_where_nothing_was_measured():
    seen = np.ones((ROWS, COLUMNS), bool)
    seen[15:25, 20:32] = False
    for mode in FAST:
        spread = restore(mode, degraded(), mask=seen, sigma=SIGMA).uncertainty
        assert spread[18:22, 24:28].mean() > 1.5 * spread[seen].mean()


def test_fit_of_default_never_raises_the_withheld_error():
    for seed in (0, 2):
        log = restore("default", noisy(clean_cube(32, 40, BANDS, seed=seed), SIGMA), seed=seed).log["fit"]
        errors = log["withheld_error"]
        assert errors[log["best_step"]] == min(errors.values())
        assert errors[log["best_step"]] <= errors[0]


@pytest.mark.parametrize("mode", FAST)
def test_stripes_and_dead_columns_are_seen(mode, monkeypatch):
    truth = clean_cube(64, 48, BANDS, seed=2)
    rng = numpy_generator(0, "stripes")
    stripes = np.where(rng.random((48, BANDS)) < 0.12, rng.uniform(-0.3, 0.3, (48, BANDS)), 0)
    cube = noisy(truth + stripes, 0.05)
    cube[:, 7, 2] = cube[:, 30, 9] = 0
    seen = restore(mode, cube, sigma=0.05)
    assert seen.log["dead"] == pytest.approx(2 * 64 / cube.size)
    assert seen.log["striped_columns"] > 0.5
    monkeypatch.setattr(dds2m, "clean_measurement", lambda data, rank: (data, {}))
    blind = restore(mode, cube, sigma=0.05)
    assert rmse(seen.cube, truth) < 0.7 * rmse(blind.cube, truth)


@pytest.mark.parametrize("mode", FAST)
def test_statistics_of_the_scene_serve_its_windows(mode):
    statistics = gather([(degraded(), np.ones(degraded().shape, bool))])
    whole, told = restore(mode, degraded()), restore(mode, degraded(), statistics=statistics)
    np.testing.assert_array_equal(whole.cube, told.cube)
    window = degraded()[:, 20:50].copy()
    window[..., 2] = window[0, 0, 2]
    found = restore(mode, window, statistics=statistics)
    assert np.isfinite(found.cube).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.ones((5, 5))}, "mask of shape"),
        ({"mask": np.ones((ROWS, COLUMNS, 2))}, "mask of shape"),
        ({"mask": np.zeros((ROWS, COLUMNS))}, "no sample"),
        ({"sigma": -0.1}, "not a noise level"),
        ({"sigma": np.nan}, "not a noise level"),
        ({"sigma": np.ones(3)}, "for 12 bands"),
        ({"task": "paint"}, "unknown task"),
        ({"task": "sr"}, "super-resolution"),
        ({"task": "sr", "factor": 1}, "super-resolution"),
        ({"factor": 2.5}, "super-resolution"),
        ({"task": "denoise", "factor": 2}, "does not go with"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        restore("subspace", degraded(), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "cube", [np.ones(4), np.ones((2, 3, 4, 5)), np.ones((0, 3, 2)), np.full((4, 5, 2), np.nan)]
)
def test_wrong_cubes_are_told(cube):
    with pytest.raises(InputError):
        restore("subspace", cube)


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "magic"}, {"rank": 0}, {"steps": 0}, {"runs": -1}, {"device": "cuda:99"}, {"precision": "8"}],
)
def test_wrong_settings_are_told(arguments):
    with pytest.raises(InputError):
        DDS2M(**arguments)


@pytest.mark.parametrize("share", [0.002, 0.005, 0.02])
def test_hardly_any_noise_leaves_the_cube_no_worse(share):
    clean = clean_cube(48, 56, 24, 12, seed=5)
    clean += 0.01 * numpy_generator(0, "texture").random(clean.shape, np.float32)
    sigma = share * float(np.ptp(clean))
    restored = DDS2M(mode="subspace").restore(noisy(clean, sigma), sigma=sigma)
    assert np.sqrt(((restored.cube - clean) ** 2).mean()) < 1.02 * sigma
