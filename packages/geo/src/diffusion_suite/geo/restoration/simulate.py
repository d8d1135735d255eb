"""Losses made on purpose: a clean cube degraded in a known way, for a fair comparison.

Amounts are for bands that each span [0, 1]; the result is in the unit of the cube again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.seeding import numpy_generator

Values = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

_KINDS = {"denoise": 0.1, "complete": 0.3, "sr": 4.0, "stripes": 0.2, "dead": 0.05, "mixed": 0.1}


@dataclass(frozen=True)
class Degradation:
    """What is done to the clean cube.

    Attributes:
        kind: denoise, complete, sr, stripes, dead or mixed.
        amount: noise level, share observed, factor, or share of columns.
    """

    kind: str
    amount: float

    @property
    def task(self) -> str:
        """The task that undoes it."""
        return {"complete": "complete", "dead": "complete", "mixed": "complete", "sr": "sr"}.get(
            self.kind, "denoise"
        )

    @property
    def factor(self) -> int:
        """How many times fewer rows and columns the degraded cube has."""
        return int(self.amount) if self.kind == "sr" else 1

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}"


@dataclass(frozen=True)
class Degraded:
    """A degraded cube with what is known about it.

    Attributes:
        cube: (h, w, bands) float32 in the unit of the clean cube, NaN where missing.
        sigma: noise standard deviation of each band in the same unit, shape (bands,).
    """

    cube: npt.NDArray[np.float32]
    sigma: npt.NDArray[np.float32]


def parse(text: str) -> Degradation:
    """Read ``kind`` or ``kind:amount``.

    Raises:
        ConfigError: unknown kind, or an amount that makes no sense for it.
    """
    kind, _, amount = text.partition(":")
    if kind not in _KINDS:
        known = ", ".join(f"{name}:{value:g}" for name, value in _KINDS.items())
        raise ConfigError(f"simulate={text}: no such degradation", f"give one of {known}", key="simulate")
    try:
        value = float(amount) if amount else _KINDS[kind]
    except ValueError:
        value = float("nan")
    if kind in ("denoise", "mixed"):
        allowed, rule = 0 <= value <= 10, "a noise level from 0 up, such as 0.1"
    elif kind == "complete":
        allowed, rule = 0 < value <= 1, "the share of samples observed, above 0 up to 1"
    elif kind == "sr":
        allowed, rule = value >= 2 and value == int(value), "a whole factor of 2 or more"
    else:
        allowed, rule = 0 <= value < 1, "the share of columns, from 0 to below 1"
    if not allowed:
        raise ConfigError(f"simulate={text}: {amount!r} cannot be", f"give {rule}", key="simulate")
    return Degradation(kind, value)


def degrade(clean: Values, degradation: Degradation, sigma: float = 0.1, seed: int = 0) -> Degraded:
    """Degrade a clean cube.

    Args:
        clean: (rows, cols, bands) in any unit; NaN stays missing.
        degradation: what to do.
        sigma: noise of all kinds but denoise and mixed, which carry their own; bands span [0, 1].
        seed: the same seed gives the same noise and mask.

    Returns:
        The degraded cube and what is known about it.

    Raises:
        InputError: the factor does not divide rows and columns.
    """
    factor = degradation.factor
    _check_divides(factor, clean.shape[0], clean.shape[1])
    clean = np.asarray(clean, dtype=np.float32)
    low, span = _range(clean)
    unit: Values = (clean - low) / span
    rng = numpy_generator(seed, "simulate", degradation.kind)
    bands = clean.shape[2]
    level = np.full(bands, degradation.amount if degradation.kind in ("denoise", "mixed") else sigma)
    if degradation.kind == "mixed":
        level *= rng.uniform(0.5, 1.5, bands)
    if factor > 1:
        unit = _downsample(unit, factor)
    noisy: Values = unit + level * rng.standard_normal(unit.shape)
    if degradation.kind == "stripes":
        noisy = _striped(noisy, degradation.amount, rng)
    elif degradation.kind == "dead":
        noisy = _dead(noisy, degradation.amount, rng)
    elif degradation.kind == "complete":
        noisy = np.where(rng.random(noisy.shape) < degradation.amount, noisy, np.nan)
    elif degradation.kind == "mixed":
        noisy = _dead(_striped(noisy, 0.15, rng), 0.03, rng)
    return Degraded(cube=(noisy * span + low).astype(np.float32), sigma=(level * span).astype(np.float32))


def _check_divides(factor: int, rows: int, cols: int) -> None:
    if rows % factor == 0 and cols % factor == 0:
        return
    others = [f for f in range(2, min(rows, cols)) if rows % f == 0 and cols % f == 0]
    crop = f"crop the scene to {rows // factor * factor} x {cols // factor * factor}"
    remedy = f"give one of {', '.join(map(str, others))}, or {crop}" if others else crop
    raise InputError(f"factor {factor} does not divide the scene's {rows} x {cols} pixels", remedy)


def _range(cube: Values) -> tuple[Values, Values]:
    low = np.where(np.isnan(cube), np.inf, cube).min(axis=(0, 1)).astype(np.float64)
    high = np.where(np.isnan(cube), -np.inf, cube).max(axis=(0, 1)).astype(np.float64)
    low = np.where(np.isfinite(low), low, 0.0)
    span = np.where(np.isfinite(high), high, 0.0) - low
    return low, np.where(span > 0, span, 1.0)


def _downsample(unit: Values, factor: int) -> Values:
    """The data model of super-resolution; blocks that hold a missing sample are missing."""
    import torch

    from diffusion_suite.core.inverse import BicubicDownsampling

    rows, cols, bands = unit.shape
    missing = np.isnan(unit)
    planes = torch.from_numpy(np.where(missing, 0, unit).transpose(2, 0, 1)[None].astype(np.float32))
    coarse = BicubicDownsampling(factor, rows, cols, bands).A(planes)[0].numpy().transpose(1, 2, 0)
    blocks = missing.reshape(rows // factor, factor, cols // factor, factor, bands).any(axis=(1, 3))
    return np.where(blocks, np.nan, coarse)


def _striped(cube: Values, share: float, rng: np.random.Generator) -> Values:
    """Offsets of up to a quarter of the range on a share of the columns of each band."""
    _, cols, bands = cube.shape
    struck = rng.random((cols, bands)) < share
    return cube + np.where(struck, rng.uniform(-0.25, 0.25, (cols, bands)), 0.0)


def _dead(cube: Values, share: float, rng: np.random.Generator) -> Values:
    """A share of the columns of each band without data."""
    _, cols, bands = cube.shape
    return np.where(rng.random((cols, bands)) < share, np.nan, cube)
