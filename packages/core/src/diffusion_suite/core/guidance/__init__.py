"""Guidance: denoisers made of denoisers, which every sampler takes in place of a plain one."""

from diffusion_suite.core.guidance.autoguidance import AutoGuidance
from diffusion_suite.core.guidance.base import Guidance, Viewed
from diffusion_suite.core.guidance.interval import Interval, noise_level
from diffusion_suite.core.guidance.pairs import ClassifierFree, PairGuidance, ZeroStar
from diffusion_suite.core.guidance.score import LikelihoodScore, ScoreGuided, gradient, shifted

__all__ = [
    "AutoGuidance",
    "ClassifierFree",
    "Guidance",
    "Interval",
    "LikelihoodScore",
    "PairGuidance",
    "ScoreGuided",
    "Viewed",
    "ZeroStar",
    "gradient",
    "noise_level",
    "shifted",
]
