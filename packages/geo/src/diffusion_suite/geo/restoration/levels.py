"""Sizes of the encoder-decoders of VS2M: the published ones, and fewer levels for small images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusion_suite.core.errors import ConfigError


@dataclass(frozen=True)
class Levels:
    """Sizes of an encoder-decoder, one entry a level, the finest first.

    Attributes:
        down: channels of the encoder.
        up: channels of the decoder.
        skip: channels of the bridge between both; 0 for none.
        kernel_down: odd kernel sizes of the encoder.
        kernel_up: odd kernel sizes of the decoder.
    """

    down: tuple[int, ...]
    up: tuple[int, ...]
    skip: tuple[int, ...]
    kernel_down: tuple[int, ...]
    kernel_up: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (self.down, self.up, self.skip, self.kernel_down, self.kernel_up)
        if not self.down or len({len(size) for size in sizes}) != 1:
            raise ConfigError("the levels of a network differ in number", "give each list one entry a level")
        if any(kernel % 2 == 0 for kernel in self.kernel_down + self.kernel_up):
            raise ConfigError("a kernel size is even", "give odd kernel sizes")

    def __len__(self) -> int:
        return len(self.down)

    def attends(self, level: int) -> bool:
        """Whether a level has an attention block: the third- and fourth-deepest ones."""
        return len(self) - 5 < level < len(self) - 2

    def valid_side(self, side: int) -> int:
        """The smallest side >= `side` that the network can work on and returns unchanged.

        It divides by two down to the deepest level, which keeps at least 2 pixels, and no convolution mirrors
        more pixels than there are.
        """
        step = 1 << len(self)
        valid = max(math.ceil(side / step), 2) * step
        while not self._fits(valid):
            valid += step
        return valid

    def _fits(self, side: int) -> bool:
        encoder = all(side >> (i + 1) > k // 2 for i, k in enumerate(self.kernel_down))
        return encoder and all(side >> i > k // 2 for i, k in enumerate(self.kernel_up))


PUBLISHED_LEVELS = Levels(
    down=(16, 32, 64, 128, 128, 128),
    up=(16, 32, 64, 128, 128, 128),
    skip=(0, 0, 4, 4, 4, 4),
    kernel_down=(7, 7, 5, 5, 3, 3),
    kernel_up=(7, 7, 5, 5, 3, 3),
)
SMALL_LEVELS = (
    Levels((16, 128), (16, 128), (4, 4), (7, 3), (7, 3)),
    Levels((16, 128, 128), (16, 128, 128), (4, 4, 4), (7, 5, 3), (7, 5, 3)),
    Levels((16, 128, 128, 128), (16, 128, 128, 128), (4, 4, 4, 4), (7, 5, 3, 3), (7, 5, 3, 3)),
    Levels(
        (16, 32, 128, 128, 128), (16, 32, 128, 128, 128), (0, 4, 4, 4, 4), (7, 7, 5, 3, 3), (7, 7, 5, 3, 3)
    ),
)


def levels_for(height: int, width: int) -> Levels:
    """The published six levels where both sides reach 128 pixels, fewer for smaller images.

    Every network keeps attention blocks of 132 channels, and at least 2 pixels of the image at its deepest
    level.
    """
    side = min(height, width)
    fitting = [levels for levels in (*SMALL_LEVELS, PUBLISHED_LEVELS) if 2 ** (len(levels) + 1) <= side]
    return fitting[-1] if fitting else SMALL_LEVELS[0]
