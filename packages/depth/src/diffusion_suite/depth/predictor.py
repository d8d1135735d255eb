"""A network on its device, and what turns pictures of any size into its normalised log-depth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_suite.core.devices import pick_device
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.progress import say
from diffusion_suite.core.seeding import key
from diffusion_suite.core.windows import Window, plan
from diffusion_suite.depth.config import NetworkKeys
from diffusion_suite.depth.io.maps import Map
from diffusion_suite.depth.io.pictures import RGB
from diffusion_suite.depth.large import by_windows
from diffusion_suite.depth.packed import pack

if TYPE_CHECKING:
    from diffusion_suite.depth.method import DepthFM

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
Size = tuple[int, int]


@dataclass(frozen=True)
class Seen:
    """What the network makes of one picture.

    Attributes:
        y: (height, width) normalised log-depth, the mean over members, at the processing size.
        spread: standard deviation over members, of the same shape.
    """

    y: Map
    spread: Map


def processing_size(size: Size, resolution: int, multiple: int) -> Size:
    """Width and height at which a picture is predicted (section 2.1).

    Args:
        size: width and height of the picture.
        resolution: longest side wanted; 0 for the picture's own.
        multiple: what each side is rounded to, at least one of it.
    """
    width, height = size
    longest = resolution or max(size)
    factor = min(longest / width, longest / height)
    sides = (int(width * factor), int(height * factor))
    width, height = (max(multiple, multiple * round(side / multiple)) for side in sides)
    return width, height


def shrunk(rgb: RGB, size: Size) -> RGB:
    """A picture at another size (width, height), bilinear, averaged where it shrinks."""
    if (rgb.shape[1], rgb.shape[0]) == size:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


class Predictor:
    """Predicts pictures as settings say.

    Args:
        model: the network.
        settings: how.
    """

    def __init__(self, model: DepthFM, settings: NetworkKeys) -> None:
        self.settings = settings
        self.device = pick_device(settings.device)
        precision = settings.precision
        if precision == "auto":
            precision = "bf16" if self.device.type == "cuda" else "32"
        self.precision = precision
        self.dtype = PRECISIONS[precision]
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.eval().to(self.device, self.dtype).to(memory_format=self.layout)
        if settings.compile:
            self.model.unet.compile()
        elif self.device.type == "cpu":
            pack(self.model)

    @classmethod
    def load(cls, settings: NetworkKeys) -> Predictor:
        """The network that the settings name.

        Raises:
            CheckpointError: its weights are missing, damaged or another network's.
        """
        from diffusion_suite.depth.load import load_network

        return cls(load_network(settings.weights, settings.autoencoder), settings)

    def changed(self, **settings: Any) -> Predictor:
        """The same network with other settings that do not change it, such as steps, members or seed."""
        other = copy(self)
        other.settings = replace(self.settings, **settings)
        return other

    @property
    def window(self) -> int:
        """Longest side that the network sees at once."""
        return self.settings.window or self.model.resolution

    @property
    def multiple(self) -> int:
        """What the sides of a picture are rounded to before predicting."""
        return self.settings.multiple or self.model.multiple

    def size(self, size: Size) -> Size:
        """Processing width and height of a picture's."""
        resolution = self.settings.resolution
        if resolution is None:
            resolution = self.model.resolution
        return processing_size(size, resolution, self.multiple)

    def is_large(self, size: Size) -> bool:
        """Whether a picture of that width and height goes in windows."""
        return max(self.size(size)) > max(processing_size(size, self.window, self.multiple))

    def predict(self, pictures: Sequence[RGB], seeds: Sequence[int] | None = None) -> list[Seen]:
        """Predict pictures of one processing size together.

        Args:
            pictures: 8-bit RGB of any sizes that have one processing size.
            seeds: of each picture's noise; None makes them of the seed and of what the picture shows, so that
                its depth does not depend on its neighbours or its name.

        Raises:
            InputError: one picture does not fit in the device's memory.
        """
        size = self.size((pictures[0].shape[1], pictures[0].shape[0]))
        return self._at(pictures, size, seeds)

    def predict_large(self, picture: RGB, folder: Path, signature: dict[str, Any]) -> Seen:
        """Predict a picture in windows that agree with the whole.

        Args:
            picture: 8-bit RGB.
            folder: for the finished windows, which a killed run finds again.
            signature: what the result depends on, beside the picture's size.
        """
        size = self.size((picture.shape[1], picture.shape[0]))
        side = self.window
        whole = self._at([picture], processing_size(size, side, self.multiple))[0]
        large = shrunk(picture, size)
        windows = plan((size[1], size[0]), side, int(side * self.settings.overlap))
        seed = content_seed(self.settings.seed, large)

        def predict(window: Window) -> Map:
            part = large[window.slices]
            seen = self._at([part], (part.shape[1], part.shape[0]), [key(seed, window.index)])[0]
            return np.stack([seen.y, seen.spread], -1)

        signature = {**signature, "size": list(size), "window": side, "content": seed}
        return Seen(*by_windows(windows, predict, whole.y, folder, signature))

    def _at(self, pictures: Sequence[RGB], size: Size, seeds: Sequence[int] | None = None) -> list[Seen]:
        small = [shrunk(picture, size) for picture in pictures]
        if seeds is None:
            seeds = [content_seed(self.settings.seed, picture) for picture in small]
        return self._predict(small, seeds)

    def _predict(self, small: Sequence[RGB], seeds: Sequence[int]) -> list[Seen]:
        try:
            found = self.model.predict(
                self._batch(small), steps=self.settings.steps, members=self.settings.members, seeds=seeds
            )
        except torch.OutOfMemoryError as error:
            if len(small) == 1:
                height, width = small[0].shape[:2]
                raise InputError(
                    f"a picture at {width} x {height} does not fit in the memory of {self.device}",
                    "give a smaller resolution or window, fewer members, or precision=bf16",
                ) from error
        else:
            y, spread = (values.float().cpu().numpy()[:, 0] for values in (found.log_depth, found.spread))
            return [Seen(*pair) for pair in zip(y, spread, strict=True)]
        torch.cuda.empty_cache()
        half = len(small) // 2
        say(f"{len(small)} pictures do not fit in memory together; going on with {half} at a time")
        return self._predict(small[:half], seeds[:half]) + self._predict(small[half:], seeds[half:])

    def _batch(self, small: Sequence[RGB]) -> Tensor:
        pictures = torch.from_numpy(np.stack(small).transpose(0, 3, 1, 2).astype(np.float64) / 127.5 - 1)
        return pictures.float().to(self.device, self.dtype, memory_format=self.layout)


def content_seed(seed: int, rgb: RGB) -> int:
    """A seed for a picture by what it shows."""
    digest = hashlib.blake2b(np.ascontiguousarray(rgb).data, digest_size=16).hexdigest()
    return key(seed, "picture", *rgb.shape, digest)
