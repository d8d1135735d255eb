"""Linear inverse problems: operators with their decompositions and the solvers that use them."""

from diffusion_suite.core.inverse.blurring import Blur, Border
from diffusion_suite.core.inverse.compressive import Compressive
from diffusion_suite.core.inverse.ddrm import ddrm_start, ddrm_transition
from diffusion_suite.core.inverse.functions import Composed, FunctionOperator, adapt, check_adjoint
from diffusion_suite.core.inverse.message_passing import LinearEstimator, MessagePassing, vamp
from diffusion_suite.core.inverse.mixing import Dense, Grayscale, MatrixOperator, SpectralResponse
from diffusion_suite.core.inverse.operators import (
    Identity,
    Inpainting,
    LinearOperator,
    SpectralOperator,
    conjugate_gradients,
)
from diffusion_suite.core.inverse.plug_and_play import plug_and_play
from diffusion_suite.core.inverse.resampling import (
    AveragePooling,
    BicubicDownsampling,
    Factor,
    SeparableOperator,
    bicubic_kernel,
    bicubic_matrix,
)

__all__ = [
    "AveragePooling",
    "BicubicDownsampling",
    "Blur",
    "Border",
    "Composed",
    "Compressive",
    "Dense",
    "Factor",
    "FunctionOperator",
    "Grayscale",
    "Identity",
    "Inpainting",
    "LinearEstimator",
    "LinearOperator",
    "MatrixOperator",
    "MessagePassing",
    "SeparableOperator",
    "SpectralOperator",
    "SpectralResponse",
    "adapt",
    "bicubic_kernel",
    "bicubic_matrix",
    "check_adjoint",
    "conjugate_gradients",
    "ddrm_start",
    "ddrm_transition",
    "plug_and_play",
    "vamp",
]
