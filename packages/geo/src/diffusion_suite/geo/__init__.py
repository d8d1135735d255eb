"""Hyperspectral scenes: restoration of noise, gaps and resolution on ordinary remote-sensing files.

Importing this package is cheap; the classes are loaded when first asked for::

    from diffusion_suite.geo import DDS2M

    restored = DDS2M("default").restore(cube, task="denoise").cube
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion_suite.geo.io import Scene, open_scene
    from diffusion_suite.geo.restoration.dds2m import DDS2M, Restoration

__all__ = ["DDS2M", "Restoration", "Scene", "open_scene"]

_HOMES = {
    "DDS2M": "diffusion_suite.geo.restoration.dds2m",
    "Restoration": "diffusion_suite.geo.restoration.dds2m",
    "Scene": "diffusion_suite.geo.io",
    "open_scene": "diffusion_suite.geo.io",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
