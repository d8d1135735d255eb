"""Alignment, metrics, boundary scores, sparsification and protocols: closed forms and bad input."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.alignment import Estimate, align, line
from diffusion_suite.depth.boundaries import boundaries, boundary_f1, boundary_recall
from diffusion_suite.depth.metrics import Metrics, score
from diffusion_suite.depth.protocols import PROTOCOLS, lidar
from diffusion_suite.depth.sparsification import rank_correlation, sparsification

TRUTH = np.exp(numpy_generator(0, "truth").uniform(0, 2, (12, 17)))
ALL = np.ones(TRUTH.shape, bool)


@pytest.mark.parametrize(
    ("alignment", "values", "kind", "scale", "shift"),
    [
        ("affine", (TRUTH - 0.5) / 3, "depth", 3, 0.5),
        ("affine", (TRUTH - 0.5) / 3, "relative", 3 / (np.e - 1 / np.e), 0.5 - 3 / (np.e**2 - 1)),
        ("scale", TRUTH / 7, "depth", 7, 0),
        ("log_affine", (np.log(TRUTH) - 1) / 0.3, "log_depth", 0.3, 1),
        ("log_affine", TRUTH**2, "depth", 0.5, 0),
        ("disparity", 4 / TRUTH + 2, "disparity", 0.25, -0.5),
        ("disparity", TRUTH / 2, "depth", 0.5, 0),
        ("none", np.log(TRUTH), "log_depth", 1, 0),
    ],
)
def test_alignment_undoes_what_was_done_to_the_truth(alignment, values, kind, scale, shift):
    found = align(Estimate(values, kind), TRUTH, ALL, alignment)
    assert_allclose(found.depth, TRUTH, rtol=1e-9)
    assert (found.scale, found.shift) == pytest.approx((scale, shift), abs=1e-9)


def test_only_valid_pixels_are_fitted_and_the_result_is_clipped():
    valid = TRUTH < 5
    values = np.where(valid, TRUTH, 1e6)
    found = align(Estimate(values), TRUTH, valid, "affine", (1.5, 4.0))
    assert_allclose(found.depth[valid], TRUTH[valid].clip(1.5, 4.0), rtol=1e-6)
    part = np.zeros_like(valid)
    part[::3] = True
    wrong = np.where(part, TRUTH, 2 * TRUTH)
    assert align(Estimate(wrong), TRUTH, ALL, "scale", fitted=part).scale == pytest.approx(1)
    assert align(Estimate(wrong), TRUTH, ALL, "scale", fitted=~ALL).scale < 0.8


@pytest.mark.parametrize("alignment", ["affine", "scale", "log_affine", "disparity"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-12])
@pytest.mark.parametrize("kind", ["depth", "relative", "log_depth", "disparity"])
def test_flat_prediction_gives_finite_depth(alignment, value, kind):
    found = align(Estimate(np.full(TRUTH.shape, value), kind), TRUTH, ALL, alignment, (1e-3, 80))
    assert np.isfinite(found.depth).all()
    assert all(np.isfinite(number) for number in score(found.depth, TRUTH, ALL).as_dict().values())
    if alignment == "affine":
        assert_allclose(found.depth, TRUTH.mean())


def test_flat_truth_and_one_pixel_can_be_aligned():
    flat = np.full(TRUTH.shape, 2.5)
    assert_allclose(align(Estimate(TRUTH), flat, ALL, "affine").depth, 2.5)
    one = np.zeros_like(ALL)
    one[3, 4] = True
    for alignment in ("affine", "scale", "log_affine", "disparity"):
        found = align(Estimate(TRUTH), TRUTH, one, alignment)
        assert found.depth[3, 4] == pytest.approx(TRUTH[3, 4])


def test_line_is_that_of_least_squares_far_from_zero():
    x = 1e4 + numpy_generator(1).uniform(0, 1, 400)
    y = 3 * x - 7 + numpy_generator(2).normal(0, 0.1, 400)
    expected = np.polyfit(x - x.mean(), y, 1)
    scale, shift = line(x, y)
    assert (scale, shift + scale * x.mean()) == pytest.approx(tuple(expected), rel=1e-9)


def test_unusable_maps_are_refused():
    with pytest.raises(InputError, match="12 x 16 for a truth of 12 x 17"):
        align(Estimate(TRUTH[:, 1:]), TRUTH, ALL)
    with pytest.raises(InputError, match="no valid pixel"):
        align(Estimate(TRUTH), TRUTH, ~ALL)
    broken = TRUTH.copy()
    broken[0, :3] = np.nan
    with pytest.raises(InputError, match="no finite number at 3 of 204"):
        align(Estimate(broken), TRUTH, ALL)
    assert np.isfinite(align(Estimate(broken), TRUTH, np.isfinite(broken)).scale)


def test_metrics_of_a_constant_ratio():
    found = score(1.3 * TRUTH, TRUTH, ALL)
    assert found.abs_rel == pytest.approx(0.3)
    assert found.log10 == pytest.approx(np.log10(1.3))
    assert found.rmse_log == pytest.approx(np.log(1.3))
    assert found.silog == pytest.approx(0, abs=1e-5)
    assert (found.delta1, found.delta2, found.delta3) == (0, 1, 1)
    assert found.sq_rel == pytest.approx(0.09 * TRUTH.mean())
    assert found.rmse == pytest.approx(0.3 * np.sqrt((TRUTH**2).mean()))
    assert found.i_rmse == pytest.approx((1 - 1 / 1.3) * np.sqrt((TRUTH**-2.0).mean()))
    perfect = score(TRUTH, TRUTH, ALL)
    assert perfect == Metrics(0, 0, 0, 0, 0, 1, 1, 1, 0, 0)


def step_edge(near=1.0, far=2.0, column=6):
    depth = np.full((8, 12), far)
    depth[:, column:] = near
    return depth


def test_boundaries_of_a_shifted_edge():
    truth = step_edge()
    corner = np.where(np.arange(8)[:, None] < 4, truth, truth + 3)
    hill = np.ones((9, 9))
    hill[3:6, 3:6] = 0.5
    assert boundary_f1(hill, hill) == pytest.approx(1)
    assert boundary_f1(3 * hill, hill) == pytest.approx(1)
    assert boundary_f1(corner, corner) == pytest.approx(0.5)
    assert boundary_f1(truth, truth) == pytest.approx(0.25)
    assert boundaries(step_edge(column=7), truth, 1.1).f1 == 0
    assert boundaries(np.ones_like(truth), truth, 1.1).f1 == 0
    both = np.where(np.arange(12) < 3, 1.0, truth)
    found = boundaries(both, truth, 1.1)
    assert (found.precision, found.recall) == (0.25, 0.25)
    assert boundaries(truth, both, 1.1).recall == 0.25


def test_boundaries_leave_out_pairs_with_a_hole():
    truth, valid = step_edge(), np.ones((8, 12), bool)
    valid[:, 6] = False
    assert boundaries(truth, truth, 1.1, valid).recall == 0
    valid[:4, 6] = True
    assert boundaries(truth, truth, 1.1, valid).recall == 0.25


def test_boundary_recall_thins_a_ramp():
    truth = step_edge()
    matte = (truth < 1.5).astype(float)
    assert boundary_recall(truth, matte) == pytest.approx(0.25)
    ramp = np.broadcast_to(np.array([2, 2, 2, 2, 2, 2, 1.8, 1.0, 1, 1, 1, 1.0]), truth.shape)
    assert boundary_recall(ramp, matte) == 0
    assert boundary_recall(np.roll(ramp, -1, 1), matte) == pytest.approx(0.25)


def test_sparsification_of_oracle_random_and_reversed_uncertainty():
    error = numpy_generator(3).uniform(0, 1, 4000)
    perfect = sparsification(error, error)
    assert perfect.ause == pytest.approx(0)
    assert perfect.rank_correlation == pytest.approx(1)
    blind = sparsification(numpy_generator(4).uniform(0, 1, 4000), error)
    assert blind.ause == pytest.approx(blind.random_ause, rel=0.1)
    assert abs(blind.rank_correlation) < 0.05
    assert sparsification(-error, error).ause > 1.5 * blind.ause
    assert perfect.error[0] == pytest.approx(1)
    assert perfect.random_ause == pytest.approx(0.475 * 0.95, rel=0.03)


def test_sparsification_of_flat_maps():
    flat = np.zeros(50)
    assert sparsification(flat, flat).ause == 0
    assert sparsification(flat, np.arange(50.0)).rank_correlation == 0
    assert np.isfinite(sparsification(np.arange(1.0), np.ones(1)).ause)


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = numpy_generator(5).integers(0, 9, 100), numpy_generator(6).normal(size=100)
    b = b + 0.3 * a
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_crops_of_the_table():
    assert PROTOCOLS["nyu"].counts(480, 640)[45:471, 41:601].all()
    assert PROTOCOLS["nyu"].counts(480, 640).sum() == (471 - 45) * (601 - 41)
    kitti = PROTOCOLS["kitti"]
    rows, columns = kitti.cut_window(375, 1242)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (23, 375, 13, 1229)
    inside = np.argwhere(kitti.counts(352, 1216))
    assert inside.min(0).tolist() == [117, 43]
    assert inside.max(0).tolist() == [320, 1171]
    truth = np.array([[np.nan, 0, 1e-6, 5], [79, 80, 81, np.inf]])
    assert PROTOCOLS["eth3d"].valid(truth).tolist() == [[False] * 3 + [True], [True] * 3 + [False]]
    for name, size in (("nyu", (479, 640)), ("kitti", (300, 1300))):
        with pytest.raises(InputError, match=f"{size[0]} x {size[1]}"):
            PROTOCOLS[name].cut_window(*size)


def test_fit_of_eth3d_is_on_a_smaller_picture():
    assert PROTOCOLS["eth3d"].fitted(600, 1000) is None
    mask = PROTOCOLS["eth3d"].fitted(2048, 3072)
    assert mask.sum() == 682 * 1024
    assert mask.any(1).sum() == 682


def test_lidar_lies_on_lines_and_is_denser_near_the_horizon():
    mask = lidar((352, 1216), 721.5)
    assert 0.01 < mask.mean() < 0.1
    assert not mask[: 352 // 2 - 34].any()
    assert mask[352 // 2 - 20 :].sum() > 5000
    assert lidar((100, 200)).sum() > 100
    flat = lidar((101, 101), 50.0, beams=1, elevations=(0, 0))
    assert flat.any(1).sum() == 1
