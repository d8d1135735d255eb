"""Bringing a relative prediction to the unit of the truth by least squares over the measured pixels.

The space in which the line is fitted is the alignment's name:

| alignment | fit | aligned depth |
|---|---|---|
| `affine` | a p + b = g | a p + b |
| `scale` | a p = g | a p |
| `log_affine` | a ln p + b = ln g | exp(a ln p + b) |
| `disparity` | a / p + b = 1 / g | 1 / max(a / p + b, 1e-3) |
| `none` | | p |

Here p is the predicted and g the true depth. `affine` and `disparity` follow the protocol of Marigold's
public evaluation; a network of normalised log-depth is exact only under `log_affine`.

    >>> import numpy as np
    >>> truth = np.array([[1.0, 2.0, 4.0]])
    >>> found = align(Estimate(np.array([[-1.0, 0.0, 1.0]]), "log_depth"), truth, truth > 0, "log_affine")
    >>> found.depth.round(6).tolist(), round(found.scale, 6), round(found.shift, 6)
    ([[1.0, 2.0, 4.0]], 0.693147, 0.693147)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.errors import InputError

Alignment = Literal["affine", "log_affine", "scale", "disparity", "none"]
Kind = Literal["depth", "relative", "log_depth", "disparity"]
Map = NDArray[np.float64]
Mask = NDArray[np.bool_]

ALIGNMENTS: tuple[str, ...] = get_args(Alignment)
KINDS: tuple[str, ...] = get_args(Kind)

FLOOR = 1e-6
"""The least depth that is taken a logarithm or an inverse of."""

LEAST_DISPARITY = 1e-3


@dataclass(frozen=True)
class Estimate:
    """A predicted map and what its numbers are.

    Attributes:
        values: (height, width).
        kind: `depth` (larger is farther), `relative` (exp(y) put between 0 and 1, as published), `log_depth`
            (the logarithm of depth, or the network's y) or `disparity` (larger is nearer). Each in units of
            its own unless the alignment is `none`.
    """

    values: NDArray[np.floating]
    kind: Kind = "depth"

    def depth(self) -> Map:
        """Depth; exp of log-depth, inverse of disparity, relative depth put back between 1/e and e."""
        values = self.values.astype(np.float64)
        if self.kind == "log_depth":
            return np.exp(values)
        if self.kind == "relative":
            return np.asarray(np.exp(-1.0) + (np.exp(1.0) - np.exp(-1.0)) * values)
        return 1 / np.maximum(values, LEAST_DISPARITY) if self.kind == "disparity" else values

    def log_depth(self) -> Map:
        """Log-depth."""
        if self.kind == "log_depth":
            return self.values.astype(np.float64)
        return np.log(np.maximum(self.depth(), FLOOR))

    def disparity(self) -> Map:
        """Inverse depth."""
        if self.kind == "disparity":
            return self.values.astype(np.float64)
        return 1 / np.maximum(self.depth(), FLOOR)


@dataclass(frozen=True)
class Aligned:
    """A prediction in the truth's unit.

    Attributes:
        depth: (height, width), within the bounds.
        scale: a of the fit, in its space.
        shift: b of the fit.
    """

    depth: Map
    scale: float
    shift: float


def align(
    prediction: Estimate,
    truth: NDArray[np.floating],
    valid: Mask,
    alignment: Alignment = "affine",
    bounds: tuple[float, float] = (FLOOR, np.inf),
    fitted: Mask | None = None,
) -> Aligned:
    """Fit a prediction to the truth.

    Args:
        prediction: of the truth's shape.
        truth: (height, width) depth, larger than 0 where valid.
        valid: (height, width), the measured pixels.
        alignment: see the head of the module.
        bounds: least and greatest depth of the set; the aligned depth is clipped to them, and to 1e-6.
        fitted: (height, width), which of the valid pixels are fitted; None for all.

    Raises:
        InputError: other shapes, no valid pixel, or a prediction that is no number at a valid one.
    """
    if not prediction.values.shape == truth.shape == valid.shape:
        raise InputError(
            f"a prediction of {_size(prediction.values)} for a truth of {_size(truth)}",
            "resize the prediction to the truth",
        )
    if not valid.any():
        raise InputError("the truth has no valid pixel", "check min_depth, max_depth and the crop")
    lost = int((~np.isfinite(prediction.values[valid])).sum())
    if lost:
        raise InputError(
            f"the prediction is no finite number at {lost} of {int(valid.sum())} measured pixels",
            "fill them before the evaluation",
        )
    used = valid if fitted is None or not (valid & fitted).any() else valid & fitted
    goal = np.maximum(truth[used].astype(np.float64), FLOOR)
    if alignment == "log_affine":
        x = prediction.log_depth()
        scale, shift = line(x[used], np.log(goal))
        depth = np.exp(np.minimum(scale * x + shift, 700.0))
    elif alignment == "disparity":
        x = prediction.disparity()
        scale, shift = line(x[used], 1 / goal)
        depth = 1 / np.maximum(scale * x + shift, LEAST_DISPARITY)
    else:
        x = prediction.depth()
        scale, shift = {"affine": line, "scale": ray, "none": _identity}[alignment](x[used], goal)
        depth = scale * x + shift
    return Aligned(np.clip(depth, max(bounds[0], FLOOR), bounds[1]), scale, shift)


def line(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float]:
    """Scale and shift of the least-squares line; a flat `x` gets the scale 0 and the mean of `y`."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    x_mean, y_mean = float(x.mean()), float(y.mean())
    x = x - x_mean
    energy = float(x @ x)
    if energy <= len(x) * (1e-9 * max(abs(x_mean), 1e-9)) ** 2:
        return 0.0, y_mean
    scale = float(x @ (y - y_mean)) / energy
    return scale, y_mean - scale * x_mean


def ray(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float]:
    """Scale of the least-squares line through 0, and 0; an `x` of zeros gets the scale 0."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    energy = float(x @ x)
    return (float(x @ y) / energy if energy > 0 else 0.0), 0.0


def _identity(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float]:
    return 1.0, 0.0


def _size(values: NDArray[np.generic]) -> str:
    return " x ".join(map(str, values.shape))
