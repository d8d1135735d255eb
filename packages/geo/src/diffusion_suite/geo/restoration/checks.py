"""What `DDS2M` is given, checked before any work: arrays, task, noise, arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from diffusion_suite.core.errors import InputError
from diffusion_suite.geo.restoration.eigen_prior import EigenPrior
from diffusion_suite.geo.restoration.noise import Flags, Values

Job = Literal["denoise", "complete", "sr"]
Task = Literal["auto"] | Job


def load_prior(weights: str) -> EigenPrior:
    """The eigen-image prior from "starter", a folder, a hub id or a Lightning checkpoint."""
    if weights.endswith(".ckpt"):
        from diffusion_suite.geo.restoration.module import EigenPriorModule

        if not Path(weights).is_file():
            raise InputError(f"no checkpoint at {weights}", "check weights=")
        return EigenPriorModule.from_checkpoint(weights).model
    return EigenPrior.from_pretrained(weights)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Arithmetic of the networks; "auto" is bf16 on CUDA and on CPUs that have it, else float32."""
    known = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
    if precision != "auto" and precision not in known:
        raise InputError(f"unknown precision {precision!r}", "use auto, 32, bf16 or 16")
    automatic = device.type == "cuda" or (device.type == "cpu" and _cpu_has_bf16())
    return known.get(precision, torch.bfloat16 if automatic else torch.float32)


def _cpu_has_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_cube(cube: ArrayLike, mask: ArrayLike | None) -> tuple[Values, Flags]:
    """Samples (rows, columns, bands) with 0 where missing, and flags of the observed ones."""
    values = np.asarray(cube, np.float32)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"a cube of shape {values.shape} was given", "give (rows, columns, bands)")
    observed = np.isfinite(values)
    if mask is not None:
        flags = np.asarray(mask) != 0
        flags = flags[..., None] if flags.ndim == 2 else flags
        if flags.shape[:2] != values.shape[:2] or flags.shape[2] not in (1, values.shape[2]):
            raise InputError(
                f"a mask of shape {np.shape(mask)} does not fit a cube of shape {values.shape}",
                "give (rows, columns) or (rows, columns, bands), 1 = observed",
            )
        observed = observed & flags
    if not observed.any():
        raise InputError("no sample of the cube is observed", "check the mask and the nodata value")
    return np.where(observed, values, 0), observed


def check_task(task: str, factor: int | None, observed: Flags) -> tuple[Job, int]:
    """The task and its factor, 1 unless it is super-resolution."""
    if task not in ("auto", *get_args(Job)):
        raise InputError(f"unknown task {task!r}", f"use auto, {', '.join(get_args(Job))}")
    enlarging = factor not in (None, 1)
    if task == "auto":
        task = "sr" if enlarging else "denoise" if observed.all() else "complete"
    if task != "sr":
        if enlarging:
            raise InputError(f"factor={factor} does not go with task={task!r}", "leave one of them out")
        return ("denoise" if task == "denoise" else "complete"), 1
    if factor is None or int(factor) != factor or factor < 2:
        raise InputError(f"factor={factor} is no super-resolution", "give factor=2, 3, 4, ...")
    return "sr", int(factor)


def check_sigma(sigma: float | ArrayLike | None, bands: int) -> NDArray[np.float32] | None:
    """One noise level a band, or None."""
    if sigma is None:
        return None
    levels = np.asarray(sigma, np.float32)
    if levels.ndim > 1 or levels.size not in (1, bands):
        raise InputError(f"sigma of shape {levels.shape} for {bands} bands", "give one number, or one a band")
    if not (np.isfinite(levels).all() and (levels >= 0).all()):
        raise InputError(
            f"sigma={sigma} is not a noise level", "give a number of 0 or more, or none to estimate it"
        )
    return np.broadcast_to(levels.reshape(-1), (bands,)).copy()
