"""Videos in and out with PyAV, a frame at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import atomic_path
from diffusion_suite.depth.io.pictures import RGB

SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg"})
"""Endings of the videos that are read."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        rgb: (height, width, 3), 8 bit, upright.
        time: when it is shown, in seconds; None where the file does not tell.
    """

    rgb: RGB
    time: Fraction | None


@dataclass(frozen=True)
class Video:
    """What a video's header tells.

    Attributes:
        path: the file.
        rate: frames a second, on average.
        frames: how many, or 0 where the file does not tell.
    """

    path: Path
    rate: Fraction
    frames: int

    def __iter__(self) -> Iterator[Frame]:
        """Go through the frames from the start.

        Raises:
            InputError: the video is damaged.
        """
        av = _av()
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for frame in container.decode(stream):
                    time = None if frame.pts is None else frame.pts * frame.time_base
                    yield Frame(_upright(frame), time)
        except (av.FFmpegError, ValueError) as error:
            raise _unreadable(self.path, error) from error


def open_video(path: Path) -> Video:
    """Read a video's header.

    Raises:
        InputError: the file is missing, damaged or holds no video, or PyAV is not installed.
    """
    av = _av()
    if not path.is_file():
        raise InputError(f"{path} does not exist", "check the path")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video", "give a file with pictures")
            stream = container.streams.video[0]
            return Video(path, Fraction(stream.average_rate or 25), int(stream.frames or 0))
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise InputError(
            "videos need the package av, which is not installed", "pip install 'diffusion-suite-depth[video]'"
        ) from error
    return av


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:120]
    return InputError(f"{path} cannot be read as a video ({reason})", "fetch it again, or convert it to mp4")


def _upright(frame: Any) -> RGB:
    """The frame as it is shown: turned by the file's rotation, in quarters."""
    rgb: RGB = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(rgb, quarters)) if quarters % 4 else rgb


class Writer:
    """Writes frames of one size into a video; made by `writing`."""

    def __init__(self, container: Any, video: Video, codec: str, pixels: str, source: str) -> None:
        self.container, self.source = container, source
        self.stream = container.add_stream(codec, rate=video.rate)
        self.stream.pix_fmt = pixels
        self.stream.time_base = self.stream.codec_context.time_base = self.base = Fraction(1, 90_000)
        self.step = max(1, round(1 / (video.rate * self.base)))
        self.last = -self.step

    def write(self, picture: NDArray[Any], time: Fraction | None) -> None:
        """Append a frame: RGB (height, width, 3) of 8 bits, or grey (height, width) of 16 bits."""
        import av

        height, width = picture.shape[:2]
        if self.stream.pix_fmt == "yuv420p" and (height % 2 or width % 2):
            edge = [(0, height % 2), (0, width % 2)] + [(0, 0)] * (picture.ndim - 2)
            picture = np.pad(picture, edge, mode="edge")
        if self.last < 0:
            self.stream.height, self.stream.width = picture.shape[:2]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=self.source)
        at = self.last + self.step if time is None else round(time / self.base)
        self.last = max(at, self.last + 1, 0)
        frame.pts, frame.time_base = self.last, self.base
        self.container.mux(self.stream.encode(frame))


_CODECS = {
    ".mp4": ("libx264", "yuv420p", "rgb24", {"crf": "18", "preset": "medium"}, {"movflags": "faststart"}),
    ".mkv": ("ffv1", "gray16le", "gray16le", {"level": "3"}, {}),
}


@contextmanager
def writing(path: Path, video: Video) -> Iterator[Writer]:
    """A writer of a video like another: `.mp4` in colour (H.264), `.mkv` in lossless 16-bit grey (FFV1).

    The file appears when the block ends well; the sides of an mp4 are made even.
    """
    av = _av()
    codec, pixels, source, options, container_options = _CODECS[path.suffix.lower()]
    with atomic_path(path) as part, av.open(str(part), "w", options=container_options) as container:
        writer = Writer(container, video, codec, pixels, source)
        writer.stream.options = options
        yield writer
        container.mux(writer.stream.encode(None))
