"""Hyperspectral scenes: restoration of noise, gaps and resolution on ordinary remote-sensing files.

Importing this package is cheap; the classes are loaded when first asked for::

    from diffusion_suite.geo import DDS2M

    restored = DDS2M("default").restore(cube, task="denoise").cube
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion_suite.core.lazy import lazy

if TYPE_CHECKING:
    from diffusion_suite.geo.io import Scene, open_scene
    from diffusion_suite.geo.restoration.dds2m import DDS2M, Restoration

__all__ = ["DDS2M", "Restoration", "Scene", "open_scene"]

__getattr__ = lazy(
    __name__,
    {
        "DDS2M": "restoration.dds2m",
        "Restoration": "restoration.dds2m",
        "Scene": "io",
        "open_scene": "io",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
