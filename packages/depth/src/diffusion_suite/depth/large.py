r"""Pictures larger than the network sees at once: windows whose scales and shifts are made to agree.

Each window's y stands by itself, so :math:`a_i y_i + b_i` is fitted for all windows together: to the
prediction of the whole picture at the network's size, and to each other where they overlap,

.. math:: \sum_i \langle (a_i y_i + b_i - c)^2 \rangle + \sum_{ij} \langle (a_i y_i + b_i - a_j y_j - b_j)^2
   \rangle,

with means over the window and over the overlap. A window of sky or wall thus stays flat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from diffusion_suite.core.progress import track
from diffusion_suite.core.windows import Window, WindowStore, assemble, stream
from diffusion_suite.depth.io.maps import Map

Lines = NDArray[np.float64]
_SAMPLES = 32
_SLAB_BYTES = 1 << 25


class _Fitted(WindowStore):
    """The windows of a store, each on its line; the spread is scaled with it."""

    def __init__(self, store: WindowStore, lines: Lines) -> None:
        self.folder, self.names, self.lines = store.folder, store.names, lines

    def get(self, index: int, name: str = "result") -> NDArray[Any]:
        scale, shift = self.lines[index].astype(np.float32)
        fitted: NDArray[Any] = scale * super().get(index, name)
        fitted[..., 0] += shift
        return fitted


def by_windows(
    windows: Sequence[Window],
    predict: Callable[[Window], NDArray[np.float32]],
    whole: Map,
    folder: Path,
    signature: dict[str, Any],
) -> tuple[Map, Map]:
    """Y and its spread of a large picture.

    Args:
        windows: the plan, over rows and columns.
        predict: (rows, columns, 2) of a window: y and its spread.
        whole: y of the whole picture at any smaller size.
        folder: for the finished windows, which a killed run finds again; removed at the end.
        signature: what the windows depend on.

    Returns:
        y and spread, of the plan's size.
    """
    shape = (max(w.slices[0].stop for w in windows), max(w.slices[1].stop for w in windows))
    store = WindowStore(folder, signature, clear=True)
    for _ in track(stream(windows, predict, store), "windows", total=len(windows)):
        pass
    lines = agreement(windows, [store.get(window.index)[..., 0] for window in windows], whole)
    y, spread = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for rows, slab in assemble(windows, _Fitted(store, lines), shape, slab_bytes=_SLAB_BYTES):
        y[rows], spread[rows] = slab[..., 0], slab[..., 1]
    store.remove()
    return y, spread


def agreement(windows: Sequence[Window], parts: Sequence[Map], whole: Map) -> Lines:
    """Scale and shift of each window, (windows, 2), by which all agree.

    Args:
        windows: the plan.
        parts: y of each window, of its shape.
        whole: y of the whole picture, of any size.
    """
    shape = (max(w.slices[0].stop for w in windows), max(w.slices[1].stop for w in windows))
    pitch = max(1, max(windows[0].shape) // _SAMPLES)
    lattice = [np.arange(pitch // 2, length, pitch) for length in shape]
    coarse = _at(whole, [(line + 0.5) / n for line, n in zip(lattice, shape, strict=True)])
    places, samples = [], []
    for part, window in zip(parts, windows, strict=True):
        rows, columns = (
            np.flatnonzero((line >= s.start) & (line < s.stop))
            for line, s in zip(lattice, window.slices, strict=True)
        )
        places.append((slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)))
        inside = [
            line[i] - s.start for line, i, s in zip(lattice, (rows, columns), window.slices, strict=True)
        ]
        samples.append(np.asarray(part[np.ix_(*inside)], np.float64))
    count = len(windows)
    matrix, target = 1e-9 * np.eye(2 * count), np.zeros(2 * count)
    for i, (place, own) in enumerate(zip(places, samples, strict=True)):
        block = slice(2 * i, 2 * i + 2)
        basis = np.stack([own.ravel(), np.ones(own.size)], 1)
        matrix[block, block] += basis.T @ basis / own.size
        target[block] += basis.T @ coarse[place].ravel() / own.size
        for j in range(i + 1, count):
            shared = _shared(place, places[j])
            if shared is None:
                continue
            ours, theirs = (_cut(part, at, shared) for part, at in ((own, place), (samples[j], places[j])))
            row = np.stack([ours, np.ones_like(ours), -theirs, -np.ones_like(theirs)], 1)
            both = [2 * i, 2 * i + 1, 2 * j, 2 * j + 1]
            matrix[np.ix_(both, both)] += row.T @ row / len(row)
    lines = np.linalg.solve(matrix, target).reshape(count, 2)
    for place, line in zip(places, lines, strict=True):
        if line[0] < 0:
            line[:] = 0.0, coarse[place].mean()
    return np.asarray(lines, np.float64)


Place = tuple[slice, slice]


def _at(values: Map, shares: Sequence[Lines]) -> Lines:
    """A map at a lattice of places, given as shares of its height and width; bilinear."""
    lines = [share * n - 0.5 for share, n in zip(shares, values.shape, strict=True)]
    places = np.meshgrid(*lines, indexing="ij")
    found: Lines = map_coordinates(values.astype(np.float64), places, order=1, mode="nearest")
    return found


def _shared(one: Place, other: Place) -> Place | None:
    rows, columns = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else None


def _cut(part: Lines, at: Place, shared: Place) -> Lines:
    rows, columns = (slice(s.start - a.start, s.stop - a.start) for a, s in zip(at, shared, strict=True))
    return part[rows, columns].ravel()
