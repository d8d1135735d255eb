"""Flow matching: couplings of sources and targets, interpolants, the loss, and the way from one to the other.

Time runs from the source, s = 0, to the target, s = 1. A path of the schedulers has t = 1 - s.
"""

from diffusion_suite.core.flow_matching.couplings import (
    Coupling,
    Pairs,
    data_dependent,
    independent,
    optimal_transport,
)
from diffusion_suite.core.flow_matching.gaussian import GaussianFlow, transport_map
from diffusion_suite.core.flow_matching.integration import integrate, integrate_to_tolerance, log_density
from diffusion_suite.core.flow_matching.interpolants import (
    BrownianBridge,
    Interpolant,
    LipmanPath,
    Smoothed,
    interpolant,
)
from diffusion_suite.core.flow_matching.objective import flow_loss
from diffusion_suite.core.flow_matching.straightness import Straightness, straightness
from diffusion_suite.core.flow_matching.transport import entropic_plan, optimal_pairing, squared_distances
from diffusion_suite.core.flow_matching.upsampling import (
    UpsamplingSource,
    WithCondition,
    cosine_signal,
    enlarged,
    shifted_cosine,
)

__all__ = [
    "BrownianBridge",
    "Coupling",
    "GaussianFlow",
    "Interpolant",
    "LipmanPath",
    "Pairs",
    "Smoothed",
    "Straightness",
    "UpsamplingSource",
    "WithCondition",
    "cosine_signal",
    "data_dependent",
    "enlarged",
    "entropic_plan",
    "flow_loss",
    "independent",
    "integrate",
    "integrate_to_tolerance",
    "interpolant",
    "log_density",
    "optimal_pairing",
    "optimal_transport",
    "shifted_cosine",
    "squared_distances",
    "straightness",
    "transport_map",
]
