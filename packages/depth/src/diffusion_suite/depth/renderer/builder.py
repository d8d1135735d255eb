"""Collects the solids of one scene, in frames that stand or lie on one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from diffusion_suite.depth.renderer.scenes import CAPACITY, KINDS, PATTERN, Scenes

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """How a solid looks; see `Scenes` for units.

    Attributes:
        first, second: linear colours.
        pattern: name in `PATTERNS`.
        size: of the pattern, metres.
        contrast: of the grain.
        grain: its size, metres.
        shine: strength of the highlight.
        glow: light given off.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    pattern: str = "plain"
    size: float = 0.5
    contrast: float = 0.2
    grain: float = 0.2
    shine: float = 0.0
    glow: float = 0.0


@dataclass
class Builder:
    """A scene in the making.

    Attributes:
        rng: the only source of chance.
        solids: of each kind: centre, rotation, half sizes, material.
    """

    rng: np.random.Generator
    solids: dict[str, list[tuple[Vector, Vector, Vector, Material]]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS}
    )
    _frames: list[tuple[Vector, Vector]] = field(default_factory=lambda: [(np.zeros(3), np.eye(3))])

    @contextmanager
    def frame(
        self, at: ArrayLike = (0, 0, 0), yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
    ) -> Iterator[None]:
        """Solids added inside are placed relative to a point and turned (radians) with it."""
        origin, axes = self._frames[-1]
        turn = turned(yaw, pitch, roll)
        self._frames.append((origin + axes @ np.asarray(at, float), axes @ turn))
        try:
            yield
        finally:
            self._frames.pop()

    def add(self, kind: str, at: ArrayLike, half: ArrayLike, material: Material, yaw: float = 0.0) -> None:
        """A solid by its centre and half sizes; one that no longer fits into the scene is left out."""
        if len(self.solids[kind]) < CAPACITY[kind]:
            origin, axes = self._frames[-1]
            place, turn = origin + axes @ np.asarray(at, float), axes @ turned(yaw)
            self.solids[kind].append((place, turn, np.maximum(np.asarray(half, float), 1e-3), material))

    def box(self, at: ArrayLike, size: ArrayLike, material: Material, yaw: float = 0.0) -> None:
        """A box that stands on `at` (middle of its base), of full `size` (width, height, depth)."""
        size, at = np.asarray(size, float), np.asarray(at, float)
        self.add("box", at + np.array([0, size[1] / 2, 0]), size / 2, material, yaw)

    def cylinder(self, at: ArrayLike, radius: float, height: float, material: Material) -> None:
        """An upright cylinder that stands on `at`."""
        at = np.asarray(at, float) + np.array([0, height / 2, 0])
        self.add("cylinder", at, (radius, height / 2, radius), material)

    def ellipsoid(self, at: ArrayLike, half: ArrayLike, material: Material, yaw: float = 0.0) -> None:
        """An ellipsoid by its centre and half sizes."""
        self.add("ellipsoid", at, half, material, yaw)

    def uniform(self, low: float, high: float) -> float:
        """A number between two."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """True in a share of the cases."""
        return bool(self.rng.random() < share)

    def one_of(self, *names: str) -> str:
        """One of some names."""
        return names[int(self.rng.integers(len(names)))]

    def colour(
        self, strength: float = 0.5, brightness: tuple[float, float] = (0.05, 0.9)
    ) -> tuple[float, ...]:
        """A colour of some saturation; most things are not very colourful."""
        hue = self.rng.random(3)
        grey = self.uniform(*brightness)
        share = strength * self.rng.random()
        mixed = grey * (1 - share + share * hue / max(hue.max(), 1e-3))
        return tuple(float(value) for value in mixed.clip(0.01, 1.0) ** 1.6)

    def material(
        self,
        *patterns: str,
        size: tuple[float, float] = (0.1, 0.8),
        strength: float = 0.6,
        brightness: tuple[float, float] = (0.05, 0.9),
        glow: float = 0.0,
    ) -> Material:
        """A material with one of the patterns (any but windows if none is named)."""
        names = patterns or ("plain", "plain", "plain", "tiles", "planks", "blotches", "veins", "stripes")
        first = self.colour(strength, brightness)
        second = self.colour(strength, brightness)
        if self.chance(0.6):
            factor = self.uniform(0.4, 1.6)
            second = tuple(min(1.0, value * factor) for value in first)
        return Material(
            first,
            second,
            self.one_of(*names),
            math.exp(self.uniform(*np.log(size))),
            self.uniform(0.0, 0.6) ** 1.5,
            math.exp(self.uniform(math.log(0.02), math.log(0.8))),
            self.uniform(0, 0.5) if self.chance(0.3) else 0.0,
            glow,
        )

    def solids_as_tensors(self) -> dict[str, torch.Tensor]:
        """The fields of `Scenes` that tell of solids, as a batch of one."""
        count = sum(CAPACITY.values())
        centre, half = np.zeros((count, 3)), np.zeros((count, 3))
        rotation = np.tile(np.eye(3), (count, 1, 1))
        colour, texture = np.zeros((count, 2, 3)), np.ones((count, 4))
        pattern, finish = np.zeros(count, np.int64), np.zeros((count, 2))
        first = 0
        for kind in KINDS:
            for place, (at, turn, size, look) in enumerate(self.solids[kind], first):
                centre[place], rotation[place], half[place] = at, turn, size
                colour[place] = (look.first, look.second)
                pattern[place] = PATTERN[look.pattern]
                texture[place] = (look.size, look.contrast, look.grain, self.rng.integers(1 << 20))
                finish[place] = (look.shine, look.glow)
            first += CAPACITY[kind]
        values = {
            "centre": centre, "rotation": rotation, "half": half, "colour": colour,
            "texture": texture, "finish": finish,
        }  # fmt: skip
        found = {name: torch.from_numpy(value).float()[None] for name, value in values.items()}
        return found | {"pattern": torch.from_numpy(pattern)[None]}


def turned(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Vector:
    """Rotation by roll about z, then pitch about x, then yaw about y (radians)."""
    cy, sy, cx, sx, cz, sz = (
        math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    )  # fmt: skip
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)


def finished(
    builder: Builder,
    eye: ArrayLike,
    target: ArrayLike,
    indoor: bool,
    lights: Sequence[tuple[ArrayLike, float]],
    angle: tuple[float, float] = (45.0, 85.0),
) -> Scenes:
    """The scene with light, air and a camera that looks from one point at another.

    Args:
        builder: its solids.
        eye: place of the camera, metres.
        target: what it looks at, metres.
        indoor: lamps (True) or sun and sky.
        lights: positions and strengths of the lamps; unused outdoors.
        angle: of view along the longer side, degrees, least and greatest.
    """
    forward = np.asarray(target, float) - np.asarray(eye, float)
    yaw = math.atan2(forward[0], forward[2])
    pitch = -math.atan2(forward[1], math.hypot(forward[0], forward[2]))
    roll = float(builder.rng.normal(0, 0.03))
    view = turned(yaw, pitch, roll) @ np.diag([1.0, -1.0, 1.0])
    warmth = float(builder.rng.normal(0, 0.12))
    tone = np.array([1 + warmth, 1.0, 1 - warmth])
    fog = 0.0 if indoor or builder.chance(0.4) else math.exp(builder.uniform(math.log(0.001), math.log(0.02)))
    values = {
        **_illumination(builder, indoor, lights, tone),
        "fog": np.array(fog),
        "eye": np.asarray(eye, float),
        "view": view,
        "slope": np.array(math.tan(math.radians(builder.uniform(*angle)) / 2)),
        "lens": np.array([
            builder.uniform(0.22, 0.5), builder.uniform(1.7, 2.4), builder.uniform(0, 0.35),
            builder.uniform(0.1, 0.6), builder.uniform(0.0, 0.02),
        ]),
        "tint": 1 + builder.rng.normal(0, 0.05, 3),
    }  # fmt: skip
    tensors = {name: torch.from_numpy(np.asarray(value)).float()[None] for name, value in values.items()}
    return Scenes(**builder.solids_as_tensors(), **tensors)


def _illumination(
    builder: Builder, indoor: bool, lamps: Sequence[tuple[ArrayLike, float]], tone: Vector
) -> dict[str, Vector]:
    grey = builder.uniform(0.5, 0.95)
    zenith = np.array([0.25, 0.45, 0.85]) * builder.uniform(0.5, 1.0)
    overcast = builder.chance(0.35)
    horizon = np.array([0.75, 0.82, 0.9]) * builder.uniform(0.7, 1.0)
    if overcast:
        zenith = np.full(3, grey) * np.array([0.95, 0.98, 1.0])
    lights, strengths = np.zeros((3, 3)), np.zeros((3, 3))
    if indoor:
        for number, (place, strength) in enumerate(lamps[:3]):
            lights[number], strengths[number] = np.asarray(place, float), strength * tone
        above = np.array([1.0, 1.0, 1.0]) * builder.uniform(0.12, 0.5)
        below = above * builder.uniform(0.4, 0.9)
    else:
        height, round_ = builder.uniform(0.2, 1.4), builder.uniform(-math.pi, math.pi)
        lights[0] = (
            math.cos(height) * math.sin(round_),
            math.sin(height),
            math.cos(height) * math.cos(round_),
        )
        strengths[0] = (0.15 if overcast else builder.uniform(0.7, 1.6)) * tone
        above, below = 0.6 * (zenith + 0.3), np.full(3, 0.15) * tone
    return {
        "lights": lights, "light_colour": strengths, "sun": np.array(0.0 if indoor else 1.0),
        "ambient": np.stack([above, below]), "sky": np.stack([zenith, horizon]),
        "clouds": np.array(0.9 if overcast else builder.uniform(0.1, 0.7)),
    }  # fmt: skip
