"""Whole scenes as people photograph them: rooms, desks, streets, land, people and single things."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.renderer import furniture
from diffusion_suite.depth.renderer.builder import Builder, Material, finished
from diffusion_suite.depth.renderer.scenes import Scenes

THICK = 0.2
"""Thickness of walls, metres."""


def draw_scene(seed: int, index: int, layout: str | None = None) -> Scenes:
    """One scene, a batch of one; the same for the same arguments.

    Args:
        seed: key of all chance, with `index`.
        index: number of the scene.
        layout: a name in `LAYOUTS`, or None for one drawn by its share.

    Raises:
        KeyError: an unknown layout.
    """
    builder = Builder(numpy_generator(seed, "scene", index))
    if layout is None:
        shares = np.array([share for _, share in LAYOUTS.values()])
        layout = list(LAYOUTS)[int(builder.rng.choice(len(shares), p=shares / shares.sum()))]
    return LAYOUTS[layout][0](builder)


def room(b: Builder) -> Scenes:
    """Walls, things along them and on the floor; seen at eye height from one side."""
    width, depth, height = b.uniform(2.5, 7.0), b.uniform(3.0, 9.0), b.uniform(2.3, 3.4)
    _walls(b, width, depth, height)
    for side in range(4):
        span = width if side % 2 == 0 else depth
        reach = (depth if side % 2 == 0 else width) / 2
        with b.frame(yaw=side * math.pi / 2), b.frame((0, 0, reach)):
            _along_wall(b, span, height)
    for _ in range(int(b.rng.integers(0, 4))):
        at = (b.uniform(-0.35, 0.35) * width, 0, b.uniform(-0.3, 0.4) * depth)
        with b.frame(at, yaw=b.uniform(-math.pi, math.pi) if b.chance(0.5) else 0.0):
            _in_the_middle(b)
    if b.chance(0.5):
        furniture.clutter(b, width * 0.8, depth * 0.8, 0.3, int(b.rng.integers(1, 5)))
    eye = (b.uniform(-0.3, 0.3) * width, b.uniform(0.9, 1.75), -depth / 2 + b.uniform(0.2, 0.25 * depth))
    target = (b.uniform(-0.4, 0.4) * width, eye[1] - b.uniform(-0.2, 1.1), b.uniform(0.1, 0.5) * depth)
    lamps = [
        ((b.uniform(-0.3, 0.3) * width, height - 0.2, b.uniform(-0.3, 0.3) * depth), b.uniform(1.0, 4.0)),
        ((b.uniform(-0.4, 0.4) * width, height - 0.3, b.uniform(-0.4, 0.4) * depth), b.uniform(0.0, 2.0)),
        ((width / 2 - 0.3, 1.5, b.uniform(-0.3, 0.3) * depth), b.uniform(0.0, 2.0)),
    ]
    return finished(b, eye, target, True, lamps)


def _walls(b: Builder, width: float, depth: float, height: float) -> None:
    floor = b.material(
        "planks", "tiles", "plain", "blotches", "veins", size=(0.2, 1.0), brightness=(0.15, 0.8)
    )
    wall = b.material(
        "plain", "plain", "plain", "bricks", "stripes", size=(0.1, 0.5), strength=0.4, brightness=(0.4, 0.95)
    )
    ceiling = b.material("plain", "tiles", size=(0.5, 1.0), strength=0.1, brightness=(0.7, 0.98))
    b.box((0, -THICK, 0), (width + 1, THICK, depth + 1), floor)
    b.box((0, height, 0), (width + 1, THICK, depth + 1), ceiling)
    for side in (-1, 1):
        own = wall if b.chance(0.8) else b.material("plain", "bricks")
        b.box((side * (width + THICK) / 2, 0, 0), (THICK, height, depth + 1), own)
        own = wall if b.chance(0.8) else b.material("plain", "bricks")
        b.box((0, 0, side * (depth + THICK) / 2), (width + 1, height, THICK), own)


def _along_wall(b: Builder, span: float, height: float) -> None:
    """Things with their backs to the wall z = 0, within half the span to each side."""
    for _ in range(int(b.rng.integers(1, 5))):
        x = b.uniform(-0.42, 0.42) * span
        kind = b.one_of(
            "shelf", "shelf", "sofa", "desk", "window", "picture", "door", "lamp", "plant", "bed", "box"
        )
        with b.frame((x, 0, 0)):
            if kind == "shelf":
                with b.frame((0, 0, -0.32)):
                    furniture.shelf(b, b.uniform(0.5, 1.8), b.uniform(0.6, 2.2))
            elif kind == "sofa":
                with b.frame((0, 0, -0.5)):
                    furniture.sofa(b, b.uniform(0.9, 2.2))
            elif kind == "desk":
                wide, tall = b.uniform(0.8, 1.8), b.uniform(0.65, 0.8)
                with b.frame((0, 0, -0.4)):
                    furniture.table(b, wide, tall, 0.7)
                    with b.frame((0, tall, 0)):
                        furniture.clutter(b, wide * 0.8, 0.5, 0.2, int(b.rng.integers(1, 4)))
            elif kind == "window":
                glass = Material(
                    (0.8, 0.88, 1.0), (0.6, 0.7, 0.8), "blotches", 0.6, 0.2, 0.3, 0.0, b.uniform(0.5, 2.5)
                )
                b.box((0, 0.9, 0), (b.uniform(0.7, 1.8), b.uniform(0.9, 1.3), 0.05), glass)
            elif kind == "picture":
                b.box(
                    (0, b.uniform(1.2, 1.6), 0),
                    (b.uniform(0.3, 1.2), b.uniform(0.3, 0.8), 0.06),
                    b.material(),
                )
            elif kind == "door":
                b.box((0, 0, 0), (0.9, min(2.05, height), 0.08), b.material("plain", "planks"))
            elif kind == "lamp":
                with b.frame((0, 0, -0.3)):
                    furniture.lamp(b)
            elif kind == "plant":
                with b.frame((0, 0, -0.4)):
                    furniture.plant(b, b.uniform(0.7, 1.6))
            elif kind == "bed":
                with b.frame((0, 0, -1.05)):
                    furniture.bed(b)
            else:
                b.box(
                    (0, 0, -0.3),
                    (b.uniform(0.3, 0.9), b.uniform(0.3, 1.5), b.uniform(0.3, 0.6)),
                    b.material(),
                )


def _in_the_middle(b: Builder) -> None:
    kind = b.one_of("table", "chair", "chair", "box", "sofa", "person")
    if kind == "table":
        wide, tall, deep = b.uniform(0.6, 1.8), b.uniform(0.4, 0.8), b.uniform(0.6, 1.0)
        furniture.table(b, wide, tall, deep)
        with b.frame((0, tall, 0)):
            furniture.clutter(b, wide * 0.8, deep * 0.8, 0.15, int(b.rng.integers(0, 4)))
        for side in (-1, 1):
            if b.chance(0.5):
                with b.frame(
                    (side * b.uniform(0.0, 0.5), 0, side * (deep / 2 + 0.2)), yaw=(side < 0) * math.pi
                ):
                    furniture.chair(b)
    elif kind == "chair":
        furniture.chair(b)
    elif kind == "sofa":
        furniture.sofa(b, b.uniform(0.8, 2.0))
    elif kind == "person":
        furniture.person(b, b.uniform(1.5, 1.9))
    else:
        b.box((0, 0, 0), (b.uniform(0.3, 1.0), b.uniform(0.2, 1.2), b.uniform(0.3, 1.0)), b.material())


def desk(b: Builder) -> Scenes:
    """A table top full of things from near, a wall or a room behind it."""
    wide, deep, tall = b.uniform(1.0, 2.4), b.uniform(0.6, 1.2), b.uniform(0.65, 0.9)
    back = deep / 2 + (b.uniform(0.02, 0.3) if b.chance(0.6) else b.uniform(0.5, 3.5))
    b.box((0, -THICK, 0), (12, THICK, 12), b.material("planks", "tiles", "plain"))
    b.box(
        (0, 0, back + THICK / 2),
        (12, 3.2, THICK),
        b.material("plain", "bricks", "tiles", "stripes", brightness=(0.2, 0.95)),
    )
    if b.chance(0.4):
        b.box((b.uniform(1.2, 3) * (1 if b.chance(0.5) else -1), 0, 0), (THICK, 3.2, 12), b.material("plain"))
    furniture.table(b, wide, tall, deep)
    with b.frame((0, tall, 0)):
        furniture.clutter(b, wide * 0.95, deep * 0.9, b.uniform(0.12, 0.3), int(b.rng.integers(4, 14)))
    for _ in range(int(b.rng.integers(0, 4))):
        with b.frame((b.uniform(-2, 2), 0, back - 0.35)):
            furniture.shelf(b, b.uniform(0.5, 1.5), b.uniform(0.8, 2.2))
    away, up = b.uniform(0.3, 1.4), b.uniform(0.15, 0.9)
    eye = (b.uniform(-0.5, 0.5) * wide, tall + up, -deep / 2 - away)
    target = (b.uniform(-0.3, 0.3) * wide, tall + b.uniform(-0.05, 0.25), b.uniform(0.0, 0.5) * deep)
    lamps = [
        ((b.uniform(-2, 2), 2.6, b.uniform(-2, 0.3)), b.uniform(1.5, 5.0)),
        ((b.uniform(-2, 2), 2.0, b.uniform(-2, 0)), b.uniform(0.0, 2.0)),
    ]
    return finished(b, eye, target, True, lamps)


def thing(b: Builder) -> Scenes:
    """One large thing on the floor, filling the picture: a chair, a pile, a machine of parts, a plant."""
    b.box(
        (0, -THICK, 0),
        (60, THICK, 60),
        b.material("planks", "tiles", "plain", "blotches", "veins", size=(0.1, 1.5)),
    )
    indoor = b.chance(0.65)
    if indoor:
        back = b.uniform(0.8, 4.0)
        b.box(
            (0, 0, back), (30, 3.5, THICK), b.material("plain", "bricks", "stripes", brightness=(0.2, 0.95))
        )
        for _ in range(int(b.rng.integers(0, 3))):
            with b.frame((b.uniform(-2.5, 2.5), 0, back - 0.4)):
                furniture.shelf(b, b.uniform(0.5, 1.8), b.uniform(0.6, 2.0))
    else:
        _backdrop(b, 12.0)
    with b.frame(yaw=b.uniform(-math.pi, math.pi)):
        kind = b.one_of("chair", "sofa", "parts", "parts", "plant", "pile")
        if kind == "chair":
            furniture.chair(b)
        elif kind == "sofa":
            furniture.sofa(b, b.uniform(0.8, 1.8))
        elif kind == "plant":
            furniture.plant(b, b.uniform(0.8, 1.6))
        else:
            _parts(b, 0.5 if kind == "parts" else 0.9)
    away = b.uniform(1.1, 3.0)
    eye = (b.uniform(-0.4, 0.4), b.uniform(0.5, 1.7), -away)
    target = (b.uniform(-0.2, 0.2), b.uniform(0.25, 0.7), 0.0)
    return finished(b, eye, target, indoor, [((b.uniform(-2, 2), 2.7, -1.0), b.uniform(2, 6))])


def _parts(b: Builder, spread: float) -> None:
    """Solids of all kinds in all directions about one place: machines, toys, heaps."""
    for _ in range(int(b.rng.integers(6, 18))):
        at = (b.uniform(-spread, spread), b.uniform(0.05, 0.9), b.uniform(-spread / 2, spread / 2))
        with b.frame(at, b.uniform(0, 3), b.uniform(-0.6, 0.6), b.uniform(-1.5, 1.5)):
            size = b.uniform(0.05, 0.35)
            look = b.material(size=(0.03, 0.2))
            kind = b.one_of("box", "cylinder", "ellipsoid")
            b.add(kind, (0, 0, 0), (size * b.uniform(0.2, 1), size, size * b.uniform(0.2, 1)), look)


def portrait(b: Builder) -> Scenes:
    """A person or an animal from near, the background out of the way."""
    indoor = b.chance(0.6)
    b.box((0, -THICK, 0), (200, THICK, 200), b.material("planks", "blotches", "plain", size=(0.2, 2.0)))
    if indoor:
        back = b.uniform(0.6, 4.0)
        b.box((0, 0, back), (30, 4, THICK), b.material(brightness=(0.1, 0.95)))
        for _ in range(int(b.rng.integers(0, 4))):
            with b.frame((b.uniform(-2, 2), 0, back - 0.4)):
                furniture.shelf(b, b.uniform(0.4, 1.5), b.uniform(0.8, 2.4))
    else:
        _backdrop(b, 15.0)
    height = b.uniform(1.5, 1.9)
    if b.chance(0.75):
        furniture.person(b, height)
        aim, away = b.uniform(0.72, 0.92) * height, b.uniform(0.5, 1.8)
    else:
        aim, away = _animal(b), b.uniform(0.4, 1.2)
    eye = (b.uniform(-0.3, 0.3), aim + b.uniform(-0.15, 0.35), -away)
    target = (b.uniform(-0.12, 0.12), aim, 0.0)
    return finished(b, eye, target, indoor, [((b.uniform(-2, 2), 2.8, -1.2), b.uniform(2, 6))], (35.0, 65.0))


def _animal(b: Builder) -> float:
    """A head with ears and a muzzle on a body; returns the height of the head."""
    fur = b.material("blotches", "stripes", "veins", "plain", size=(0.03, 0.2), strength=0.4)
    scale = b.uniform(0.6, 1.4)
    head = 0.4 * scale
    b.ellipsoid((0, 0.22 * scale, 0.25 * scale), (0.14 * scale, 0.2 * scale, 0.28 * scale), fur)
    b.ellipsoid((0, head, 0), (0.1 * scale, 0.09 * scale, 0.1 * scale), fur)
    b.ellipsoid((0, head - 0.03 * scale, -0.09 * scale), (0.045 * scale, 0.04 * scale, 0.05 * scale), fur)
    for side in (-1, 1):
        b.ellipsoid(
            (side * 0.07 * scale, head + 0.09 * scale, 0.02), (0.03 * scale, 0.06 * scale, 0.015 * scale), fur
        )
    return head


def street(b: Builder) -> Scenes:
    """A road between houses, with cars, trees, poles and people."""
    road, side = b.uniform(6, 14), b.uniform(1.5, 4.0)
    asphalt = Material((0.12, 0.12, 0.13), (0.2, 0.2, 0.2), "blotches", 3.0, 0.3, 0.05)
    b.box((0, -THICK, 40), (400, THICK, 400), asphalt)
    pave = b.material("tiles", "plain", size=(0.3, 1.0), strength=0.2, brightness=(0.3, 0.7))
    paint = Material((0.8, 0.8, 0.75), (0.7, 0.7, 0.7))
    for mark in range(5):
        b.box((0, 0, 6.0 * mark), (0.15, 0.01, 3.0), paint)
    for sign in (-1, 1):
        b.box((sign * (road + side) / 2, 0, 40), (side, 0.12, 160), pave)
        z = -8.0
        while z < 70:
            wide, tall, deep = b.uniform(7, 22), b.uniform(4, 24), b.uniform(8, 14)
            with b.frame(
                (sign * (road / 2 + side + deep / 2 + b.uniform(0, 3)), 0, z + wide / 2),
                yaw=sign * math.pi / 2,
            ):
                if b.chance(0.85):
                    furniture.building(b, wide, tall, deep)
            z += wide + (b.uniform(0, 6) if b.chance(0.4) else 0)
        for _ in range(int(b.rng.integers(0, 4))):
            with b.frame((sign * (road / 2 - 1.2), 0, b.uniform(3, 45))):
                furniture.car(b)
        for _ in range(int(b.rng.integers(0, 5))):
            with b.frame((sign * (road / 2 + side * b.uniform(0.2, 0.8)), 0, b.uniform(3, 50))):
                kind = b.one_of("tree", "pole", "person")
                if kind == "tree":
                    furniture.tree(b, b.uniform(4, 9))
                elif kind == "pole":
                    b.cylinder((0, 0, 0), 0.08, b.uniform(3, 8), b.material("plain"))
                else:
                    furniture.person(b, b.uniform(1.5, 1.9))
    eye = (b.uniform(-0.6, 0.6) * (road / 2 + side), b.uniform(1.2, 2.6), -2.0)
    target = (eye[0] * b.uniform(0, 1) + b.uniform(-4, 4), eye[1] + b.uniform(-1.5, 1.2), 18.0)
    return finished(b, eye, target, False, [])


def land(b: Builder) -> Scenes:
    """Ground, hills, trees, rocks, perhaps a house."""
    ground = (
        furniture.leaves(b)
        if b.chance(0.6)
        else b.material("blotches", "plain", size=(0.5, 4.0), brightness=(0.2, 0.8))
    )
    b.box((0, -THICK, 50), (2000, THICK, 2000), ground)
    _backdrop(b, b.uniform(15, 60))
    for _ in range(int(b.rng.integers(2, 9))):
        with b.frame((b.uniform(-12, 12), 0, b.uniform(3, 35)), yaw=b.uniform(0, 3)):
            kind = b.one_of("tree", "tree", "rock", "bush", "person")
            if kind == "tree":
                furniture.tree(b, b.uniform(2, 10))
            elif kind == "rock":
                b.ellipsoid(
                    (0, 0.1, 0),
                    (b.uniform(0.3, 1.6), b.uniform(0.2, 1.0), b.uniform(0.3, 1.4)),
                    b.material("blotches"),
                )
            elif kind == "bush":
                b.ellipsoid(
                    (0, 0.4, 0),
                    (b.uniform(0.5, 1.5), b.uniform(0.4, 1.2), b.uniform(0.5, 1.5)),
                    furniture.leaves(b),
                )
            else:
                furniture.person(b, b.uniform(1.5, 1.9))
    if b.chance(0.35):
        with b.frame((b.uniform(-8, 8), 0, b.uniform(10, 30)), yaw=b.uniform(-0.8, 0.8)):
            furniture.building(b, b.uniform(5, 12), b.uniform(3, 8), b.uniform(5, 10))
    up = b.uniform(0.5, 2.5)
    return finished(b, (0, up, -1.0), (b.uniform(-4, 4), up + b.uniform(-2.5, 1.5), 10.0), False, [])


def _backdrop(b: Builder, distance: float) -> None:
    """Hills and woods at and beyond a distance."""
    for _ in range(int(b.rng.integers(1, 6))):
        far = distance * b.uniform(1, 6)
        look = furniture.leaves(b) if b.chance(0.7) else b.material("blotches", "veins", size=(2.0, 15.0))
        look = Material(look.first, look.second, look.pattern, 0.1 * far, look.contrast, 0.05 * far)
        half = (far * b.uniform(0.2, 1.0), far * b.uniform(0.03, 0.25), far * b.uniform(0.1, 0.3))
        b.ellipsoid((b.uniform(-0.8, 0.8) * far, 0, far), half, look)


LAYOUTS: dict[str, tuple[Callable[[Builder], Scenes], float]] = {
    "room": (room, 0.36),
    "desk": (desk, 0.18),
    "thing": (thing, 0.14),
    "portrait": (portrait, 0.1),
    "street": (street, 0.12),
    "land": (land, 0.1),
}
"""What can be drawn, and the share of each."""
