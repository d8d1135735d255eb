"""Sharpness of occluding edges: the scale-invariant boundary scores of Depth Pro (Bochkovskii et al. 2024).

Between two neighbours, pixel a is before b where u_a / u_b > t, u = 1 / depth. The four directions (left of,
right of, above, below) are counted apart and averaged. Scores are means over thresholds from 1.05 to 1.25,
weighted by the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.depth.alignment import FLOOR, Map, Mask

THRESHOLDS = np.linspace(1.05, 1.25, 10)
MATTE = 0.1
"""A pixel of a matte above this belongs to the object."""


@dataclass(frozen=True)
class Boundaries:
    """Scores at one threshold, each in [0, 1]; `f1` is 0 where nothing agrees."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def boundaries(
    prediction: NDArray[np.floating],
    truth: NDArray[np.floating],
    threshold: float,
    valid: Mask | None = None,
) -> Boundaries:
    """Precision and recall of the edges of a depth map.

    Args:
        prediction: (height, width) depth, aligned: a shift would change the ratios.
        truth: (height, width) depth, dense; 0 counts as 1e-6.
        threshold: t, above 1.
        valid: (height, width); only pairs with both pixels valid count. None for all.
    """
    found, true = _ratios(prediction), _ratios(truth)
    pairs = _both(np.ones(truth.shape, bool) if valid is None else valid)
    edges = [((f > threshold) & b, (t > threshold) & b) for f, t, b in zip(found, true, pairs, strict=True)]
    return Boundaries(
        precision=float(np.mean([_share(f & t, f) for f, t in edges])),
        recall=float(np.mean([_share(f & t, t) for f, t in edges])),
    )


def boundary_f1(
    prediction: NDArray[np.floating], truth: NDArray[np.floating], valid: Mask | None = None
) -> float:
    """F1 of the edges over all thresholds; arguments as of `boundaries`."""
    return _weighted(lambda threshold: boundaries(prediction, truth, threshold, valid).f1)


def boundary_recall(prediction: NDArray[np.floating], matte: NDArray[np.floating]) -> float:
    """Recall of the outline of a matte over all thresholds, the prediction's edges thinned.

    Args:
        prediction: (height, width) depth.
        matte: (height, width) in [0, 1], 1 on the object, which is before what is around it.
    """
    ratios = _ratios(prediction)
    inside = matte > MATTE
    outline = _outline(inside)

    def recall(threshold: float) -> float:
        return float(np.mean([
            _share(_thinned(ratio, threshold, axis) & true, true)
            for ratio, true, axis in zip(ratios, outline, (1, 1, 0, 0), strict=True)
        ]))  # fmt: skip

    return _weighted(recall)


def _ratios(depth: NDArray[np.floating]) -> tuple[Map, Map, Map, Map]:
    """u_a / u_b for a left of, right of, above and below b."""
    d = np.maximum(depth.astype(np.float64), FLOOR)
    across, down = d[:, 1:] / d[:, :-1], d[1:] / d[:-1]
    return across, 1 / across, down, 1 / down


def _both(valid: Mask) -> tuple[Mask, Mask, Mask, Mask]:
    across, down = valid[:, 1:] & valid[:, :-1], valid[1:] & valid[:-1]
    return across, across, down, down


def _outline(inside: Mask) -> tuple[Mask, Mask, Mask, Mask]:
    left, right = inside[:, :-1], inside[:, 1:]
    above, below = inside[:-1], inside[1:]
    return left & ~right, right & ~left, above & ~below, below & ~above


def _thinned(ratio: Map, threshold: float, axis: int) -> Mask:
    """Of each run of ratios above the threshold along an axis, the first of its greatest."""
    lines = ratio if axis == 1 else ratio.T
    above = lines > threshold
    starts = above & ~np.pad(above, ((0, 0), (1, 0)))[:, :-1]
    run = np.where(above, np.cumsum(starts).reshape(starts.shape) - 1, -1)
    rows, columns = np.nonzero(above)
    number = run[rows, columns]
    greatest = np.zeros(int(starts.sum()))
    np.maximum.at(greatest, number, lines[rows, columns])
    top = np.flatnonzero(lines[rows, columns] == greatest[number])
    first = top[np.unique(number[top], return_index=True)[1]]
    thin = np.zeros_like(above)
    thin[rows[first], columns[first]] = True
    return thin if axis == 1 else thin.T


def _share(part: Mask, whole: Mask) -> float:
    return float(np.count_nonzero(part)) / max(int(np.count_nonzero(whole)), 1)


def _weighted(score: Callable[[float], float]) -> float:
    values = np.array([score(float(threshold)) for threshold in THRESHOLDS])
    return float(values @ THRESHOLDS / THRESHOLDS.sum())
