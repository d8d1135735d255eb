"""What networks know of their data: features, probes, alignment, attention maps, zero-shot classification.

Everything is imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.lazy import lazy

if TYPE_CHECKING:
    from diffusion_suite.core.representation.add_on import AddOn, Noised
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
    from diffusion_suite.core.representation.anomaly import anomaly_score, denoising_map, reconstruction_map
    from diffusion_suite.core.representation.attention import (
        AttentionSum,
        cross_attention_maps,
        reading_attention,
    )
    from diffusion_suite.core.representation.callbacks import (
        ConditionPerturbation,
        RepresentationAlignment,
        SelfAlignment,
    )
    from diffusion_suite.core.representation.classifier import Classification, classify
    from diffusion_suite.core.representation.features import extract, extract_from, extract_inverted
    from diffusion_suite.core.representation.feedback import feedback_loss
    from diffusion_suite.core.representation.fusion import Fusion
    from diffusion_suite.core.representation.grid import ProbeScore, ProbeTable, probe_grid
    from diffusion_suite.core.representation.hooks import blocks_of, reading
    from diffusion_suite.core.representation.perturbation import perturb
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
    from diffusion_suite.core.representation.rotations import (
        aggregated,
        joint_labels,
        rotated,
        rotation_loss,
    )
    from diffusion_suite.core.representation.segments import compensation_loss, segment_mask
    from diffusion_suite.core.representation.self_conditioning import SelfConditioned

__all__ = [
    "AddOn",
    "AttentionSum",
    "AttentiveHead",
    "Classification",
    "ConditionPerturbation",
    "Decay",
    "Fusion",
    "Head",
    "LinearHead",
    "Noised",
    "PixelHead",
    "ProbeScore",
    "ProbeTable",
    "Projector",
    "RepresentationAlignment",
    "SelfAlignment",
    "SelfConditioned",
    "accuracy",
    "aggregated",
    "anomaly_score",
    "blocks_of",
    "classify",
    "compensation_loss",
    "contrastive_loss",
    "cross_attention_maps",
    "denoising_map",
    "extract",
    "extract_from",
    "extract_inverted",
    "feedback_loss",
    "fit_attentive",
    "fit_linear",
    "fit_pixels",
    "joint_labels",
    "masked_losses",
    "nearest",
    "perturb",
    "pool",
    "probe_grid",
    "reading",
    "reading_attention",
    "reconstruction_map",
    "repa_loss",
    "resize_tokens",
    "rotated",
    "rotation_loss",
    "segment_mask",
    "sra_loss",
    "teacher_times",
]

_HOMES = {
    "AddOn": "add_on",
    "AttentionSum": "attention",
    "AttentiveHead": "probes",
    "Classification": "classifier",
    "ConditionPerturbation": "callbacks",
    "Decay": "alignment",
    "Fusion": "fusion",
    "Head": "alignment",
    "LinearHead": "probes",
    "Noised": "add_on",
    "PixelHead": "probes",
    "ProbeScore": "grid",
    "ProbeTable": "grid",
    "Projector": "alignment",
    "RepresentationAlignment": "callbacks",
    "SelfAlignment": "callbacks",
    "SelfConditioned": "self_conditioning",
    "accuracy": "probes",
    "aggregated": "rotations",
    "anomaly_score": "anomaly",
    "blocks_of": "hooks",
    "classify": "classifier",
    "compensation_loss": "segments",
    "contrastive_loss": "alignment",
    "cross_attention_maps": "attention",
    "denoising_map": "anomaly",
    "extract": "features",
    "extract_from": "features",
    "extract_inverted": "features",
    "feedback_loss": "feedback",
    "fit_attentive": "probes",
    "fit_linear": "probes",
    "fit_pixels": "probes",
    "joint_labels": "rotations",
    "masked_losses": "alignment",
    "nearest": "probes",
    "perturb": "perturbation",
    "pool": "pooling",
    "probe_grid": "grid",
    "reading": "hooks",
    "reading_attention": "attention",
    "reconstruction_map": "anomaly",
    "repa_loss": "alignment",
    "resize_tokens": "pooling",
    "rotated": "rotations",
    "rotation_loss": "rotations",
    "segment_mask": "segments",
    "sra_loss": "alignment",
    "teacher_times": "alignment",
}

__getattr__ = lazy(__name__, _HOMES)
