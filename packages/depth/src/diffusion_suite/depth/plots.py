"""Pictures of an evaluation: input, truth, prediction, error and spread; the sparsification curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import atomic_path
from diffusion_suite.depth.colour import coloured, limits
from diffusion_suite.depth.io.maps import Map
from diffusion_suite.depth.io.pictures import RGB
from diffusion_suite.depth.measure import Case, Guess, Row, aligned

DEPTH_COLOURS, ERROR_COLOURS = "Spectral", "magma"
LARGEST_ERROR = 0.5
SIDE = 480
TITLES = ("picture", "true depth", "predicted depth", f"error |p - g| / g, 0 to {LARGEST_ERROR}", "spread")


def panels(case: Case, guess: Guess, alignment: str) -> list[RGB | None]:
    """The five panels of a picture; colours of depth are those of its logarithm over the truth's range."""
    alignment = "disparity" if case.relative else alignment
    depth = aligned(case, guess, alignment)
    truth = np.where(case.valid, case.truth, np.nan).astype(np.float32)
    logs = np.log(truth)
    low, high = limits(logs)
    error = (np.abs(depth - truth) / truth).astype(np.float32)
    spread = None
    if guess.spread is not None:
        spread = coloured(guess.spread, 0.0, limits(guess.spread)[1], ERROR_COLOURS)
    return [
        case.rgb,
        coloured(logs, low, high, DEPTH_COLOURS),
        coloured(np.log(depth).astype(np.float32), low, high, DEPTH_COLOURS),
        coloured(error, 0.0, LARGEST_ERROR, ERROR_COLOURS),
        spread,
    ]


def save_grid(path: Path, shown: Sequence[tuple[Case, Guess]], alignment: str) -> None:
    """One row a picture: input, truth, aligned prediction, relative error, and spread where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = []
    for case, guess in shown:
        try:
            rows.append((case.name, panels(case, guess, alignment)))
        except InputError:
            continue
    if not rows:
        return
    columns = 5 if any(found[4] is not None for _, found in rows) else 4
    figure = Figure(figsize=(3.2 * columns, 2.6 * len(rows) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, found) in zip(axes, rows, strict=True):
        for place, (axis, panel) in enumerate(zip(line, found, strict=False)):
            axis.set_axis_off()
            if panel is not None:
                step = max(1, max(panel.shape[:2]) // SIDE)
                axis.imshow(panel[::step, ::step], interpolation="nearest")
            axis.set_title(name if place == 0 else TITLES[place], fontsize=8)
    with atomic_path(path) as part:
        figure.savefig(part, dpi=110)


def save_sparsification(path: Path, rows: Sequence[Row]) -> None:
    """The mean curve over pictures, beside those of the oracle and of chance; nothing without a spread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = [row.uncertainty for row in rows if row.uncertainty is not None]
    if not found:
        return
    removed = found[0].removed
    error: Map = np.mean([one.error for one in found], 0)
    oracle: Map = np.mean([one.oracle for one in found], 0)
    figure = Figure(figsize=(4.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(removed, error, color="#1f5fbf", label="by the spread")
    axis.plot(removed, oracle, color="#2e8b57", label="by the error itself")
    axis.axhline(1, color="#888888", lw=1, ls=":", label="at random")
    axis.set(xlabel="share of pixels taken away", ylabel="error of the rest, of all = 1", ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    with atomic_path(path) as part:
        figure.savefig(part, dpi=130)
