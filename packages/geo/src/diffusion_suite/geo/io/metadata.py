"""What a scene knows about itself beside its samples, and how wavelengths are spelled in files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

_NANOMETRES = {"nanometers": 1.0, "nanometres": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1e3}
_NANOMETRES |= {
    "micrometres": 1e3,
    "micrometer": 1e3,
    "microns": 1e3,
    "micron": 1e3,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
}
_NUMBER = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Metadata:
    """Georeference, names and tags of a scene, in the terms of GDAL.

    Attributes:
        crs: coordinate reference system (``rasterio.crs.CRS``) or None.
        transform: affine map from (column, row) to coordinates, or None.
        gcps: ground control points and their CRS, ``([], None)`` when there are none.
        band_names: one name a band, "" where a band has none.
        wavelengths: band centres in nanometres, shape (bands,), or None.
        tags: tags of the scene.
        band_tags: tags of each band.
        namespaces: tags of other namespaces (``ENVI``, ``RPC``), by namespace.
        scales, offsets: physical value = stored * scale + offset, one a band.
        units: physical unit of each band, "" where unknown.
        layout: how the file is laid out (driver, blocks, compression, interleave).
        extras: small arrays that lie beside the cube in the same .mat or .npz file.
    """

    crs: Any = None
    transform: Any = None
    gcps: tuple[list[Any], Any] = ([], None)
    band_names: tuple[str, ...] = ()
    wavelengths: npt.NDArray[np.float64] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    band_tags: tuple[Mapping[str, str], ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    layout: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def enlarged(self, factor: int) -> Metadata:
        """The metadata of the same ground area with ``factor`` times more rows and columns."""
        if factor == 1:
            return self
        transform = self.transform
        if transform is not None:
            t = transform
            transform = type(t)(t.a / factor, t.b / factor, t.c, t.d / factor, t.e / factor, t.f)
        points, crs = self.gcps
        moved = [type(p)(p.row * factor, p.col * factor, p.x, p.y, p.z, p.id, p.info) for p in points]
        kept = {name: tags for name, tags in self.namespaces.items() if name != "RPC"}
        return replace(self, transform=transform, gcps=(moved, crs), namespaces=kept)


def to_nanometres(values: npt.ArrayLike, unit: str = "") -> npt.NDArray[np.float64] | None:
    """Band centres in nanometres, or None when the values cannot be wavelengths.

    Without a known unit, values below 100 are taken for micrometres.
    """
    centres = np.asarray(values, dtype=np.float64).ravel()
    if centres.size == 0 or not np.isfinite(centres).all() or (centres <= 0).any():
        return None
    unit = unit.strip().lower()
    if unit in ("index", "unknown") and (np.diff(centres) == 1).all():
        return None
    factor = _NANOMETRES.get(unit)
    if factor is None:
        factor = 1e3 if centres.max() < 100 else 1.0
    return centres * factor


def numbers(text: str) -> list[float]:
    """The numbers of an ENVI list such as ``{418.2, 423.8}``."""
    return [float(match) for match in _NUMBER.findall(text)]


def find_wavelengths(
    bands: int,
    tags: Mapping[str, str],
    band_tags: Sequence[Mapping[str, str]],
    namespaces: Mapping[str, Mapping[str, str]],
) -> npt.NDArray[np.float64] | None:
    """Band centres in nanometres from the tags of a raster file, or None.

    Looks at a NetCDF dimension of that name, at the tag ``wavelength`` of every band, then at the ENVI list.
    """
    for name in ("wavelength", "wavelengths", "wl", "lambda", "bands", "band"):
        dimension = f"NETCDF_DIM_{name}"
        unit = tags.get(f"{name}#units", "")
        if all(dimension in own for own in band_tags) and (name[:4] != "band" or unit.lower() in _NANOMETRES):
            return to_nanometres([float(own[dimension]) for own in band_tags], unit)
    if all("wavelength" in own for own in band_tags):
        values = [number for own in band_tags for number in numbers(own["wavelength"])[:1]]
        if len(values) == bands:
            return to_nanometres(values, band_tags[0].get("wavelength_units", ""))
    envi = namespaces.get("ENVI", {})
    values = numbers(envi.get("wavelength", ""))
    if len(values) == bands:
        return to_nanometres(values, envi.get("wavelength_units", ""))
    return None


def shared_tags(band_tags: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Band tags for a format with one set of tags for all bands: those equal in all, and its own."""
    if not band_tags:
        return []
    first, *others = band_tags
    equal = {name for name, value in first.items() if all(own.get(name) == value for own in others)}
    return [{k: v for k, v in own.items() if k in equal or k.startswith("NETCDF_")} for own in band_tags]
