"""Distances between sets of features, fidelity, diversity, memorisation, intrinsic dimension.

Features are tensors (items, width). Everything is imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.lazy import lazy

if TYPE_CHECKING:
    from diffusion_suite.core.metrics.dimension import (
        Spectrum,
        asymmetry,
        denoiser_jacobian,
        flipd,
        flow_map_jacobian,
        jacobian_spectrum,
        levina_bickel,
        score_spectrum,
        two_nn,
    )
    from diffusion_suite.core.metrics.diversity import (
        inception_score,
        sliced_wasserstein,
        vendi_by_class,
        vendi_score,
    )
    from diffusion_suite.core.metrics.frechet import (
        Extrapolation,
        Moments,
        frechet_distance,
        frechet_infinity,
    )
    from diffusion_suite.core.metrics.kernel import KernelDistance, kernel_distance, kernel_distance_full
    from diffusion_suite.core.metrics.memorisation import CopyingStatistic, authentic, copying_statistic
    from diffusion_suite.core.metrics.neighbours import Fidelity, fidelity, realism
    from diffusion_suite.core.metrics.report import Options, Score, Sets, measure

__all__ = [
    "CopyingStatistic",
    "Extrapolation",
    "Fidelity",
    "KernelDistance",
    "Moments",
    "Options",
    "Score",
    "Sets",
    "Spectrum",
    "asymmetry",
    "authentic",
    "copying_statistic",
    "denoiser_jacobian",
    "fidelity",
    "flipd",
    "flow_map_jacobian",
    "frechet_distance",
    "frechet_infinity",
    "inception_score",
    "jacobian_spectrum",
    "kernel_distance",
    "kernel_distance_full",
    "levina_bickel",
    "measure",
    "realism",
    "score_spectrum",
    "sliced_wasserstein",
    "two_nn",
    "vendi_by_class",
    "vendi_score",
]

_HOMES = {
    "Spectrum": "dimension",
    "asymmetry": "dimension",
    "denoiser_jacobian": "dimension",
    "flipd": "dimension",
    "flow_map_jacobian": "dimension",
    "jacobian_spectrum": "dimension",
    "levina_bickel": "dimension",
    "score_spectrum": "dimension",
    "two_nn": "dimension",
    "inception_score": "diversity",
    "sliced_wasserstein": "diversity",
    "vendi_by_class": "diversity",
    "vendi_score": "diversity",
    "Extrapolation": "frechet",
    "Moments": "frechet",
    "frechet_distance": "frechet",
    "frechet_infinity": "frechet",
    "KernelDistance": "kernel",
    "kernel_distance": "kernel",
    "kernel_distance_full": "kernel",
    "CopyingStatistic": "memorisation",
    "authentic": "memorisation",
    "copying_statistic": "memorisation",
    "Fidelity": "neighbours",
    "fidelity": "neighbours",
    "realism": "neighbours",
    "Options": "report",
    "Score": "report",
    "Sets": "report",
    "measure": "report",
}

__getattr__ = lazy(__name__, _HOMES)
