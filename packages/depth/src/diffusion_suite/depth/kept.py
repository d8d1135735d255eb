"""Arrays that are computed once and kept on disk, part by part; an interrupted computation goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_suite.core.progress import track

Arrays = dict[str, "np.memmap[Any, Any]"]
Kinds = Mapping[str, tuple[tuple[int, ...], type]]
BATCH = 8


def kept_arrays(
    place: Path, kinds: Kinds, count: int, label: str, compute: Callable[[Arrays, range], None]
) -> Arrays:
    """Arrays of a folder, filled where they are not yet.

    Args:
        place: the folder; its name tells all that the arrays depend on.
        kinds: shape and type of each array by name.
        count: items to compute.
        label: of the progress bar.
        compute: writes some items into the arrays.
    """
    place.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {}
    for name, (shape, dtype) in kinds.items():
        path = place / f"{name}.npy"
        mode = "r+" if path.exists() else "w+"
        arrays[name] = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
    finished = place / "finished.txt"
    done = int(finished.read_text()) if finished.exists() else 0
    for first in track(range(done, count, BATCH), label):
        items = range(first, min(first + BATCH, count))
        compute(arrays, items)
        for array in arrays.values():
            array.flush()
        finished.write_text(str(items.stop))
    return arrays
