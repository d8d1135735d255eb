"""Monocular depth with DepthFM: from photographs and videos to relative or metric depth.

Importing this package is cheap; the classes are loaded when first asked for::

    from diffusion_suite.depth import DepthFM

    model = DepthFM.from_pretrained("starter")
    found = model.predict(pictures, steps=2, members=4)  # (batch, 3, height, width) in [-1, 1]
    found.log_depth, found.spread
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.lazy import lazy

if TYPE_CHECKING:
    from diffusion_suite.depth.method import DepthFM, Prediction
    from diffusion_suite.depth.module import DepthModule
    from diffusion_suite.depth.predictor import Predictor, Seen

__all__ = ["DepthFM", "DepthModule", "Prediction", "Predictor", "Seen"]

__getattr__ = lazy(
    __name__,
    {
        "DepthFM": "method",
        "DepthModule": "module",
        "Prediction": "method",
        "Predictor": "predictor",
        "Seen": "predictor",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
