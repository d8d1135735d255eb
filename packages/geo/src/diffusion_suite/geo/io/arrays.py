"""Cubes in array files: .npy (memory-mapped), .npz and MATLAB v5 .mat, axes (rows, columns, bands)."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """A cube in an array file."""

    def __init__(
        self, path: Path, kind: str, cube: Stored, key: str, extras: dict[str, npt.NDArray[Any]]
    ) -> None:
        self.path, self.format, self.key = path, kind, key
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
    """Writes a cube through a memory-mapped .npy file, packed at the end into the format asked for."""

    def __init__(self, path: Path, kind: str, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.path, self.kind, self.shape, self.dtype = path, kind, shape, dtype
        self.nodata = None
        self.key = "cube"
        self.extras: Mapping[str, npt.NDArray[Any]] = {}
        if kind == "mat" and int(np.prod(shape)) * dtype.itemsize > _MAT_LIMIT:
            raise OutputError(
                f"{shape} of {dtype} is more than a MATLAB v5 file holds (2 GB)", "write .npy or .tif"
            )
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        place = path
        if kind != "npy":
            self._scratch = tempfile.TemporaryDirectory(prefix=".", dir=path.parent)
            place = Path(self._scratch.name) / "cube.npy"
        self._place = place
        self._cube = np.lib.format.open_memmap(place, mode="w+", dtype=dtype, shape=shape)

    def write_stored(self, top: int, stored: Stored) -> None:
        """Write samples that already have the stored type."""
        self._cube[top : top + stored.shape[0]] = stored

    def finish(self) -> None:
        """Pack the cube into the format asked for."""
        self._cube.flush()
        if self.kind == "npz":
            with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
                archive.write(self._place, f"{self.key}.npy")
                for name, values in self.extras.items():
                    with archive.open(f"{name}.npy", "w") as member:
                        np.lib.format.write_array(member, values, allow_pickle=False)
        elif self.kind == "mat":
            from scipy.io import savemat

            savemat(self.path, {**self.extras, self.key: np.asarray(self._cube)}, do_compression=True)
        self.discard()

    def discard(self) -> None:
        """Let go of the scratch file."""
        del self._cube
        if self._scratch is not None:
            self._scratch.cleanup()


def create_array(
    path: Path,
    kind: str,
    like: Scene,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    nodata: npt.NDArray[np.float64] | None,
) -> ArrayWriter:
    """Open an array file for writing, with the variable name and the small arrays of ``like``."""
    writer = ArrayWriter(path, kind, shape, dtype)
    writer.nodata = nodata
    writer.extras = dict(like.meta.extras)
    writer.key = like.key or "cube"
    if not like.meta.extras and like.wavelengths is not None:
        writer.extras["wavelengths"] = like.wavelengths
    return writer
