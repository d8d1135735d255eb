"""A drawn scene as tensors: solids, their materials, lights, air and camera.

World axes: x right, y up, z forward; metres. Camera axes: x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

KINDS = ("box", "ellipsoid", "cylinder")
CAPACITY = {"box": 72, "ellipsoid": 28, "cylinder": 24}
"""How many solids of each kind a scene holds at most; their order is that of `KINDS`."""

PATTERNS = ("plain", "tiles", "planks", "bricks", "windows", "blotches", "veins", "stripes")
PATTERN = {name: index for index, name in enumerate(PATTERNS)}


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes; K = all solids, those of a kind side by side, unused ones with `half` 0.

    Attributes:
        centre: (batch, K, 3) metres.
        rotation: (batch, K, 3, 3), columns are the solid's own axes in the world.
        half: (batch, K, 3) half sizes along its own axes; a cylinder stands along its second axis.
        colour: (batch, K, 2, 3) the two colours of the pattern, linear, in [0, 1].
        pattern: (batch, K) index in `PATTERNS`.
        texture: (batch, K, 4) size of the pattern in metres, contrast of the grain, its size in metres, seed.
        finish: (batch, K, 2) strength of the highlight, light given off.
        lights: (batch, L, 3) positions in metres; the first is the sun when `sun` is 1.
        light_colour: (batch, L, 3).
        sun: (batch,) 1 if the first light is at infinity in direction `lights[:, 0]`.
        ambient: (batch, 2, 3) light from above and from below.
        sky: (batch, 2, 3) colour at the zenith and at the horizon.
        clouds: (batch,) share of white in the sky.
        fog: (batch,) per metre.
        eye: (batch, 3) metres.
        view: (batch, 3, 3) columns are the camera's axes in the world.
        slope: (batch,) tangent of half the angle of view along the longer side.
        lens: (batch, 5) exposure, gamma, vignette, blur in pixels of a 100-pixel picture, noise.
        tint: (batch, 3) white balance.
    """

    centre: Tensor
    rotation: Tensor
    half: Tensor
    colour: Tensor
    pattern: Tensor
    texture: Tensor
    finish: Tensor
    lights: Tensor
    light_colour: Tensor
    sun: Tensor
    ambient: Tensor
    sky: Tensor
    clouds: Tensor
    fog: Tensor
    eye: Tensor
    view: Tensor
    slope: Tensor
    lens: Tensor
    tint: Tensor

    def __len__(self) -> int:
        return len(self.eye)

    @classmethod
    def stack(cls, scenes: Sequence[Self]) -> Self:
        """One batch of several."""
        return cls(**{f.name: torch.cat([getattr(s, f.name) for s in scenes]) for f in fields(cls)})

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def used(self, kind: str) -> slice:
        """The solids of a kind, up to the last that any scene of the batch has."""
        first = 0
        for name in KINDS:
            if name == kind:
                break
            first += CAPACITY[name]
        block = self.half[:, first : first + CAPACITY[kind], 0] > 0
        places = torch.arange(1, CAPACITY[kind] + 1, device=block.device)
        return slice(first, first + int((block.any(0) * places).max()))
