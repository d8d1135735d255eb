"""Linear inverse problems: operators with their decompositions and the solvers that use them."""

from diffusion_suite.core.inverse.blurring import Blur, Border
from diffusion_suite.core.inverse.compressive import Compressive
from diffusion_suite.core.inverse.ddnm import ddnm
from diffusion_suite.core.inverse.ddrm import ddrm, ddrm_start, ddrm_transition
from diffusion_suite.core.inverse.diffpir import diffpir
from diffusion_suite.core.inverse.dps import dps
from diffusion_suite.core.inverse.forward import ForwardDenoiser
from diffusion_suite.core.inverse.functions import Composed, FunctionOperator, adapt, check_adjoint
from diffusion_suite.core.inverse.message_passing import LinearEstimator, MessagePassing, vamp
from diffusion_suite.core.inverse.mixing import Dense, Grayscale, MatrixOperator, SpectralResponse, matrix_of
from diffusion_suite.core.inverse.noise_search import (
    FoundNoise,
    fit_noise,
    load_noise,
    mean_squared_error,
    refine_noise,
    save_noise,
    search_noise,
)
from diffusion_suite.core.inverse.operators import (
    Identity,
    Inpainting,
    LinearOperator,
    SpectralOperator,
    conjugate_gradients,
)
from diffusion_suite.core.inverse.pigdm import Covariance, MeasurementGuided, MeasurementScore, pigdm
from diffusion_suite.core.inverse.plug_and_play import plug_and_play
from diffusion_suite.core.inverse.problem import exact_posterior
from diffusion_suite.core.inverse.red_diff import Weighting, red_diff
from diffusion_suite.core.inverse.resampling import (
    AveragePooling,
    BicubicDownsampling,
    Factor,
    SeparableOperator,
    bicubic_kernel,
    bicubic_matrix,
)
from diffusion_suite.core.inverse.solve import SOLVERS, Method, solve

__all__ = [
    "SOLVERS",
    "AveragePooling",
    "BicubicDownsampling",
    "Blur",
    "Border",
    "Composed",
    "Compressive",
    "Covariance",
    "Dense",
    "Factor",
    "ForwardDenoiser",
    "FoundNoise",
    "FunctionOperator",
    "Grayscale",
    "Identity",
    "Inpainting",
    "LinearEstimator",
    "LinearOperator",
    "MatrixOperator",
    "MeasurementGuided",
    "MeasurementScore",
    "MessagePassing",
    "Method",
    "SeparableOperator",
    "SpectralOperator",
    "SpectralResponse",
    "Weighting",
    "adapt",
    "bicubic_kernel",
    "bicubic_matrix",
    "check_adjoint",
    "conjugate_gradients",
    "ddnm",
    "ddrm",
    "ddrm_start",
    "ddrm_transition",
    "diffpir",
    "dps",
    "exact_posterior",
    "fit_noise",
    "load_noise",
    "matrix_of",
    "mean_squared_error",
    "pigdm",
    "plug_and_play",
    "red_diff",
    "refine_noise",
    "save_noise",
    "search_noise",
    "solve",
    "vamp",
]
