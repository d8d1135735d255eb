"""Which device a command computes on."""

from __future__ import annotations

import torch

from diffusion_suite.core.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1", "mps"; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here", "give device=cpu or device=auto") from error
    return device
