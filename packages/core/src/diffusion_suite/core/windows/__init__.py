"""Overlapping windows over any axes of what does not fit in memory: plan, compute, resume, blend.

    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((50, 70, 3))
    >>> windows = plan((50, 70), size=32, overlap=8)
    >>> whole = blend([(window, image[window.slices]) for window in windows], (50, 70))
    >>> bool(np.allclose(whole, image))
    True

Large inputs go through a :class:`WindowStore`, which a killed run finds again: :func:`stream` computes the
windows that are missing, :func:`assemble` gives the blended result slab by slab.
"""

from diffusion_suite.core.windows.blend import assemble, blend, weight
from diffusion_suite.core.windows.plan import Window, plan, scaled
from diffusion_suite.core.windows.store import WindowStore, bytes_needed, check_room, stream

__all__ = [
    "Window",
    "WindowStore",
    "assemble",
    "blend",
    "bytes_needed",
    "check_room",
    "plan",
    "scaled",
    "stream",
    "weight",
]
