"""Where the windows lie."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_suite.core.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """One window.

    Attributes:
        index: its place in the plan, 0 first.
        slices: what it covers, one slice an axis; ``array[window.slices]`` cuts it out.
    """

    index: int
    slices: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its length along each axis."""
        return tuple(part.stop - part.start for part in self.slices)


@dataclass(frozen=True)
class Grid:
    """The lists of starts that the windows of a plan are made of.

    Attributes:
        shape: length of the array along each axis that is cut.
        size: length of every window along each axis.
        starts: first positions of the windows along each axis, increasing.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, windows: Sequence[Window]) -> Grid:
        """The grid of all windows of a plan.

        Raises:
            ValueError: when they are no complete plan.
        """
        if not windows:
            raise ValueError("there are no windows")
        axes = range(len(windows[0].slices))
        starts = tuple(tuple(sorted({window.slices[a].start for window in windows})) for a in axes)
        size = windows[0].shape
        shape = tuple(line[-1] + s for line, s in zip(starts, size, strict=True))
        grid = cls(shape, size, starts)
        if list(windows) != grid.windows():
            raise ValueError("the windows are not all windows of a plan, in order")
        return grid

    def windows(self) -> list[Window]:
        """All windows in row-major order."""
        corners = itertools.product(*self.starts)
        return [
            Window(index, tuple(slice(a, a + s) for a, s in zip(corner, self.size, strict=True)))
            for index, corner in enumerate(corners)
        ]

    def places(self, window: Window) -> tuple[int, ...]:
        """The window's place in each list of starts."""
        lists = zip(self.starts, window.slices, strict=True)
        return tuple(bisect_left(starts, part.start) for starts, part in lists)


def plan(shape: Sequence[int], size: int | Sequence[int], overlap: int | Sequence[int] = 0) -> list[Window]:
    """Cover an array with windows of one size, in row-major order.

    Neighbours overlap by ``overlap``; the last window of an axis is shifted inward to end with it, so that it
    overlaps more. Along an axis shorter than ``size`` there is one window of the axis' length.

    Args:
        shape: length of the array along each axis that is cut.
        size: length of a window along each axis, or one number for all.
        overlap: least overlap of neighbours along each axis, or one number for all; below ``size``.

    Raises:
        ConfigError: when a size is below 1, or an overlap is not in ``[0, size)``.
    """
    shape = tuple(int(n) for n in shape)
    sizes, overlaps = _each(size, shape), _each(overlap, shape)
    if min(shape, default=0) < 1:
        raise ConfigError(f"there is nothing to cut in an array of shape {shape}")
    for s, v in zip(sizes, overlaps, strict=True):
        if s < 1:
            raise ConfigError(f"window size {s} is too small", "give 1 or more")
        if not 0 <= v < s:
            raise ConfigError(f"overlap {v} does not go with window size {s}", f"give 0 to {s - 1}")
    starts = tuple(_starts(n, s, v) for n, s, v in zip(shape, sizes, overlaps, strict=True))
    return Grid(shape, tuple(min(n, s) for n, s in zip(shape, sizes, strict=True)), starts).windows()


def scaled(windows: Sequence[Window], *factors: int) -> list[Window]:
    """The windows of a result that is larger by a whole factor (one for all axes, or one each)."""
    return [
        Window(
            window.index,
            tuple(
                slice(part.start * f, part.stop * f)
                for part, f in zip(window.slices, _factors(factors, window), strict=True)
            ),
        )
        for window in windows
    ]


def _starts(length: int, size: int, overlap: int) -> tuple[int, ...]:
    if length <= size:
        return (0,)
    return tuple(min(start, length - size) for start in range(0, length - overlap, size - overlap))


def _factors(factors: tuple[int, ...], window: Window) -> tuple[int, ...]:
    return factors * len(window.slices) if len(factors) == 1 else factors


def _each(value: int | Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    values = (value,) * len(shape) if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != len(shape):
        raise ConfigError(f"{list(values)} has not one number for each of {len(shape)} axes")
    return values
