"""Scenes in and out: GeoTIFF, COG, ENVI, NetCDF, .mat, .npz and .npy behind one interface.

``open_scene`` reads by window, ``create_scene`` writes by slab with everything the input knew about itself.
Axes are always (rows, columns, bands).
"""

from __future__ import annotations

from diffusion_suite.geo.io.files import ARRAYS, SUFFIXES, create_scene, data_file, open_scene, sidecars
from diffusion_suite.geo.io.metadata import Metadata
from diffusion_suite.geo.io.scene import Scene, SceneWriter, encode

__all__ = [
    "ARRAYS",
    "SUFFIXES",
    "Metadata",
    "Scene",
    "SceneWriter",
    "create_scene",
    "data_file",
    "encode",
    "open_scene",
    "sidecars",
]
