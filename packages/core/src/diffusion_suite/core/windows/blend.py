r"""Windows joined without seams.

Window ``i`` has the weight :math:`w_i(x) = \prod_a r_{ia}(x_a) / \sum_j r_{ja}(x_a)`, where the ramp ``r``
rises as a squared sine over the overlap with the neighbour and is 1 elsewhere. As windows lie on a grid, the
sum over all windows factors into one sum an axis, so the weights add up to 1 everywhere and no array of
weights is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.windows.plan import Grid, Window
from diffusion_suite.core.windows.store import WindowStore

Array = NDArray[Any]


def weight(window: Window, windows: Sequence[Window]) -> NDArray[np.float64]:
    """The weight of a window's positions in the blend.

    Args:
        window: one of ``windows``.
        windows: all windows of the plan.

    Returns:
        An array of the window's shape, in (0, 1]; over all windows the weights add up to 1.
    """
    result = np.ones((), dtype=np.float64)
    for line in _lines(window, Grid.of(windows)):
        result = result[..., None] * line
    return result


def blend(parts: Sequence[tuple[Window, Array]], shape: Sequence[int]) -> Array:
    """Join windows in memory.

    Args:
        parts: all windows of a plan in order, each with its result: of the window's shape, and any further
            axes.
        shape: length of the whole along each axis that was cut.

    Returns:
        The joined array, of ``shape`` and the further axes; float32 stays float32, all else becomes float64.

    Raises:
        ValueError: when the windows do not make up the shape, or a result has another shape than its window.
    """
    grid = _checked_grid([window for window, _ in parts], shape)
    first = parts[0][1]
    total = np.zeros(grid.shape + first.shape[len(grid.shape) :], _blend_type(first.dtype))
    for window, part in parts:
        total[window.slices] += _weighted(part, _lines(window, grid), window.shape, total.dtype)
    return total


def assemble(
    windows: Sequence[Window],
    store: WindowStore,
    shape: Sequence[int],
    axis: int = 0,
    name: str = "result",
    slab_bytes: int = 1 << 26,
) -> Iterator[tuple[slice, Array]]:
    """Join stored windows slab by slab, with no more than two slabs in memory.

    Args:
        windows: all windows of the plan; each must be in the store.
        store: where the results lie.
        shape: length of the whole along each axis that was cut.
        axis: the axis along which slabs follow each other.
        name: which of the store's arrays.
        slab_bytes: size of a slab at most, as far as one position along ``axis`` allows.

    Yields:
        The slab's positions along ``axis``, and the joined array there: over the other axes it is whole.

    Raises:
        ValueError: when the windows do not make up the shape, or a result has another shape than its window.
    """
    grid = _checked_grid(windows, shape)
    sample = store.get(windows[0].index, name)
    further, kind = sample.shape[len(grid.shape) :], _blend_type(sample.dtype)
    across = grid.shape[:axis] + grid.shape[axis + 1 :] + further
    thickest = max(1, slab_bytes // max(1, math.prod(across) * kind.itemsize))
    for rows in _intervals(grid.starts[axis], grid.size[axis], thickest):
        slab = np.zeros((*grid.shape[:axis], rows.stop - rows.start, *grid.shape[axis + 1 :], *further), kind)
        for window in windows:
            span = window.slices[axis]
            if span.start < rows.stop and span.stop > rows.start:
                _add(slab, rows, window, store.get(window.index, name), grid, axis)
        yield rows, slab


def _add(slab: Array, rows: slice, window: Window, result: Array, grid: Grid, axis: int) -> None:
    """Add the share of one window to a slab that lies at ``rows`` of an axis."""
    start = window.slices[axis].start
    inner = slice(rows.start - start, rows.stop - start)
    lines = _lines(window, grid)
    lines[axis] = lines[axis][inner]
    expected = (*window.shape[:axis], rows.stop - rows.start, *window.shape[axis + 1 :])
    target = (*window.slices[:axis], slice(None), *window.slices[axis + 1 :])
    slab[target] += _weighted(result[(slice(None),) * axis + (inner,)], lines, expected, slab.dtype)


def _checked_grid(windows: Sequence[Window], shape: Sequence[int]) -> Grid:
    grid = Grid.of(windows)
    if grid.shape != tuple(shape):
        raise ValueError(f"the windows make up {grid.shape}, not {tuple(shape)}")
    return grid


def _blend_type(kind: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if kind == np.float32 else np.dtype(np.float64)


def _weighted(
    part: Array, lines: Iterable[NDArray[np.float64]], shape: tuple[int, ...], kind: np.dtype[Any]
) -> Array:
    if part.shape[: len(shape)] != shape:
        raise ValueError(f"the result of a window of shape {shape} has shape {part.shape}")
    result = np.array(part, dtype=kind)
    for axis, line in enumerate(lines):
        result *= line.astype(kind).reshape((-1,) + (1,) * (part.ndim - axis - 1))
    return result


def _intervals(starts: tuple[int, ...], size: int, thickest: int) -> Iterator[slice]:
    """Stretches of an axis that are each covered by the same windows, cut to a greatest thickness."""
    edges = sorted({*starts, *(start + size for start in starts)})
    for first, last in pairwise(edges):
        for start in range(first, last, thickest):
            yield slice(start, min(last, start + thickest))


def _lines(window: Window, grid: Grid) -> list[NDArray[np.float64]]:
    lists = zip(grid.starts, grid.size, grid.places(window), strict=True)
    return [_line(starts, size, place) for starts, size, place in lists]


@lru_cache(maxsize=4096)
def _line(starts: tuple[int, ...], size: int, place: int) -> NDArray[np.float64]:
    """Weights along one axis of the window at a place, those of all its neighbours taken into account."""
    positions = starts[place] + np.arange(size)
    total = np.zeros(size)
    for other, start in enumerate(starts):
        if abs(start - starts[place]) < size:
            inside = (positions >= start) & (positions < start + size)
            total[inside] += _ramp(starts, size, other)[positions[inside] - start]
    line = _ramp(starts, size, place) / total
    line.flags.writeable = False
    return line


@lru_cache(maxsize=4096)
def _ramp(starts: tuple[int, ...], size: int, place: int) -> NDArray[np.float64]:
    ramp = np.ones(size)
    if place > 0:
        ramp *= _rise(size, starts[place - 1] + size - starts[place])
    if place + 1 < len(starts):
        ramp *= _rise(size, starts[place] + size - starts[place + 1])[::-1]
    return ramp


def _rise(size: int, length: int) -> NDArray[np.float64]:
    if length <= 0:
        return np.ones(size)
    return np.sin(0.5 * np.pi * np.minimum(1.0, (np.arange(size) + 0.5) / length)) ** 2
