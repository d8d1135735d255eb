"""What networks know of their data: features, probes, alignment, attention maps, zero-shot classification.

Everything is imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_suite.core.representation.alignment import (
        Decay,
        Head,
        Projector,
        contrastive_loss,
        masked_losses,
        repa_loss,
        sra_loss,
        teacher_times,
    )
    from diffusion_suite.core.representation.classifier import Classification, classify
    from diffusion_suite.core.representation.features import extract, extract_from
    from diffusion_suite.core.representation.grid import ProbeScore, ProbeTable, probe_grid
    from diffusion_suite.core.representation.hooks import blocks_of, reading
    from diffusion_suite.core.representation.pooling import pool, resize_tokens
    from diffusion_suite.core.representation.probes import (
        AttentiveHead,
        LinearHead,
        PixelHead,
        accuracy,
        fit_attentive,
        fit_linear,
        fit_pixels,
        nearest,
    )

__all__ = [
    "AttentiveHead",
    "Classification",
    "Decay",
    "Head",
    "LinearHead",
    "PixelHead",
    "ProbeScore",
    "ProbeTable",
    "Projector",
    "accuracy",
    "blocks_of",
    "classify",
    "contrastive_loss",
    "extract",
    "extract_from",
    "fit_attentive",
    "fit_linear",
    "fit_pixels",
    "masked_losses",
    "nearest",
    "pool",
    "probe_grid",
    "reading",
    "repa_loss",
    "resize_tokens",
    "sra_loss",
    "teacher_times",
]

_HOMES = {
    "AttentiveHead": "probes",
    "Classification": "classifier",
    "Decay": "alignment",
    "Head": "alignment",
    "LinearHead": "probes",
    "PixelHead": "probes",
    "ProbeScore": "grid",
    "ProbeTable": "grid",
    "Projector": "alignment",
    "accuracy": "probes",
    "blocks_of": "hooks",
    "classify": "classifier",
    "contrastive_loss": "alignment",
    "extract": "features",
    "extract_from": "features",
    "fit_attentive": "probes",
    "fit_linear": "probes",
    "fit_pixels": "probes",
    "masked_losses": "alignment",
    "nearest": "probes",
    "pool": "pooling",
    "probe_grid": "grid",
    "reading": "hooks",
    "repa_loss": "alignment",
    "resize_tokens": "pooling",
    "sra_loss": "alignment",
    "teacher_times": "alignment",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
