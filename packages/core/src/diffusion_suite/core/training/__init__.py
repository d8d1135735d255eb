"""Training shared by all systems: base module, resumable data, ``fit``.

The settings (:class:`TrainConfig`) are importable without torch from
``diffusion_suite.core.training.config``; the rest is imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.lazy import lazy
from diffusion_suite.core.training.config import TrainConfig

if TYPE_CHECKING:
    from diffusion_suite.core.training.averaging import MovingAverage
    from diffusion_suite.core.training.data import EndlessSampler, SuiteDataModule
    from diffusion_suite.core.training.module import SuiteModule
    from diffusion_suite.core.training.run import fit

__all__ = ["EndlessSampler", "MovingAverage", "SuiteDataModule", "SuiteModule", "TrainConfig", "fit"]

_HOMES = {
    "EndlessSampler": "data",
    "MovingAverage": "averaging",
    "SuiteDataModule": "data",
    "SuiteModule": "module",
    "fit": "run",
}

__getattr__ = lazy(__name__, _HOMES)
