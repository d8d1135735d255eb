r"""Depth of videos, frame by frame, with scale and shift that do not jump.

Each frame's y has a scale and a shift of its own. A robust line :math:`a\,y_t + b` is fitted to the frame
before (as it was written); the frame then gets the share s of it, :math:`(1 - s)(1, 0) + s(a, b)`: the
settling of a frame towards its own scale takes :math:`1/(1 - s)` frames. After a cut a frame starts anew. All
frames are predicted from the same noise.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.progress import Progress
from diffusion_suite.core.seeding import key
from diffusion_suite.depth.colour import coloured
from diffusion_suite.depth.config import PredictConfig
from diffusion_suite.depth.io.maps import Map, levels16, resized, write_image, write_json
from diffusion_suite.depth.io.pictures import RGB
from diffusion_suite.depth.io.videos import Frame, Video, Writer, open_video, writing
from diffusion_suite.depth.metric import between
from diffusion_suite.depth.outputs import Outputs
from diffusion_suite.depth.predictor import Predictor, shrunk

REACH = 1.25
"""Greatest ``|y|`` that the files of a video keep: that of a single picture is 1, smoothing adds a little."""

CUT = 0.12
"""Mean difference of neighbouring frames, of 1, from which a cut is taken between them."""

_THUMBNAIL = 32
_ROUNDS = 8


@dataclass
class Steady:
    """The running scale and shift of a video.

    Args:
        smoothing: the share s taken from the frames before.
    """

    smoothing: float
    before: Map | None = None
    thumbnail: Map | None = None

    def __call__(self, y: Map, rgb: RGB) -> Map:
        """Y of the next frame, on the scale of the frames before.

        Args:
            y: (height, width), as predicted.
            rgb: the frame.
        """
        thumbnail: Map = np.divide(shrunk(rgb, (_THUMBNAIL, _THUMBNAIL)), 255, dtype=np.float32)
        cut = self.thumbnail is not None and np.abs(thumbnail - self.thumbnail).mean() > CUT
        if self.before is not None and not cut and self.smoothing > 0:
            scale, shift = steady_line(y, self.before)
            share = self.smoothing
            y = ((1 + share * (scale - 1)) * y + share * shift).astype(np.float32)
        self.before, self.thumbnail = y, thumbnail
        return y


def steady_line(y: Map, before: Map) -> tuple[float, float]:
    """The line from a frame to the one before by Huber's loss: what moved between them has little say.

    Returns:
        Scale, within a half and two, and shift.
    """
    step = max(1, int((y.size / 16_384) ** 0.5))
    x, target = (values[::step, ::step].ravel().astype(np.float64) for values in (y, before))
    weight = np.ones_like(x)
    scale, shift = 1.0, 0.0
    for _ in range(_ROUNDS):
        total = weight.sum()
        x_mean, t_mean = weight @ x / total, weight @ target / total
        energy = weight @ (x - x_mean) ** 2 + 1e-3 * total
        scale = (weight @ ((x - x_mean) * (target - t_mean)) + 1e-3 * total) / energy
        scale = min(2.0, max(0.5, scale))
        shift = t_mean - scale * x_mean
        error = np.abs(target - scale * x - shift)
        weight = np.minimum(1, 1.5 * (np.median(error) + 1e-4) / np.maximum(error, 1e-12))
    return float(scale), float(shift)


def predict_video(
    file: Path, outputs: Outputs, config: PredictConfig, predictor: Predictor
) -> dict[str, Any]:
    """Predict a video; memory does not grow with its length.

    Args:
        file: the video.
        outputs: the files to write.
        config: which, and how.
        predictor: the network.

    Returns:
        Facts for the manifest.

    Raises:
        InputError: the video is damaged or empty, or a setting is for pictures alone; nothing is left behind.
    """
    if config.known is not None:
        raise InputError(f"{file} is a video, and known is for pictures", "give near and far for metres")
    video = open_video(file)
    seed = key(config.seed, "video")
    steady = Steady(config.smoothing)
    count = 0
    with ExitStack() as stack:
        sink = Sink(stack, outputs, config, video)
        bar = stack.enter_context(Progress(f"frames of {file.name}", video.frames or None))
        frames = iter(video)
        while batch := list(islice(frames, config.batch_size)):
            for part in _of_one_size(batch, predictor):
                seen = predictor.predict([frame.rgb for frame in part], [seed] * len(part))
                for frame, found in zip(part, seen, strict=True):
                    sink.write(frame, steady(found.y, frame.rgb))
                    bar.advance()
            count += len(batch)
        if not count:
            raise InputError(f"{file} holds no frame", "fetch it again")
    facts = {"depth": "relative" if config.near is None else "metric", "frames": count}
    write_json(outputs.path("facts"), {"input": file.name, **facts, **sink.facts()})
    return facts


def _of_one_size(frames: list[Frame], predictor: Predictor) -> Iterator[list[Frame]]:
    """Runs of frames of one size (a video may change its own)."""
    part: list[Frame] = []
    for frame in frames:
        if part and part[0].rgb.shape != frame.rgb.shape:
            yield part
            part = []
        part.append(frame)
    yield part


class Sink:
    """The files of a video, open until the stack closes; all frames on one scale, so that they compare."""

    def __init__(self, stack: ExitStack, outputs: Outputs, config: PredictConfig, video: Video) -> None:
        self.config = config
        self.size: tuple[int, int] | None = None
        self.count = 0
        self.line = None
        if config.near is not None and config.far is not None:
            self.line = between(config.near, config.far)
            self.step = float(self.line.depth(np.full((1, 1), REACH, np.float32))[0, 0]) / 65535
        else:
            self.low, high = (float(np.exp(sign * REACH)) for sign in (-1, 1))
            self.step = (high - self.low) / 65535
        kinds = outputs.kinds(config)
        self.color = self._writer(stack, outputs, "color", video) if "color" in kinds else None
        self.grey = self._writer(stack, outputs, "grey16", video) if "grey16" in kinds else None
        self.frames = stack.enter_context(_Folder(outputs.path("frames"))) if "frames" in kinds else None

    @staticmethod
    def _writer(stack: ExitStack, outputs: Outputs, kind: str, video: Video) -> Writer:
        return stack.enter_context(writing(outputs.path(kind), video))

    def write(self, frame: Frame, y: Map) -> None:
        """Write one frame, given its steady y at any size."""
        size = self.size = self.size or (frame.rgb.shape[1], frame.rgb.shape[0])
        y = resized(y, size).clip(-REACH, REACH)
        self.count += 1
        if self.color is not None:
            self.color.write(coloured(np.exp(y), *_color_limits(), self.config.colormap), frame.time)
        if self.grey is None and self.frames is None:
            return
        values = np.exp(y) - np.float32(self.low) if self.line is None else self.line.depth(y)
        levels = levels16(values, 1 / self.step)
        if self.grey is not None:
            self.grey.write(levels, frame.time)
        if self.frames is not None:
            write_image(self.frames / f"{self.count:06d}.png", levels)

    def facts(self) -> dict[str, Any]:
        """What the numbers in the files are."""
        if self.line is not None:
            return {"levels": f"metres = {self.step:.9g} * value", "range_of_y": REACH}
        return {
            "levels": f"exp(y) = {self.step:.9g} * value + {self.low:.9g}",
            "meaning": "exp(y) is depth up to an unknown scale and shift, alike in all frames",
            "smoothing": self.config.smoothing,
        }


def _color_limits() -> tuple[float, float]:
    return float(np.exp(-1)), float(np.exp(1))


class _Folder:
    """A folder of frames that appears when all are written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.part = Path(tempfile.mkdtemp(prefix=f".{self.path.name[:40]}.", dir=self.path.parent))
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            return
        if self.path.exists():
            shutil.rmtree(self.path)
        self.part.chmod(0o755)
        self.part.rename(self.path)
