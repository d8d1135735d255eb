"""One pass over a scene before anything is restored: what is missing, the task, the windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.windows import Window, plan
from diffusion_suite.geo.io import Scene
from diffusion_suite.geo.io.scene import Flags, Values
from diffusion_suite.geo.restoration.config import PredictConfig, RestoreKeys
from diffusion_suite.geo.restoration.masks import MaskedScene

if TYPE_CHECKING:
    from diffusion_suite.geo.restoration.statistics import SceneStatistics

# Samples of a window: small enough for a laptop with the slow modes, large enough that borders do not count.
WINDOW_SAMPLES = 1 << 23
NETWORK_SIDE = 256


@dataclass(frozen=True)
class Survey:
    """What one pass over the scene found.

    Attributes:
        statistics: what all windows share (band ranges, noise, spectral subspace).
        task: denoise, complete or sr.
        factor: super-resolution factor, 1 for the other tasks.
        live: (bands,), True for bands observed somewhere.
        missing: share of samples that are missing, in live bands.
        windows: windows over (rows, columns) of the input.
    """

    statistics: SceneStatistics
    task: str
    factor: int
    live: Flags
    missing: float
    windows: list[Window]


def survey(scene: Scene, config: PredictConfig) -> Survey:
    """Read the scene once.

    Raises:
        InputError: no sample is observed, or the output could not say where it has no result.
    """
    from diffusion_suite.geo.restoration.statistics import gather

    rows, cols, bands = scene.shape
    counts = np.zeros(bands, dtype=np.int64)
    fewest = bands

    def counted() -> Iterator[tuple[Values, Flags]]:
        nonlocal fewest
        for values, seen in scene.blocks():
            np.add(counts, seen.sum(axis=(0, 1)), out=counts)
            inside = seen.sum(axis=-1)
            fewest = min(fewest, int(np.where(inside > 0, inside, bands).min()))
            yield values, seen

    blocks = counted()
    first = next((block for block in blocks if block[1].any()), None)
    if first is None:
        raise InputError(
            f"{scene.path}: all samples are nodata, NaN or masked", "check nodata=VALUE and the mask"
        )
    statistics = gather(chain([first], blocks))
    deque(blocks, maxlen=0)
    live = counts > 0
    partly = fewest < int(live.sum())
    factor = config.factor or 1
    task = config.task
    if task == "auto":
        task = "sr" if factor > 1 else "complete" if partly or isinstance(scene, MaskedScene) else "denoise"
    missing = 1 - counts[live].sum() / (live.sum() * rows * cols)
    if factor > 1 and scene.dtype.kind in "iu" and scene.nodata is None and (missing > 0 or not live.all()):
        remedy = f"name one with nodata=VALUE, within {scene.dtype}"
        raise InputError(
            f"{scene.path} has missing samples but no nodata value to mark them in the output", remedy
        )
    return Survey(statistics, task, factor, live, float(missing), windows(scene.shape, config, config.mode))


def windows(shape: tuple[int, int, int], config: RestoreKeys, mode: str) -> list[Window]:
    """The windows of a scene: one for a small scene, else overlapping ones that memory allows.

    Args:
        shape: (rows, columns, bands).
        config: ``window`` (0 = choose) and ``overlap``.
        mode: `paper`, whose network is large, takes smaller windows.
    """
    rows, cols, bands = shape
    side = config.window
    if not side:
        side = int(np.sqrt(WINDOW_SAMPLES / bands)) // 32 * 32
        side = min(max(side, 64), 1024)
        whole = rows * cols * bands <= 1.5 * WINDOW_SAMPLES and max(rows, cols) <= 4096
        if mode == "paper":
            side = min(side, NETWORK_SIDE)
            whole = whole and rows * cols <= 1.5 * NETWORK_SIDE**2
        if whole:
            side = max(rows, cols)
    size = (min(side, rows), min(side, cols))
    overlap = (min(config.overlap, size[0] // 2), min(config.overlap, size[1] // 2))
    return plan((rows, cols), size, overlap)


def wanted(seen: Flags, hidden: Flags | bool, live: Flags, task: str, fill: str) -> Flags:
    """Which samples of the output are results; the others stay what they were.

    Args:
        seen: (h, w, bands), True = observed.
        hidden: (h, w, bands) or (h, w, 1), True where the user's mask hides the sample; False without a mask.
        live: (bands,), True for bands observed somewhere.
        task: denoise, complete or sr.
        fill: auto, none or all, as in the settings.
    """
    if fill == "all":
        return np.broadcast_to(live, seen.shape)
    if fill == "none" or task != "complete":
        return seen
    return np.asarray(seen | (live & (hidden | seen.any(axis=-1, keepdims=True))))


def read_sigma(text: str | None, bands: int) -> float | npt.NDArray[np.float32] | None:
    """The noise level: None, a number, or one number a band from a text or csv file.

    Raises:
        InputError: no such file, not numbers, another count than bands, or negative.
    """
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        path = Path(text)
    remedy = f"give a number, or a text file with {bands} numbers, one a band"
    if not path.is_file():
        raise InputError(f"sigma={text} is neither a number nor a file", remedy)
    try:
        lines = path.read_text(encoding="utf-8-sig").replace(",", " ").replace(";", " ").split()
        levels = np.array([float(word) for word in lines], dtype=np.float32)
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} does not hold numbers ({error})", remedy) from error
    if levels.size != bands:
        raise InputError(f"{path} holds {levels.size} noise levels and the scene {bands} bands", remedy)
    if not (np.isfinite(levels).all() and (levels >= 0).all()):
        raise InputError(f"{path} holds a negative or infinite noise level", remedy)
    return levels
