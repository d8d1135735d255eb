"""Pictures of scenes: quick-look, before and after, spectra, uncertainty; no axes on images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.files import atomic_path
from diffusion_suite.geo.io import Scene, open_scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from diffusion_suite.geo.restoration.outputs import Outputs

Values = npt.NDArray[np.floating[Any]]
Picture = npt.NDArray[np.uint8]

_COMPOSITES = ((650.0, 550.0, 460.0), (1650.0, 860.0, 660.0), (860.0, 660.0, 550.0))
"""Band centres in nanometres shown as red, green and blue: true colour, then two that set off plants."""

_EMPTY = 225
_COLOURS = ("#1f5fbf", "#d1495b", "#2e8b57", "#edae49", "#7b5ea7")
_SPECTRA: tuple[dict[str, Any], ...] = (
    {"ls": "", "marker": ".", "ms": 3.5, "alpha": 0.55},
    {"lw": 1.5},
    {"lw": 1.0, "ls": (0, (2, 2)), "color": "#222222"},
)
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Look:
    """How three bands become red, green and blue; one look for all pictures that are compared.

    Attributes:
        bands: the bands shown as red, green and blue.
        low, high: values shown as black and as full colour, one each.
    """

    bands: tuple[int, int, int]
    low: Values
    high: Values

    @classmethod
    def of(cls, values: Values, wavelengths: Values | None = None) -> Look:
        """The look of a cube: natural colour, else a usual composite, else the three bands least alike.

        Args:
            values: (h, w, bands), NaN where missing.
            wavelengths: band centres in nanometres, or None.
        """
        live = np.flatnonzero(np.isfinite(values).any(axis=(0, 1)))
        if live.size == 0:
            live = np.arange(values.shape[2])
        chosen = None if wavelengths is None else _composite(wavelengths, live)
        return cls.at(values, *(chosen or _contrasting(values, live)))

    @classmethod
    def at(cls, values: Values, *bands: int) -> Look:
        """The look of three bands, or of one in grey, each stretched over its 1 to 99 per cent range."""
        red, green, blue = bands if len(bands) == 3 else bands[:1] * 3
        limits = [_limits(values[..., band]) for band in (red, green, blue)]
        return cls((red, green, blue), np.array([x[0] for x in limits]), np.array([x[1] for x in limits]))

    def image(self, values: Values) -> Picture:
        """(h, w, 3) picture; pixels with no sample in the three bands are light grey."""
        shown = values[..., self.bands]
        empty = np.isnan(shown).all(axis=-1)
        scaled = (np.nan_to_num(shown, nan=-np.inf) - self.low) / (self.high - self.low)
        picture = (np.clip(scaled, 0, 1) ** 0.85 * 255).astype(np.uint8)
        picture[empty] = _EMPTY
        return picture


def _composite(wavelengths: Values, live: npt.NDArray[np.intp]) -> list[int] | None:
    """The bands of the first usual composite that the scene has."""
    for centres in _COMPOSITES:
        nearest = [int(live[np.abs(wavelengths[live] - centre).argmin()]) for centre in centres]
        if all(abs(wavelengths[b] - c) < 45 for b, c in zip(nearest, centres, strict=True)):
            return nearest
    return None


def _contrasting(values: Values, live: npt.NDArray[np.intp], candidates: int = 12) -> list[int]:
    """Three bands that have least in common, the last first: each colour then shows something else."""
    chosen = live[np.unique(np.linspace(0, live.size - 1, candidates).round().astype(int))]
    if chosen.size < 3:
        return [int(chosen[-1]), int(chosen[chosen.size // 2]), int(chosen[0])]
    pixels = values[..., chosen].reshape(-1, chosen.size)
    pixels = pixels[np.isfinite(pixels).all(axis=-1)]
    if len(pixels) < 2:
        return [int(chosen[-1]), int(chosen[chosen.size // 2]), int(chosen[0])]
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.nan_to_num(np.abs(np.corrcoef(pixels, rowvar=False)), nan=1.0)
    best = min(
        combinations(range(chosen.size), 3),
        key=lambda t: alike[t[0], t[1]] + alike[t[1], t[2]] + alike[t[0], t[2]],
    )
    return [int(chosen[index]) for index in reversed(best)]


def _limits(values: Values) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(x) for x in np.percentile(values, (1, 99)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def save_image(path: Path, picture: Picture, side: int = 512) -> None:
    """Write a picture, small ones magnified by whole pixels to about ``side``."""
    from PIL import Image

    times = max(1, side // max(picture.shape[:2]))
    with atomic_path(path) as temporary:
        Image.fromarray(picture.repeat(times, axis=0).repeat(times, axis=1)).save(temporary, optimize=True)


def save_panels(path: Path, panels: Mapping[str, Picture], columns: int = 4) -> None:
    """Write pictures side by side, each under its title, all at the same size."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    first = next(iter(panels.values()))
    height = 3.2 * min(1.6, max(0.5, first.shape[0] / first.shape[1]))
    with _drawing(path, 3.2 * columns, (height + 0.3) * rows) as figure:
        for index, (title, picture) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, columns, index)
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(title, loc="left", pad=4)
            axes.set_axis_off()


def save_spectra(
    path: Path, cubes: Mapping[str, Values], wavelengths: Values | None = None, unit: str = "stored value"
) -> None:
    """Write what `draw_spectra` draws to a PNG file."""
    with _drawing(path, 6.4, 3.4) as figure:
        draw_spectra(figure.add_subplot(), cubes, wavelengths, unit)


def draw_spectra(
    axes: Axes, cubes: Mapping[str, Values], wavelengths: Values | None = None, unit: str = "stored value"
) -> None:
    """Draw the spectra of three pixels (dark, middle, bright) of each cube.

    Args:
        axes: where to draw.
        cubes: (h, w, bands) by name: as measured (dots), restored (lines), clean if known (dashes).
        wavelengths: band centres in nanometres, or None.
        unit: label of the vertical axis.
    """
    last = list(cubes.values())[-1]
    x = np.arange(1, last.shape[2] + 1) if wavelengths is None else wavelengths
    for colour, (row, col) in zip(_COLOURS, _places(last), strict=False):
        for (name, cube), style in zip(cubes.items(), _SPECTRA, strict=False):
            spectrum = cube[int(row * cube.shape[0]), int(col * cube.shape[1])]
            label = name if colour == _COLOURS[0] else None
            axes.plot(*_with_gaps(x, spectrum), label=label, **{"color": colour, **style})
    axes.set_xlabel("band" if wavelengths is None else "wavelength in nm")
    axes.set_ylabel(unit)
    axes.legend(frameon=False)


def _with_gaps(x: Values, y: Values) -> tuple[Values, Values]:
    """The curve broken where the bands leave out a stretch of the spectrum or the next detector begins."""
    known = np.isfinite(y)
    x, y = np.asarray(x[known], dtype=np.float64), y[known]
    steps = np.diff(x)
    usual = np.median(steps) if steps.size else 1.0
    wide = np.flatnonzero((steps / usual > 8) | (steps / usual < 0)) + 1
    return np.insert(x, wide, np.nan), np.insert(y, wide, np.nan)


def save_map(path: Path, values: Values, title: str) -> None:
    """Write one quantity over the scene with its colour bar; values (h, w), NaN is left blank."""
    with _drawing(path, 4.4, 3.9 * min(1.6, max(0.5, values.shape[0] / values.shape[1]))) as figure:
        axes = figure.add_subplot()
        low, high = _limits(values)
        drawn = axes.imshow(values, cmap="magma", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, loc="left", pad=4)
        axes.set_axis_off()
        figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02).outline.set_visible(False)


def save_bars(path: Path, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Write one small bar chart a figure of merit: ``groups[figure][mode]``."""
    with _drawing(path, 2.5 * len(groups), 2.4) as figure:
        for index, (title, values) in enumerate(groups.items(), start=1):
            axes = figure.add_subplot(1, len(groups), index)
            heights = [value if np.isfinite(value) else 0.0 for value in values.values()]
            drawn = axes.barh(list(values), heights, color=_COLOURS[0], height=0.55)
            axes.bar_label(drawn, [f"{v:.3g}" if v < 10 else f"{v:.2f}" for v in values.values()], padding=3)
            axes.set_title(title, loc="left")
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            axes.margins(x=0.3)
            axes.invert_yaxis()


def save_lines(path: Path, curves: Mapping[str, Sequence[float]], x: Values | None, label: str) -> None:
    """Write one curve over the bands for each name."""
    with _drawing(path, 6.4, 3.4) as figure:
        axes = figure.add_subplot()
        for colour, (name, values) in zip(_COLOURS * 2, curves.items(), strict=False):
            place: Values = np.arange(1.0, len(values) + 1) if x is None else x
            curve = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
            axes.plot(*_with_gaps(place, curve), color=colour, label=name, lw=1.4)
        axes.set_xlabel("band" if x is None else "wavelength in nm")
        axes.set_ylabel(label)
        axes.legend(frameon=False)


def result_pictures(scene: Scene, outputs: Outputs, uncertainty: bool) -> None:
    """Write quick-look, before/after, spectra and, if asked for, the uncertainty of a restored scene."""
    before = scene.sample()[0]
    with open_scene(outputs.scene) as restored:
        after = restored.sample()[0]
    look = Look.of(after, scene.wavelengths)
    save_image(outputs.picture("quicklook"), look.image(after))
    panels = {"before": look.image(before), "after": look.image(after)}
    save_panels(outputs.picture("before_after"), panels)
    save_spectra(outputs.picture("spectra"), {"before": before, "after": after}, scene.wavelengths)
    if uncertainty:
        with open_scene(outputs.uncertainty) as spread:
            deviation = spread.sample()[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = deviation / _spread(after)
        known = np.isfinite(relative)
        mean = np.where(known, relative, 0).sum(-1) / np.where(known.any(-1), known.sum(-1), np.nan)
        save_map(outputs.picture("uncertainty"), mean, "uncertainty, in standard deviations of the band")


def _spread(cube: Values) -> Values:
    seen = np.isfinite(cube)
    count = np.maximum(seen.sum(axis=(0, 1)), 1)
    filled = np.where(seen, cube, 0).astype(np.float64)
    mean = filled.sum(axis=(0, 1)) / count
    deviation: Values = np.sqrt((np.where(seen, cube - mean, 0) ** 2).sum(axis=(0, 1)) / count)
    return deviation


def _places(cube: Values) -> list[tuple[float, float]]:
    """Relative places of a dark, a middle and a bright pixel among those with the most bands."""
    seen = np.isfinite(cube)
    count = seen.sum(axis=-1)
    if not count.any():
        return []
    brightness = np.where(seen, cube, 0).sum(axis=-1) / np.maximum(count, 1)
    candidates = np.argwhere(count == count.max())
    ranked = candidates[np.argsort(brightness[tuple(candidates.T)], kind="stable")]
    chosen = [ranked[round(share * (len(ranked) - 1))] for share in (0.5, 0.95, 0.05)]
    return [((row + 0.5) / cube.shape[0], (col + 0.5) / cube.shape[1]) for row, col in chosen]


@contextmanager
def _drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of that size in inches, written when the block ends."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.04)
