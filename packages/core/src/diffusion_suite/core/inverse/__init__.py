"""Linear inverse problems: operators with their decompositions and the solvers that use them."""

from diffusion_suite.core.inverse.ddrm import ddrm_start, ddrm_transition
from diffusion_suite.core.inverse.message_passing import LinearEstimator, MessagePassing, vamp
from diffusion_suite.core.inverse.operators import (
    Identity,
    Inpainting,
    LinearOperator,
    SpectralOperator,
    conjugate_gradients,
)
from diffusion_suite.core.inverse.plug_and_play import plug_and_play
from diffusion_suite.core.inverse.resampling import (
    BicubicDownsampling,
    Factor,
    SeparableOperator,
    bicubic_kernel,
    bicubic_matrix,
)

__all__ = [
    "BicubicDownsampling",
    "Factor",
    "Identity",
    "Inpainting",
    "LinearEstimator",
    "LinearOperator",
    "MessagePassing",
    "SeparableOperator",
    "SpectralOperator",
    "bicubic_kernel",
    "bicubic_matrix",
    "conjugate_gradients",
    "ddrm_start",
    "ddrm_transition",
    "plug_and_play",
    "vamp",
]
