"""All figures of one picture's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from diffusion_suite.core.errors import InputError
from diffusion_suite.depth.alignment import Alignment, Estimate, Map, Mask, align
from diffusion_suite.depth.boundaries import boundary_f1
from diffusion_suite.depth.io.maps import Map as Stored
from diffusion_suite.depth.io.maps import resized
from diffusion_suite.depth.io.pictures import RGB
from diffusion_suite.depth.metrics import Metrics, score
from diffusion_suite.depth.pairs import Pair
from diffusion_suite.depth.protocols import Protocol, lidar
from diffusion_suite.depth.sparsification import Sparsification, sparsification

DENSE = 0.5
"""Share of measured pixels from which on boundaries are scored."""

IN_UNITS = ("sq_rel", "rmse", "i_rmse")
"""Figures that mean nothing where the truth is a disparity of unknown scale."""


@dataclass(frozen=True)
class Case:
    """A picture with what is measured of it.

    Attributes:
        name: of the picture.
        rgb: (height, width, 3), 8 bit, cut as the protocol says.
        truth: (height, width) depth, NaN where nothing was measured.
        valid: (height, width), the pixels that count.
        bounds: the aligned prediction is clipped to them.
        fitted: see `align`.
        relative: the truth is the inverse of a disparity of unknown scale and offset.
    """

    name: str
    rgb: RGB
    truth: Stored
    valid: Mask
    bounds: tuple[float, float]
    fitted: Mask | None = None
    relative: bool = False


@dataclass(frozen=True)
class Guess:
    """A method's prediction of a picture, at the truth's size.

    Attributes:
        estimate: the map.
        spread: of log-depth over an ensemble, or None.
        seconds: it took, or None.
        megabytes: of device memory at the most, or None where that is not known.
    """

    estimate: Estimate
    spread: Stored | None = None
    seconds: float | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class Row:
    """Figures of a prediction under one alignment.

    Attributes:
        picture, method, alignment: of what.
        metrics: the errors.
        boundary_f1: None where the truth is sparse.
        uncertainty: does the spread tell the error? None without a spread.
        seconds: of the prediction, or None.
        megabytes: of device memory at the most, or None.
        relative: figures that have a unit mean nothing.
    """

    picture: str
    method: str
    alignment: str
    metrics: Metrics
    boundary_f1: float | None = None
    uncertainty: Sparsification | None = None
    seconds: float | None = None
    megabytes: float | None = None
    relative: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain, for JSON."""
        figures: dict[str, float | None] = {**self.metrics.as_dict()}
        if self.relative:
            figures |= dict.fromkeys(IN_UNITS)
        row: dict[str, Any] = {"picture": self.picture, "method": self.method, "alignment": self.alignment}
        row |= {name: None if value is None else round(value, 6) for name, value in figures.items()}
        if self.boundary_f1 is not None:
            row["boundary_f1"] = round(self.boundary_f1, 6)
        if self.uncertainty is not None:
            row["ause"] = round(self.uncertainty.ause, 6)
            row["ause_of_chance"] = round(self.uncertainty.random_ause, 6)
            row["rank_correlation"] = round(self.uncertainty.rank_correlation, 6)
        if self.seconds is not None:
            row["seconds"] = round(self.seconds, 3)
        if self.megabytes is not None:
            row["megabytes"] = round(self.megabytes, 1)
        return row


def case_of(pair: Pair, protocol: Protocol, beams: int = 0) -> Case:
    """What a protocol measures of a pair.

    Args:
        pair: the files.
        protocol: range, cut and crop.
        beams: of a scanner, to whose points the measured pixels are thinned; 0 for none.

    Raises:
        InputError: a file cannot be used, or no pixel is left to measure.
    """
    found = pair.read()
    height, width = found.depth.shape
    rows, columns = protocol.cut_window(height, width)
    truth = found.depth[rows, columns]
    valid = protocol.valid(truth) & pair.counts(height, width)[rows, columns]
    if beams:
        valid &= lidar((height, width), pair.focal, beams)[rows, columns]
    if not valid.any():
        raise InputError(
            f"{pair.truth} has no pixel to measure", "check unit, nearest, farthest and protocol"
        )
    rgb = found.rgb
    if protocol.cut is not None and rgb.shape[:2] == (height, width):
        rgb = rgb[rows, columns]
    bounds = (protocol.nearest, protocol.farthest)
    if found.relative:
        bounds = (float(truth[valid].min()) / 100, float(truth[valid].max()) * 100)
    return Case(pair.name, rgb, truth, valid, bounds, protocol.fitted(*truth.shape), found.relative)


def fitting(case: Case, values: Stored) -> Stored:
    """A map at the size of the case's truth, bilinear."""
    return resized(values, (case.truth.shape[1], case.truth.shape[0]))


def aligned(case: Case, guess: Guess, alignment: str) -> Map:
    """The prediction in the truth's unit."""
    name = cast("Alignment", alignment)
    try:
        return align(guess.estimate, case.truth, case.valid, name, case.bounds, case.fitted).depth
    except InputError as error:
        raise InputError(f"{case.name}: {error.problem}", error.remedy) from error


def measured(case: Case, guesses: Mapping[str, Guess], alignments: Sequence[str]) -> list[Row]:
    """Figures of every method under every alignment; a disparity of unknown scale is only fitted as such."""
    chosen = ["disparity"] if case.relative else alignments
    return [_row(case, name, guess, alignment) for name, guess in guesses.items() for alignment in chosen]


def _row(case: Case, method: str, guess: Guess, alignment: str) -> Row:
    depth = aligned(case, guess, alignment)
    dense = case.valid.mean() >= DENSE
    edges = boundary_f1(depth, np.where(case.valid, case.truth, 1.0), case.valid) if dense else None
    uncertainty = None
    if guess.spread is not None:
        in_log = aligned(case, guess, "disparity" if case.relative else "log_affine")
        error = np.abs(np.log(in_log[case.valid]) - np.log(case.truth[case.valid].astype(np.float64)))
        uncertainty = sparsification(guess.spread[case.valid], error)
    metrics = score(depth, case.truth, case.valid)
    cost = (guess.seconds, guess.megabytes)
    return Row(case.name, method, alignment, metrics, edges, uncertainty, *cost, case.relative)


def ramp(case: Case) -> Guess:
    """Depth that rises linearly from the bottom row to the top one: what knows nothing of the picture."""
    height, width = case.truth.shape
    rows = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    return Guess(Estimate(np.repeat(rows, width, 1), "relative"))
