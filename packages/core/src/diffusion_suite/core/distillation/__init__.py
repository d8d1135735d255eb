"""Distillation: guidance into one evaluation, then many steps into few.

The settings (:class:`Distillation`) are importable without torch from
``diffusion_suite.core.distillation.config``; the rest is imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.distillation.config import Distillation, halvings
from diffusion_suite.core.lazy import lazy

if TYPE_CHECKING:
    from diffusion_suite.core.distillation.guidance import (
        GuidanceEmbedding,
        WithGuidance,
        guidance_loss,
        guidance_target,
    )
    from diffusion_suite.core.distillation.module import DistillationModule, Prepared
    from diffusion_suite.core.distillation.progressive import (
        as_prediction,
        ddim_step,
        progressive_loss,
        two_step_target,
    )

__all__ = [
    "Distillation",
    "DistillationModule",
    "GuidanceEmbedding",
    "Prepared",
    "WithGuidance",
    "as_prediction",
    "ddim_step",
    "guidance_loss",
    "guidance_target",
    "halvings",
    "progressive_loss",
    "two_step_target",
]

_HOMES = {
    "DistillationModule": "module",
    "GuidanceEmbedding": "guidance",
    "Prepared": "module",
    "WithGuidance": "guidance",
    "as_prediction": "progressive",
    "ddim_step": "progressive",
    "guidance_loss": "guidance",
    "guidance_target": "guidance",
    "progressive_loss": "progressive",
    "two_step_target": "progressive",
}

__getattr__ = lazy(__name__, _HOMES)
