"""Errors of a depth map in the truth's unit: the figures of the field's tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.depth.alignment import Map, Mask

LABELS = {
    "abs_rel": "AbsRel",
    "delta1": "δ1",
    "delta2": "δ2",
    "delta3": "δ3",
    "rmse": "RMSE",
    "rmse_log": "RMSE log",
    "log10": "log10",
    "silog": "SILog",
    "sq_rel": "SqRel",
    "i_rmse": "iRMSE",
}
"""The figures as tables name them."""


@dataclass(frozen=True)
class Metrics:
    """Figures of one picture; p is the aligned prediction, g the truth, e = ln p - ln g.

    Attributes:
        abs_rel: mean |p - g| / g.
        sq_rel: mean (p - g)^2 / g, metres.
        rmse: metres.
        rmse_log: root of the mean of e^2.
        log10: mean |log10 p - log10 g|.
        delta1: share of pixels with max(p / g, g / p) < 1.25, in [0, 1].
        delta2: the same for 1.25^2.
        delta3: the same for 1.25^3.
        i_rmse: root mean squared error of 1 / depth, 1 / metre.
        silog: 100 times the standard deviation of e.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    log10: float
    delta1: float
    delta2: float
    delta3: float
    i_rmse: float
    silog: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def score(aligned: Map, truth: NDArray[np.floating], valid: Mask) -> Metrics:
    """The figures over the valid pixels.

    Args:
        aligned: (height, width) depth larger than 0, in the truth's unit.
        truth: (height, width).
        valid: (height, width), with one pixel at least.
    """
    p, g = aligned[valid].astype(np.float64), truth[valid].astype(np.float64)
    e = np.log(p) - np.log(g)
    ratio = np.exp(np.abs(e))
    return Metrics(
        abs_rel=_mean(np.abs(p - g) / g),
        sq_rel=_mean((p - g) ** 2 / g),
        rmse=_root((p - g) ** 2),
        rmse_log=_root(e**2),
        log10=_mean(np.abs(e)) / float(np.log(10)),
        delta1=_mean(ratio < 1.25),
        delta2=_mean(ratio < 1.25**2),
        delta3=_mean(ratio < 1.25**3),
        i_rmse=_root((1 / p - 1 / g) ** 2),
        silog=100 * float(np.std(e)),
    )


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.astype(np.float64).mean())


def _root(squares: NDArray[np.float64]) -> float:
    return float(np.sqrt(squares.mean()))
