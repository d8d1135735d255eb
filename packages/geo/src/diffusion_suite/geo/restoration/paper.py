"""DDS2M with the settings of its publication, for cubes in [0, 1] with a known noise level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.inverse import BicubicDownsampling, Identity, Inpainting, SpectralOperator
from diffusion_suite.geo.restoration.chain import Callback, ChainConfig, reverse_process
from diffusion_suite.geo.restoration.measurement import Whitened
from diffusion_suite.geo.restoration.network import VS2M
from diffusion_suite.geo.restoration.noise import Values

Task = Literal["denoise", "complete", "sr"]

PUBLISHED_RANK = 10
PUBLISHED: dict[Task, ChainConfig] = {
    "denoise": ChainConfig(steps=2000, start=1000, eta=1.0),
    "complete": ChainConfig(steps=3000, start=1500, eta=0.95),
    "sr": ChainConfig(steps=1000, start=500, eta=0.95),
}


def measurement(
    cube: Tensor, task: Task, mask: Tensor | None = None, factor: int | None = None
) -> tuple[SpectralOperator, Tensor]:
    """The operator and the data of a degraded cube.

    Args:
        cube: (height, width, bands) in nominal units [0, 1]; NaN = missing.
        task: denoising and completion differ in their settings only: both honour missing entries.
        mask: 1 = observed, (height, width, bands) or (height, width); None for all that is not NaN.
        factor: of the super-resolution.

    Returns:
        The operator on (bands, height, width), and y of shape (1, *operator.data_shape) in [-1, 1] units.

    Raises:
        InputError: wrong shapes, missing entries in super-resolution, or its factor is not given.
    """
    if cube.ndim != 3:
        raise InputError(f"a cube of shape {tuple(cube.shape)} given", "give (height, width, bands)")
    height, width, bands = cube.shape
    observed = torch.isfinite(cube)
    if mask is not None:
        if tuple(mask.shape) not in ((height, width), (height, width, bands)):
            raise InputError(
                f"a mask of shape {tuple(mask.shape)} does not fit a cube of {tuple(cube.shape)}",
                "give (height, width) or (height, width, bands), 1 = observed",
            )
        observed &= (mask if mask.ndim == 3 else mask[:, :, None]).to(cube.device) != 0
    complete = bool(observed.all())
    y = torch.where(observed, 2.0 * cube - 1.0, 0.0).permute(2, 0, 1)[None].contiguous()
    if task == "sr":
        if not complete or factor is None:
            raise InputError(
                "super-resolution needs a complete cube and a factor",
                "fill missing entries first, give a factor",
            )
        return BicubicDownsampling(factor, height * factor, width * factor, bands, dtype=cube.dtype), y
    return Identity(bands, height, width) if complete else Inpainting(observed.permute(2, 0, 1)), y


def restore_paper(
    cube: Tensor,
    task: Task,
    mask: Tensor | None = None,
    sigma: float | Tensor = 0.1,
    factor: int | None = None,
    seed: int = 0,
    settings: ChainConfig | None = None,
    *,
    rank: int = PUBLISHED_RANK,
    device: torch.device | str = "cpu",
    callback: Callback | None = None,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Restore a cube by the published recipe.

    Args:
        cube: (height, width, bands), floating point, in nominal units [0, 1]; NaN = missing.
        task: "denoise", "complete" or "sr"; chooses the published settings.
        mask: 1 = observed, (height, width, bands) or (height, width).
        sigma: standard deviation of the noise in the cube's units, a number or one a band (bands,).
        factor: of the super-resolution.
        seed: key of the network's start and of all noise.
        settings: other settings than the published ones.
        rank: number of image-spectrum pairs.
        device: where to work.
        callback: called after every step, see `reverse_process`.

    Returns:
        The cube in [0, 1] in the type of the input, `factor` times as wide and high for super-resolution, and
        the log of `reverse_process`.

    Raises:
        InputError: see `measurement`.
    """
    cube = cube.to(device)
    operator, y = measurement(cube, task, mask, factor)
    operator = operator.to(cube.device, cube.dtype)
    bands, height, width = operator.image_shape
    network = VS2M(rank, height, width, bands, seed=seed).to(cube.device, cube.dtype)
    level = sigma.to(cube).reshape(-1, 1, 1) if isinstance(sigma, Tensor) else sigma
    noise = seeding.generator("dds2m", "chain", seed, device=cube.device)
    config = settings or PUBLISHED[task]
    restored, log = reverse_process(network, operator, y, 2.0 * level, config, noise, callback)
    return restored.permute(1, 2, 0).contiguous(), log


def restore_measured(
    measured: Whitened,
    task: Task,
    factor: int,
    seed: int,
    log: dict[str, Any],
    steps: int | None,
    runs: int,
    rank: int,
    device: torch.device,
) -> tuple[Values, Values]:
    """`restore_paper` on a measurement in any unit: mean and spread of independent runs.

    The recipe works on values in [0, 1] and clips to them: a cube with bands that leave [-0.5, 1.5], or that
    all stay below 0.5, is first scaled by the 0.1 and 99.9 per cent quantiles of each band.

    Args:
        measured: the cube with its noise levels.
        task: chooses the published settings.
        factor: of the super-resolution, 1 for the other tasks.
        seed: key of the first run.
        log: gets the losses of the first run.
        steps: T, with the network from its half on; None = the published numbers.
        runs: how many; one has no spread.
        rank: number of image-spectrum pairs.
        device: where to work.
    """
    cube = np.where(measured.observed, measured.back(measured.values), np.nan)
    low, high = np.nanpercentile(cube, (0.1, 99.9), axis=(0, 1))
    if (low > -0.5).all() and (high < 1.5).all() and (high > 0.5).any():
        low, high = np.zeros_like(low), np.ones_like(high)
    span = np.maximum(high - low, 1e-12)
    settings = (
        PUBLISHED[task] if steps is None else replace(PUBLISHED[task], steps=steps, start=max(steps // 2, 1))
    )
    unit = torch.from_numpy(((cube - low) / span).astype(np.float32))
    level = torch.from_numpy((measured.noise / span).astype(np.float32))
    cubes = []
    for run in range(runs):
        restored, losses = restore_paper(
            unit,
            task,
            sigma=level,
            factor=factor if factor > 1 else None,
            seed=seeding.key(seed, "run", run) if run else seed,
            settings=settings,
            rank=rank,
            device=device,
        )
        cubes.append(restored.cpu().numpy() * span + low)
        log.setdefault("loss", losses["loss"])
    return np.mean(cubes, 0, dtype=np.float32), np.std(cubes, 0, dtype=np.float32)
