"""Noise tables, probability paths and prediction types: the ground floor of every method."""

from diffusion_suite.core.schedulers.betas import BetaSchedule, betas
from diffusion_suite.core.schedulers.denoiser import (
    Denoiser,
    PredictionType,
    target,
    times,
    to_eps,
    to_x0,
)
from diffusion_suite.core.schedulers.integrators import FieldStep, integrate_adaptive, integrate_grid
from diffusion_suite.core.schedulers.likelihood import divergence, transported
from diffusion_suite.core.schedulers.mixture import Mixture
from diffusion_suite.core.schedulers.noise import Noise, standard_normal, step_noise
from diffusion_suite.core.schedulers.paths import (
    EDM,
    VE,
    CosineVP,
    DiscreteVP,
    LinearVP,
    Path,
    RectifiedFlow,
    Time,
    Trigonometric,
)

__all__ = [
    "EDM",
    "VE",
    "BetaSchedule",
    "CosineVP",
    "Denoiser",
    "DiscreteVP",
    "FieldStep",
    "LinearVP",
    "Mixture",
    "Noise",
    "Path",
    "PredictionType",
    "RectifiedFlow",
    "Time",
    "Trigonometric",
    "betas",
    "divergence",
    "integrate_adaptive",
    "integrate_grid",
    "standard_normal",
    "step_noise",
    "target",
    "times",
    "to_eps",
    "to_x0",
    "transported",
]
