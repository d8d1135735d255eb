"""Guidance: denoisers made of denoisers, which every sampler takes in place of a plain one."""

from diffusion_suite.core.guidance.ancestral import ancestral_scales, posterior_variances
from diffusion_suite.core.guidance.autoguidance import AutoGuidance
from diffusion_suite.core.guidance.base import Guidance, Viewed
from diffusion_suite.core.guidance.calibration import (
    CalibratedClassifier,
    calibration_by_time,
    expected_calibration_error,
    with_softplus,
)
from diffusion_suite.core.guidance.classifier import (
    CalibratedGuided,
    ClassifierGuided,
    classifier_score,
    label_log_prob,
    margin_log_prob,
    sine_variances,
)
from diffusion_suite.core.guidance.energy import Energy, EnergyGuided, energy_gradient
from diffusion_suite.core.guidance.expert_training import (
    LoraExperts,
    distil_experts,
    kl_distillation,
    mse_distillation,
)
from diffusion_suite.core.guidance.experts import (
    ExpertDenoiser,
    NoiseExperts,
    expert_boundaries,
    expert_of,
)
from diffusion_suite.core.guidance.guiders import diffusers_guider
from diffusion_suite.core.guidance.interval import Interval, noise_level
from diffusion_suite.core.guidance.invariant import (
    Mixed,
    group_means,
    grouping_objective,
    infer_groups,
    invariant_objective,
    largest_gap,
)
from diffusion_suite.core.guidance.pairs import ClassifierFree, PairGuidance, ZeroStar
from diffusion_suite.core.guidance.projected import AdaptiveProjected
from diffusion_suite.core.guidance.score import LikelihoodScore, ScoreGuided, gradient, shifted
from diffusion_suite.core.guidance.sequences import pinball, quantile_levels, refine, squared_error

__all__ = [
    "AdaptiveProjected",
    "AutoGuidance",
    "CalibratedClassifier",
    "CalibratedGuided",
    "ClassifierFree",
    "ClassifierGuided",
    "Energy",
    "EnergyGuided",
    "ExpertDenoiser",
    "Guidance",
    "Interval",
    "LikelihoodScore",
    "LoraExperts",
    "Mixed",
    "NoiseExperts",
    "PairGuidance",
    "ScoreGuided",
    "Viewed",
    "ZeroStar",
    "ancestral_scales",
    "calibration_by_time",
    "classifier_score",
    "diffusers_guider",
    "distil_experts",
    "energy_gradient",
    "expected_calibration_error",
    "expert_boundaries",
    "expert_of",
    "gradient",
    "group_means",
    "grouping_objective",
    "infer_groups",
    "invariant_objective",
    "kl_distillation",
    "label_log_prob",
    "largest_gap",
    "margin_log_prob",
    "mse_distillation",
    "noise_level",
    "pinball",
    "posterior_variances",
    "quantile_levels",
    "refine",
    "shifted",
    "sine_variances",
    "squared_error",
    "with_softplus",
]
