"""Cubes in array files: .npy (memory-mapped), .npz and MATLAB v5 .mat, axes (rows, columns, bands)."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.errors import InputError, OutputError
from diffusion_suite.geo.io.metadata import Metadata, to_nanometres
from diffusion_suite.geo.io.scene import Scene, SceneWriter, Stored

_EXTRA_LIMIT = 1 << 16
_MAT_LIMIT = (1 << 31) - 1
_MAT_TYPES = {
    "double": "f8",
    "single": "f4",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "int64": "i8",
    "uint64": "u8",
}
Headers = Mapping[str, tuple[tuple[int, ...], np.dtype[Any] | None]]


class ArrayScene(Scene):
    """A cube in an array file; ``flat`` when the array has two axes only."""

    def __init__(
        self, path: Path, kind: str, cube: Stored, key: str, extras: dict[str, npt.NDArray[Any]]
    ) -> None:
        self.path, self.format, self.key, self.flat = path, kind, key, cube.ndim == 2
        self._cube = cube[:, :, None] if cube.ndim == 2 else cube
        rows, cols, bands = self._cube.shape
        self.shape = (rows, cols, bands)
        self.dtype = self._cube.dtype.newbyteorder("=")
        self.nodata = None
        centres = [
            extras[name] for name in extras if name.lower() in ("wavelength", "wavelengths", "wl", "lambda")
        ]
        fitting = [values for values in centres if values.size == bands and values.dtype.kind in "fiu"]
        self.meta = Metadata(
            wavelengths=to_nanometres(fitting[0].ravel()) if fitting else None, extras=extras
        )

    def read_stored(self, rows: slice, cols: slice, step: int = 1) -> Stored:
        """Samples as they are stored, shape (h, w, bands)."""
        return np.asarray(
            self._cube[rows.start : rows.stop : step, cols.start : cols.stop : step], dtype=self.dtype
        )


def open_array(path: Path, kind: str, key: str | None = None) -> ArrayScene:
    """Open a cube of an array file.

    Raises:
        InputError: not such a file, several cubes and no key, or not numbers.
    """
    if kind == "npy":
        try:
            return _scene(path, kind, np.load(path, mmap_mode="r", allow_pickle=False), "", {})
        except (ValueError, EOFError) as error:
            raise InputError(
                f"{path}: not a NumPy array file ({error})", "save it with numpy.save"
            ) from error
    headers = _npz_headers(path) if kind == "npz" else _mat_headers(path)
    name = choose(path, headers, key)
    wanted = [name] + [n for n, (shape, _) in headers.items() if n != name and np.prod(shape) <= _EXTRA_LIMIT]
    loaded = _load(path, kind, wanted)
    extras = {n: loaded[n] for n in wanted[1:] if loaded[n].dtype.kind in "fiubU"}
    return _scene(path, kind, loaded[name], name, extras)


def _scene(path: Path, kind: str, cube: Stored, key: str, extras: dict[str, npt.NDArray[Any]]) -> ArrayScene:
    if cube.ndim not in (2, 3):
        raise InputError(f"{path}: the array has shape {cube.shape}", "a cube is (rows, columns, bands)")
    if cube.dtype.kind == "b":
        cube = cube.astype(np.uint8)
    if cube.dtype.kind not in "fiu":
        raise InputError(f"{path}: the array holds {cube.dtype}", "a cube holds integers or real numbers")
    return ArrayScene(path, kind, cube, key, extras)


def choose(path: Path, headers: Headers, key: str | None) -> str:
    """The variable to read: the one named, or the only one that can be a cube."""
    if key is not None:
        if key not in headers:
            raise InputError(f"{path}: no variable {key!r}", f"it holds {', '.join(headers) or 'nothing'}")
        return key
    numeric = {
        n: shape for n, (shape, dtype) in headers.items() if dtype is not None and dtype.kind in "fiub"
    }
    for dimensions in (3, 2):
        names = [
            n
            for n, shape in numeric.items()
            if len(shape) == dimensions and min(shape) > 1 - (dimensions == 3)
        ]
        if len(names) == 1:
            return names[0]
        if names:
            held = ", ".join(f"{n} {'x'.join(map(str, numeric[n]))}" for n in names)
            raise InputError(f"{path} holds several arrays: {held}", f"choose one with key={names[0]}")
    raise InputError(f"{path} holds no cube", "a cube is a numeric array (rows, columns, bands)")


def _npz_headers(path: Path) -> Headers:
    headers: dict[str, tuple[tuple[int, ...], np.dtype[Any] | None]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(member)
                headers[name.removesuffix(".npy")] = (shape, dtype)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise InputError(f"{path}: not an .npz file ({error})", "save it with numpy.savez") from error
    return headers


def _mat_headers(path: Path) -> Headers:
    from scipy.io import whosmat

    try:
        listed = whosmat(path)
    except NotImplementedError as error:
        raise InputError(
            f"{path} is MATLAB v7.3 (HDF5), which is not read", "in MATLAB: save(file, 'cube', '-v7')"
        ) from error
    except (ValueError, TypeError, KeyError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a MATLAB file ({error})", "save it again with -v7") from error
    return {n: (shape, np.dtype(_MAT_TYPES[t]) if t in _MAT_TYPES else None) for n, shape, t in listed}


def _load(path: Path, kind: str, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        if kind == "npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in names}
        from scipy.io import loadmat

        loaded = loadmat(path, variable_names=names)
        return {name: np.asarray(loaded[name]) for name in names}
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error})", "copy it again or save it anew") from error


class ArrayWriter(SceneWriter):
    """Writes a cube row by row: .npy as it is, .npz into the archive, .mat by way of a scratch file.

    Nothing is memory-mapped for writing: a full disk must be an error, not a crash.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        nodata: npt.NDArray[np.float64] | None,
        like: Scene,
    ) -> None:
        self.path, self.kind, self.shape, self.dtype, self.nodata = path, kind, shape, dtype, nodata
        self.key = like.key or "cube"
        self.extras = dict(like.meta.extras)
        if not self.extras and like.wavelengths is not None:
            self.extras["wavelengths"] = like.wavelengths
        if kind == "mat" and int(np.prod(shape)) * dtype.itemsize > _MAT_LIMIT:
            raise OutputError(
                f"{shape} of {dtype} is more than a MATLAB v5 file holds (2 GB)", "write .npy or .tif"
            )
        self._next = 0
        self._held = ExitStack()
        self._stream = self._open()
        saved = shape[:2] if isinstance(like, ArrayScene) and like.flat else shape
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": saved}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def _open(self) -> IO[bytes]:
        if self.kind == "npz":
            self._archive = self._held.enter_context(zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED))
            return self._archive.open(f"{self.key}.npy", "w", force_zip64=True)
        place = self.path
        if self.kind == "mat":
            folder = tempfile.TemporaryDirectory(prefix=".", dir=self.path.parent)
            place = Path(self._held.enter_context(folder)) / "cube.npy"
        return place.open("wb")

    def write_stored(self, top: int, stored: Stored) -> None:
        """Write the next rows; they come from top to bottom without gaps."""
        if top != self._next:
            raise ValueError(f"row {self._next} must be written before row {top}")
        self._next += stored.shape[0]
        self._stream.write(np.ascontiguousarray(stored, dtype=self.dtype).data)

    def finish(self) -> None:
        """Complete the file."""
        self._stream.close()
        if self.kind == "npz":
            for name, values in self.extras.items():
                with self._archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
        elif self.kind == "mat":
            from scipy.io import savemat

            cube = np.load(self._stream.name, mmap_mode="r")
            savemat(self.path, {**self.extras, self.key: cube}, do_compression=True)
            del cube
        self._held.close()

    def discard(self) -> None:
        """Let go of the file after a failure; what it could not write is lost anyway."""
        for close in (self._stream.close, self._held.close):
            with suppress(OSError, ValueError):
                close()
