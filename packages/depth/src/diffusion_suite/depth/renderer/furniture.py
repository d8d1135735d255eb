"""Things that stand in scenes, each in the frame of the caller: base at the origin, front towards -z."""

from __future__ import annotations

import math

from diffusion_suite.depth.renderer.builder import Builder, Material


def table(b: Builder, width: float, height: float, depth: float) -> None:
    """A top on four legs, or on two boards."""
    top, leg = b.material("plain", "planks", "veins"), b.material("plain", "planks")
    thick = b.uniform(0.02, 0.06)
    b.box((0, height - thick, 0), (width, thick, depth), top)
    x, z = width / 2 - 0.05, depth / 2 - 0.05
    if b.chance(0.7):
        for side in (-x, x):
            for end in (-z, z):
                b.box((side, 0, end), (0.05, height - thick, 0.05), leg)
    else:
        for side in (-x, x):
            b.box((side, 0, 0), (0.04, height - thick, depth * 0.9), leg)


def chair(b: Builder) -> None:
    """Seat, back and legs."""
    look, leg = b.material(size=(0.03, 0.3)), b.material("plain")
    seat, width = b.uniform(0.4, 0.48), b.uniform(0.4, 0.5)
    b.box((0, seat, 0), (width, 0.05, width), look)
    b.box((0, seat + b.uniform(0.05, 0.25), width / 2), (width, b.uniform(0.25, 0.55), 0.04), look)
    for x in (-width / 2 + 0.03, width / 2 - 0.03):
        for z in (-width / 2 + 0.03, width / 2 - 0.03):
            b.box((x, 0, z), (0.035, seat, 0.035), leg)


def sofa(b: Builder, width: float) -> None:
    """An upholstered seat with arms."""
    look = b.material(size=(0.03, 0.3))
    depth, seat = b.uniform(0.75, 0.95), b.uniform(0.35, 0.45)
    b.box((0, 0, 0), (width, seat, depth), look)
    b.box((0, seat * 0.9, depth / 2 - 0.1), (width, b.uniform(0.35, 0.5), 0.2), look)
    for x in (-width / 2 + 0.08, width / 2 - 0.08):
        b.box((x, 0, 0), (0.16, seat + 0.2, depth), look)
    if b.chance(0.5):
        b.ellipsoid((b.uniform(-0.3, 0.3) * width, seat + 0.15, 0.1), (0.22, 0.16, 0.1), b.material())


def bed(b: Builder) -> None:
    """Frame, mattress, pillows, head board."""
    width, length = b.uniform(0.9, 1.8), 2.0
    b.box((0, 0, 0), (width, 0.3, length), b.material("plain", "planks"))
    b.box((0, 0.3, 0), (width * 0.97, b.uniform(0.15, 0.3), length * 0.97), b.material(size=(0.05, 0.5)))
    b.box((0, 0, length / 2), (width, b.uniform(0.7, 1.2), 0.06), b.material("plain", "planks"))
    for x in (-width / 4, width / 4):
        b.ellipsoid((x, 0.58, length / 2 - 0.3), (width / 5, 0.1, 0.2), b.material("plain"))


def shelf(b: Builder, width: float, height: float) -> None:
    """A shelf with boards and rows of books, or a cupboard."""
    look, depth = b.material("plain", "planks", "veins"), b.uniform(0.25, 0.6)
    if b.chance(0.5):
        b.box((0, 0, 0), (width, height, depth), look)
        doors = max(1, round(width / 0.5))
        for door in range(doors):
            x = width * ((door + 0.5) / doors - 0.5)
            b.box((x, 0.05, -depth / 2), (width / doors - 0.02, height - 0.1, 0.015), look)
        return
    b.box((0, 0, depth / 2), (width, height, 0.02), look)
    for x in (-width / 2, width / 2):
        b.box((x, 0, 0), (0.03, height, depth), look)
    boards = max(2, round(height / 0.38))
    for board in range(boards):
        y = height * board / boards
        b.box((0, y, 0), (width, 0.025, depth), look)
        if b.chance(0.75):
            share, tall = b.uniform(0.3, 0.95), b.uniform(0.18, 0.3)
            x = b.uniform(-1, 1) * (1 - share) * width / 2
            books = b.material("stripes", "planks", size=(0.03, 0.1))
            b.box((x, y + 0.025, 0.03), (share * width, tall, depth * 0.6), books)


def lamp(b: Builder) -> None:
    """A standing lamp."""
    height = b.uniform(1.2, 1.7)
    b.cylinder((0, 0, 0), 0.14, 0.03, b.material("plain"))
    b.cylinder((0, 0, 0), 0.015, height, b.material("plain"))
    b.cylinder((0, height, 0), b.uniform(0.12, 0.22), 0.25, b.material("plain", glow=1.5))


def plant(b: Builder, scale: float) -> None:
    """A pot with leaves."""
    b.cylinder((0, 0, 0), 0.15 * scale, 0.28 * scale, b.material("plain"))
    for _ in range(int(b.rng.integers(2, 5))):
        at = (b.uniform(-0.15, 0.15) * scale, b.uniform(0.4, 0.9) * scale, b.uniform(-0.15, 0.15) * scale)
        half = tuple(scale * b.uniform(0.1, 0.25) for _ in range(3))
        b.ellipsoid(at, half, leaves(b), b.uniform(0, 3))


def leaves(b: Builder) -> Material:
    """Foliage."""
    green = b.uniform(0.06, 0.3)
    first = (green * b.uniform(0.4, 0.95), green, green * b.uniform(0.2, 0.5))
    second = tuple(value * b.uniform(0.2, 0.6) for value in first)
    return Material(first, second, "blotches", b.uniform(0.1, 0.5), 0.6, b.uniform(0.05, 0.3))


def clutter(b: Builder, width: float, depth: float, scale: float, count: int) -> None:
    """Small things on a surface: boxes, tins, balls, books in stacks."""
    for _ in range(count):
        at = (b.uniform(-0.5, 0.5) * width, 0.0, b.uniform(-0.5, 0.5) * depth)
        with b.frame(at, yaw=b.uniform(0, math.pi)):
            size = scale * math.exp(b.uniform(math.log(0.4), math.log(1.6)))
            look = b.material(size=(0.02, 0.15))
            kind = b.one_of("box", "box", "tin", "ball", "stack", "screen")
            if kind == "box":
                b.box((0, 0, 0), (size, size * b.uniform(0.3, 1.6), size * b.uniform(0.4, 1.2)), look)
            elif kind == "tin":
                b.cylinder((0, 0, 0), size * 0.35, size * b.uniform(0.6, 1.8), look)
            elif kind == "ball":
                half = size * b.uniform(0.3, 0.6)
                b.ellipsoid((0, half, 0), (half * b.uniform(0.7, 1.3), half, half), look)
            elif kind == "stack":
                for level in range(int(b.rng.integers(2, 5))):
                    page = b.material("plain")
                    b.box(
                        (0, level * 0.25 * size, 0),
                        (size, 0.25 * size, 1.4 * size),
                        page,
                        b.uniform(-0.3, 0.3),
                    )
            else:
                b.box((0, 0, 0), (size * 0.5, size * 0.1, size * 0.4), look)
                b.box((0, size * 0.2, 0), (size * 2.2, size * 1.3, size * 0.08), look)


def tree(b: Builder, height: float) -> None:
    """Trunk and crown."""
    bark = Material((0.16, 0.11, 0.07), (0.08, 0.06, 0.04), "veins", 0.2, 0.5, 0.1)
    b.cylinder((0, 0, 0), 0.03 * height, 0.55 * height, bark)
    look = leaves(b)
    for _ in range(int(b.rng.integers(1, 4))):
        at = (b.uniform(-0.12, 0.12) * height, b.uniform(0.55, 0.8) * height, b.uniform(-0.12, 0.12) * height)
        b.ellipsoid(at, [height * b.uniform(0.14, 0.28) for _ in range(3)], look)


def car(b: Builder) -> None:
    """Body, cabin, wheels; its length along z."""
    paint = Material(b.colour(0.9), b.colour(0.9), "plain", 1, 0.02, 0.3, 0.6)
    glass = Material((0.05, 0.06, 0.07), (0.1, 0.1, 0.1), "plain", 1, 0.05, 0.3, 0.8)
    length, width = b.uniform(3.8, 4.8), b.uniform(1.7, 1.9)
    b.box((0, 0.3, 0), (width, 0.55, length), paint)
    b.box((0, 0.85, 0.1 * length), (width * 0.88, 0.5, length * 0.5), glass)
    b.box((0, 1.3, 0.1 * length), (width * 0.8, 0.06, length * 0.42), paint)
    rubber = Material((0.03, 0.03, 0.03), (0.02, 0.02, 0.02))
    for side in (-1, 1):
        for end in (-0.3, 0.3):
            b.ellipsoid((side * width / 2, 0.32, end * length), (0.1, 0.32, 0.32), rubber)


def person(b: Builder, height: float) -> None:
    """Legs, trunk, arms, head and hair."""
    skin = b.uniform(0.1, 0.7)
    face = Material(
        (skin, skin * 0.72, skin * 0.58), (skin * 0.8, skin * 0.5, skin * 0.4), "blotches", 0.3, 0.15, 0.1
    )
    dress, hair = b.material(size=(0.03, 0.3)), b.material("plain", "veins", brightness=(0.02, 0.4))
    b.ellipsoid((0, 0.64 * height, 0), (0.13 * height, 0.2 * height, 0.08 * height), dress)
    b.cylinder((0, 0, 0), 0.085 * height, 0.5 * height, b.material("plain"))
    b.ellipsoid((0, 0.93 * height, 0), (0.05 * height, 0.07 * height, 0.06 * height), face)
    b.ellipsoid((0, 0.955 * height, 0.012 * height), (0.055 * height, 0.06 * height, 0.06 * height), hair)
    for side in (-1, 1):
        b.ellipsoid(
            (side * 0.15 * height, 0.62 * height, 0), (0.04 * height, 0.19 * height, 0.045 * height), dress
        )


def building(b: Builder, width: float, height: float, depth: float) -> None:
    """A block with windows, perhaps with a roof, a ground floor of another look and balconies."""
    wall = b.material("windows", size=(1.6, 3.6), strength=0.4)
    b.box((0, 0, 0), (width, height, depth), wall)
    if b.chance(0.5):
        floor = b.material("plain", "tiles", "bricks", size=(0.5, 2.0))
        b.box((0, 0, 0), (width + 0.1, 3.2, depth + 0.1), floor)
    if b.chance(0.4):
        b.box((0, height, 0), (width + 0.6, 0.5, depth + 0.6), b.material("plain"))
    if b.chance(0.3):
        for level in range(1, 3):
            b.box((0, 3.0 * level, -depth / 2 - 0.5), (width * 0.5, 1.0, 1.0), b.material("plain"))
