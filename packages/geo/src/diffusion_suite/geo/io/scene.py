"""The interface every scene format offers, and the one rule by which numbers become stored samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.errors import InputError
from diffusion_suite.geo.io.metadata import Metadata

Values = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


class Scene(ABC):
    """A hyperspectral scene on disk, read window by window.

    Attributes:
        path: the file that holds the samples.
        format: ``GTiff``, ``COG``, ``ENVI``, ``netCDF``, ``mat``, ``npz`` or ``npy``.
        shape: (rows, columns, bands).
        dtype: type of the stored samples.
        nodata: value of missing samples for each band, NaN where a band has none; None when no band has one.
        meta: everything else the file says.
        key: name of the variable, "" where the file has but one cube without a name.
    """

    path: Path
    format: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    nodata: npt.NDArray[np.float64] | None
    meta: Metadata
    key: str = ""

    @property
    def wavelengths(self) -> npt.NDArray[np.float64] | None:
        """Band centres in nanometres, shape (bands,), or None."""
        return self.meta.wavelengths

    @property
    def band_names(self) -> tuple[str, ...]:
        """One name a band; "band 7" where the file has none."""
        names = self.meta.band_names or ("",) * self.shape[2]
        return tuple(name or f"band {index + 1}" for index, name in enumerate(names))

    @abstractmethod
    def read_stored(self, rows: slice, cols: slice, step: int = 1) -> Stored:
        """Samples as they are stored, shape (h, w, bands); every ``step``-th row and column."""

    def observed(self, stored: Stored, rows: slice, cols: slice, step: int = 1) -> Flags:
        """Which of the stored samples are measurements: finite and not nodata."""
        seen = np.isfinite(stored)
        if self.nodata is not None:
            marked = ~np.isnan(self.nodata)
            marks = np.where(marked, self.nodata, 0).astype(stored.dtype)
            seen &= (stored != marks) | ~marked
        return seen

    def read(self, rows: slice, cols: slice, step: int = 1) -> tuple[Values, Flags]:
        """A window of the scene.

        Args:
            rows: rows of the window, start and stop given.
            cols: columns of the window, start and stop given.
            step: take every ``step``-th row and column only.

        Returns:
            Values (h, w, bands) float32 in the unit of the file, NaN where missing, and the flags
            (h, w, bands), True where a sample was observed.
        """
        stored = self.read_stored(rows, cols, step)
        seen = self.observed(stored, rows, cols, step)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.array(stored, dtype=np.float32, order="C")
        seen &= np.isfinite(values)
        values[~seen] = np.nan
        return values, seen

    def blocks(self, limit: int = 1 << 23, least: int = 16) -> Iterator[tuple[Values, Flags]]:
        """The whole scene once, from the top, in blocks of ``limit`` samples, or ``least`` rows if more."""
        rows, cols, bands = self.shape
        height = max(least, limit // max(1, cols * bands))
        for top in range(0, rows, height):
            yield self.read(slice(top, min(rows, top + height)), slice(0, cols))

    def sample(self, side: int = 512, limit: int = 1 << 24) -> tuple[Values, Flags]:
        """The whole scene thinned to at most ``side`` rows and columns, for pictures."""
        rows, cols, bands = self.shape
        step = max(1, -(-max(rows, cols) // side))
        while (rows // step) * (cols // step) * bands > limit:
            step += 1
        return self.read(slice(0, rows), slice(0, cols), step)

    def close(self) -> None:
        """Close the file; reading is over."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SceneWriter(ABC):
    """A scene being written from top to bottom, slab by slab.

    Attributes:
        shape: (rows, columns, bands) of the output.
        dtype: type of the stored samples.
        nodata: value of missing samples for each band, or None.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    nodata: npt.NDArray[np.float64] | None

    def write(self, top: int, values: Values, original: Stored | None = None) -> None:
        """Write the rows from ``top`` on.

        Args:
            top: first row of the slab.
            values: (h, columns, bands) in the unit of the file; NaN = no result here.
            original: stored samples of the input at the same place; taken, untouched, where values are NaN.
        """
        self.write_stored(top, encode(values, self.dtype, self.nodata, original))

    @abstractmethod
    def write_stored(self, top: int, stored: Stored) -> None:
        """Write samples that already have the stored type."""

    @abstractmethod
    def finish(self) -> None:
        """Flush everything; the file is complete."""

    def discard(self) -> None:
        """Let go of the file after a failure."""
        return


def fitting(nodata: npt.NDArray[np.float64] | None, dtype: np.dtype[Any]) -> npt.NDArray[np.float64] | None:
    """The nodata values that samples of ``dtype`` can have; the others, which never occur, become NaN."""
    if nodata is None:
        return None
    marks = np.asarray(nodata, dtype=np.float64).copy()
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        marks[(marks != np.rint(marks)) | (marks < limits.min) | (marks > limits.max)] = np.nan
    return None if np.isnan(marks).all() else marks


def encode(
    values: Values,
    dtype: np.dtype[Any],
    nodata: npt.NDArray[np.float64] | None = None,
    original: Stored | None = None,
) -> Stored:
    """Numbers as stored samples: rounded and clipped to the type, never wrapped, never nodata by accident.

    Args:
        values: (h, w, bands) float, NaN where there is no result.
        dtype: type of the stored samples.
        nodata: value of missing samples for each band (NaN = the band has none), or None.
        original: stored samples to keep where values are NaN; without them nodata is written.

    Returns:
        (h, w, bands) of ``dtype``.

    Raises:
        InputError: values are missing and the type has no way to say so.
    """
    empty = np.isnan(values)
    whole = dtype.kind in "iu"
    limits: Any = np.iinfo(dtype) if whole else np.finfo(dtype)
    numbers = np.where(empty, 0, values).astype(np.float64 if whole or dtype.itemsize > 4 else np.float32)
    if whole:
        np.rint(numbers, out=numbers)
    stored = _clipped(numbers, dtype, limits) if whole or dtype.itemsize < 4 else numbers.astype(dtype)
    marks = np.full(values.shape[-1], np.nan) if nodata is None else nodata
    for band in np.flatnonzero(~np.isnan(marks)):
        mark = marks[band].astype(dtype)
        plane = stored[..., band]
        plane[plane == mark] = _beside(mark, dtype, limits)
    if not empty.any():
        return stored
    if original is not None:
        return np.where(empty, original.astype(dtype, copy=False), stored)
    if whole and np.isnan(marks[empty.any(axis=(0, 1))]).any():
        raise InputError(
            f"some samples have no result and {dtype} has no value for that", "name one with nodata=VALUE"
        )
    if whole:
        marks = np.where(np.isnan(marks), 0, marks)
    return np.where(empty, marks.astype(dtype), stored)


def _clipped(numbers: npt.NDArray[Any], dtype: np.dtype[Any], limits: Any) -> Stored:
    low, high = float(limits.min), float(limits.max)
    if dtype.itemsize == 8:
        high = np.nextafter(high, 0)
    clipped: Stored = np.clip(numbers, low, high).astype(dtype)
    return clipped


def _beside(mark: Any, dtype: np.dtype[Any], limits: Any) -> Any:
    if dtype.kind in "iu":
        return dtype.type(int(mark) - 1 if mark == limits.max else int(mark) + 1)
    return np.nextafter(mark, dtype.type(0) if mark != 0 else dtype.type(1))
