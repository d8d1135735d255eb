"""Known depths make a prediction metric, though some are wrong; completion follows them."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.metric import between, complete, fit, known_at

HEIGHT, WIDTH = 60, 80


def scene() -> tuple[np.ndarray, np.ndarray]:
    """y of a network, and the true depth, which is not quite a line of it in log space."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    true = 1.2 * np.sin(columns / 15) + rows / 50 + 0.8 * (columns > 40)
    y = 0.9 * np.sin(columns / 15) + rows / 40 + 0.6 * (columns > 40)
    y = 2 * (y - y.min()) / np.ptp(y) - 1
    return y.astype(np.float32), np.exp(true)


def some(depth: np.ndarray, count: int, wrong: float = 0.0) -> np.ndarray:
    """Known depths (count, 3), a share of them wrong by factors up to 3."""
    rng = numpy_generator("known", count)
    columns, rows = rng.integers(WIDTH, size=count), rng.integers(HEIGHT, size=count)
    known = np.stack([columns, rows, depth[rows, columns]], 1).astype(np.float64)
    bad = int(wrong * count)
    known[:bad, 2] *= np.exp(rng.uniform(0.5, 1.1, bad))
    return known


@pytest.mark.parametrize("count", [2, 3, 40, 3000])
@pytest.mark.parametrize("slope", [0.6, 1.0, 2.5])
def test_an_exact_line_is_found(count: int, slope: float) -> None:
    y = np.linspace(-1, 1, count)
    found = fit(y, np.exp(slope * y - 0.3))
    assert found.slope == pytest.approx(slope, abs=2e-3)
    assert found.shift == pytest.approx(-0.3, abs=2e-3)
    assert found.points == count
    np.testing.assert_allclose(found.depth(y), np.exp(slope * y - 0.3), rtol=5e-3)


def test_a_quarter_of_wrong_depths_has_no_say() -> None:
    rng = numpy_generator("fit")
    y = rng.uniform(-1, 1, 200)
    depth = np.exp(1.4 * y + 0.7 + rng.normal(0, 0.02, 200))
    depth[:50] *= 5
    found = fit(y, depth)
    assert found.slope == pytest.approx(1.4, abs=0.02)
    assert found.shift == pytest.approx(0.7, abs=0.02)


def test_one_depth_tells_the_shift() -> None:
    found = fit(np.array([0.5]), np.array([3.0]))
    assert found.slope == 1.0
    assert found.depth(np.array([0.5]))[0] == pytest.approx(3.0)
    same = fit(np.full(5, 0.5), np.full(5, 3.0))
    assert same.slope == pytest.approx(1.0)


def test_depths_that_do_not_go_with_the_prediction() -> None:
    y = np.linspace(-1, 1, 50)
    with pytest.raises(InputError, match="larger is farther"):
        fit(y, np.exp(-y))
    with pytest.raises(InputError, match="no known depth"):
        fit(np.array([]), np.array([]))


def test_near_and_far() -> None:
    line = between(0.5, 8)
    np.testing.assert_allclose(line.depth(np.array([-1.0, 0.0, 1.0])), [0.5, 2.0, 8.0])


def test_completion_follows_what_is_known() -> None:
    y, depth = scene()
    known = some(depth, 400)
    line = fit(known_at(y, known), known[:, 2])
    whole = complete(y, known, line)
    places = known[:, 1].astype(int), known[:, 0].astype(int)
    error, before = (np.abs(d - depth) / depth for d in (whole, line.depth(y)))
    assert before.mean() > 0.08
    assert error.mean() < 0.15 * before.mean()
    assert np.median(error[places]) < 1e-3


def test_wrong_depths_do_not_spoil_a_completion() -> None:
    y, depth = scene()
    known = some(depth, 800, wrong=0.15)
    line = fit(known_at(y, known), known[:, 2])
    error, before = (np.abs(d - depth) / depth for d in (complete(y, known, line), line.depth(y)))
    assert error.mean() < 0.6 * before.mean()


def test_completion_of_a_flat_prediction() -> None:
    y = np.zeros((20, 30), np.float32)
    known = np.array([[3.0, 4.0, 2.0], [20.0, 10.0, 2.0]])
    whole = complete(y, known, fit(known_at(y, known), known[:, 2]))
    np.testing.assert_allclose(whole, 2.0, rtol=1e-5)


def test_between_pixels() -> None:
    y = np.array([[0.0, 1.0]], np.float32)
    assert known_at(y, np.array([[0.25, 0.0, 1.0]])).tolist() == [0.25]
