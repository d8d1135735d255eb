"""Finished windows on disk, where a run that was killed finds them again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from diffusion_suite.core.errors import OutputError
from diffusion_suite.core.files import atomic_path, check_folder
from diffusion_suite.core.windows.plan import Window

Array = NDArray[Any]
SIGNATURE = "signature.json"
HEADER = 128
BLOCK = 4096


class WindowStore:
    """One ``.npy`` file for each finished window, written under another name and renamed.

    Args:
        folder: where they lie; made when missing.
        signature: plain values that say what is computed: settings, input file, plan. Windows of another
            signature are never mixed in.
        names: names of the arrays that each window has.
        clear: remove windows of another signature; False refuses them.

    Raises:
        OutputError: when the folder cannot be written in, or holds windows of another signature and ``clear``
            is False, or holds other files.
    """

    def __init__(
        self,
        folder: str | Path,
        signature: Mapping[str, Any],
        names: Sequence[str] = ("result",),
        clear: bool = False,
    ) -> None:
        self.folder, self.names = Path(folder), tuple(names)
        check_folder(self.folder)
        signed = json.loads(json.dumps({**signature, "arrays": list(self.names)}, sort_keys=True))
        path = self.folder / SIGNATURE
        if path.exists():
            found = _read(path)
            if found != signed:
                self._dismiss(found, signed, clear)
        elif any(not path.name.startswith(".") for path in self.folder.iterdir()):
            raise OutputError(f"{self.folder} holds other files", "give an empty folder for the windows")
        if not path.exists():
            with atomic_path(path) as part:
                part.write_text(json.dumps(signed, indent=1), encoding="utf-8")

    def _dismiss(self, found: object, signed: dict[str, Any], clear: bool) -> None:
        if not clear:
            old = found if isinstance(found, dict) else {}
            keys = [key for key in sorted({*old, *signed}) if old.get(key) != signed.get(key)]
            raise OutputError(
                f"{self.folder} holds windows of another run (other {', '.join(keys)})",
                "give overwrite=true to begin anew, or the former settings to go on",
            )
        (self.folder / SIGNATURE).unlink()
        for path in self.folder.glob("*.npy"):
            path.unlink()

    def path(self, index: int, name: str) -> Path:
        """The file of a window's array."""
        if name not in self.names:
            raise KeyError(f"the store keeps {', '.join(self.names)}, not {name}")
        return self.folder / f"{index:06d}.{name}.npy"

    def has(self, index: int) -> bool:
        """Whether all arrays of a window are there, whole."""
        return all(_whole(self.path(index, name)) for name in self.names)

    def put(self, index: int, result: Array | Mapping[str, Array]) -> None:
        """Keep a window's result: an array, or one for each name."""
        arrays = result if isinstance(result, Mapping) else {self.names[0]: result}
        if set(arrays) != set(self.names):
            raise KeyError(f"the store keeps {', '.join(self.names)}, not {', '.join(arrays)}")
        for name, array in arrays.items():
            with atomic_path(self.path(index, name)) as part:
                np.save(part, np.ascontiguousarray(array), allow_pickle=False)

    def get(self, index: int, name: str = "result") -> Array:
        """A window's array, mapped from disk: only what is looked at is read."""
        array: Array = np.load(self.path(index, name), mmap_mode="r", allow_pickle=False)
        return array

    def remove(self) -> None:
        """Delete the store."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stream(
    windows: Iterable[Window], compute: Callable[[Window], Array | Mapping[str, Array]], store: WindowStore
) -> Iterator[Window]:
    """Compute the windows that the store lacks, in order, and keep each at once.

    Nothing happens before the iterator is gone through::

        for _ in track(stream(windows, compute, store), "windows", total=len(windows)):
            pass

    Args:
        windows: the plan.
        compute: gives a window's result: an array, or one for each of the store's names. It must depend on
            nothing but the window, e.g. draw from ``seeding.generator(seed, window.index)``.
        store: where results are kept.

    Yields:
        Each window, in order, when its result lies in the store.
    """
    for window in windows:
        if not store.has(window.index):
            store.put(window.index, compute(window))
        yield window


def bytes_needed(
    windows: Sequence[Window], further: Sequence[int] = (), dtype: DTypeLike = np.float32, arrays: int = 1
) -> int:
    """Room on disk that a store of all windows takes.

    Args:
        windows: the plan.
        further: axes of a result beyond the plan's, e.g. ``(bands,)``.
        dtype: type of the results.
        arrays: arrays of that size that each window has.
    """
    each = math.prod(further) * np.dtype(dtype).itemsize
    sizes = (math.prod(window.shape) * each + HEADER for window in windows)
    return arrays * sum(-(-size // BLOCK) * BLOCK for size in sizes)


def check_room(folder: str | Path, needed: int) -> None:
    """Make sure before any work that a disk has room.

    Args:
        folder: a folder on the disk; it or a folder above it exists.
        needed: bytes.

    Raises:
        OutputError: when there is less.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OutputError(
            f"{folder} needs {needed / 1e9:.2f} GB for its windows, and {free / 1e9:.2f} GB are free there",
            "make room, or give an output folder on another disk",
        )


def _whole(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
