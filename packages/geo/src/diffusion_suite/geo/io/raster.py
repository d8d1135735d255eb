"""GeoTIFF, COG, ENVI and NetCDF scenes through rasterio."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from diffusion_suite.core.errors import InputError, OutputError
from diffusion_suite.geo.io.metadata import Metadata, find_wavelengths, shared_tags
from diffusion_suite.geo.io.scene import Scene, SceneWriter, Stored, fitting

# MB of raster blocks that GDAL keeps: by default a share of the machine; scenes are read and written once.
os.environ.setdefault("GDAL_CACHEMAX", "128")

_STRUCTURAL = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "COLOR_PROFILE", "xml:XMP", "")
_ENVI_OWN = {
    "description", "samples", "lines", "bands", "header_offset", "file_type", "data_type", "interleave",
    "byte_order", "map_info", "coordinate_system_string", "projection_info", "band_names",
    "data_ignore_value",
}  # fmt: skip
_LAYOUT = ("blockxsize", "blockysize", "tiled", "compress", "interleave", "predictor")


class RasterScene(Scene):
    """A scene that rasterio reads."""

    def __init__(self, path: Path, source: Any) -> None:
        self.path, self._source = path, source
        self.format = source.driver
        if source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG":
            self.format = "COG"
        kinds = {np.dtype(name) for name in source.dtypes}
        self.shape = (source.height, source.width, source.count)
        self.dtype = np.result_type(*kinds)
        marks = np.array([np.nan if v is None else v for v in source.nodatavals], dtype=np.float64)
        self.nodata = fitting(marks, self.dtype)
        self._masked = any(
            rasterio.enums.MaskFlags.per_dataset in flags and rasterio.enums.MaskFlags.alpha not in flags
            for flags in source.mask_flag_enums
        )
        self.meta = _metadata(source)

    def read_stored(self, rows: slice, cols: slice, step: int = 1) -> Stored:
        """Samples as they are stored, shape (h, w, bands)."""
        return np.moveaxis(self._read(self._source.read, rows, cols, step), 0, -1)

    def observed(self, stored: Stored, rows: slice, cols: slice, step: int = 1) -> npt.NDArray[np.bool_]:
        """Which samples are finite, not nodata, and inside the mask of the file."""
        seen = super().observed(stored, rows, cols, step)
        if self._masked:
            seen &= (self._read(self._source.dataset_mask, rows, cols, step) > 0)[..., None]
        return seen

    def _read(self, read: Any, rows: slice, cols: slice, step: int) -> npt.NDArray[Any]:
        window = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        size = (-(-window.height // step), -(-window.width // step))
        count = () if read == self._source.dataset_mask else (self.shape[2],)
        try:
            return np.asarray(read(window=window, out_shape=(*count, *size)))
        except (RasterioError, ValueError) as error:
            raise InputError(
                f"{self.path}: rows {rows.start}-{rows.stop} cannot be read ({_last(error)})",
                "the file is damaged or cut short; copy it again",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def open_raster(path: Path, key: str | None = None) -> RasterScene:
    """Open a raster scene.

    Raises:
        InputError: not a raster, several variables and no key, or complex numbers.
    """
    source = _open(path, str(path))
    if source.subdatasets:
        source = _variable(path, source, key)
    elif key is not None and key not in (source.tags(1).get("NETCDF_VARNAME"), None):
        source.close()
        raise InputError(f"{path}: no variable {key!r}", "leave key out: the file holds one raster")
    kinds = {np.dtype(name).kind for name in source.dtypes if name != "complex_int16"}
    if source.count == 0 or not kinds <= set("fiu") or "complex_int16" in source.dtypes:
        source.close()
        raise InputError(
            f"{path} holds {', '.join(sorted(set(source.dtypes))) or 'no bands'}", "give real numbers"
        )
    return RasterScene(path, source)


def _open(path: Path, name: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return rasterio.open(name, **options)
        except (RasterioError, ValueError) as error:
            raise InputError(
                f"{path}: not a raster that can be read ({_last(error)})",
                "give GeoTIFF, COG, ENVI, NetCDF, .mat, .npz or .npy",
            ) from error


def _variable(path: Path, container: Any, key: str | None) -> Any:
    names = {name.rsplit(":", 1)[-1]: name for name in container.subdatasets}
    container.close()
    if key is not None:
        if key not in names:
            raise InputError(f"{path}: no variable {key!r}", f"it holds {', '.join(names)}")
        return _open(path, names[key])
    if all(name.startswith("Band") and name[4:].isdigit() for name in names):
        return _open(path, str(path), VARIABLES_AS_BANDS="YES")
    cubes = []
    for name, address in names.items():
        with _open(path, address) as source:
            cubes += [name] if source.count > 1 else []
    if len(cubes) != 1:
        held = ", ".join(cubes or names)
        raise InputError(
            f"{path} holds several variables: {held}", f"choose one with key={(cubes or list(names))[0]}"
        )
    return _open(path, names[cubes[0]])


def _metadata(source: Any) -> Metadata:
    bands = range(1, source.count + 1)
    band_tags = tuple(source.tags(band) for band in bands)
    namespaces = {name: source.tags(ns=name) for name in source.tag_namespaces() if name not in _STRUCTURAL}
    tags = source.tags()
    points, points_crs = source.gcps
    transform = None if source.transform.is_identity else source.transform
    return Metadata(
        crs=source.crs,
        transform=transform,
        gcps=(list(points), points_crs),
        band_names=tuple(_name(name or "", source.driver) for name in source.descriptions),
        wavelengths=find_wavelengths(source.count, tags, band_tags, namespaces),
        tags=tags,
        band_tags=band_tags,
        namespaces=namespaces,
        scales=tuple(source.scales),
        offsets=tuple(source.offsets),
        units=tuple(unit or "" for unit in source.units),
        layout={name: source.profile[name] for name in _LAYOUT if name in source.profile},
    )


def _name(text: str, driver: str) -> str:
    """A band's own name: the ENVI driver appends " (650.2 Nanometers)" to what the header says."""
    return re.sub(r"\s\([-+.\deE]+( \w+)?\)$", "", text) if driver == "ENVI" else text


class RasterWriter(SceneWriter):
    """Writes a scene through rasterio; what cannot grow row by row is copied from a scratch GeoTIFF."""

    def __init__(
        self,
        path: Path,
        driver: str,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        nodata: npt.NDArray[np.float64] | None,
        meta: Metadata,
        name: str,
    ) -> None:
        self.path, self.driver, self.shape, self.dtype, self.nodata = path, driver, shape, dtype, nodata
        self.name = name
        self._layout = dict(meta.layout)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        place = path
        if driver in ("COG", "netCDF"):
            self._scratch = tempfile.TemporaryDirectory(prefix=".", dir=path.parent)
            place = Path(self._scratch.name) / "scratch.tif"
        self._place = place
        self._env = rasterio.Env(GDAL_PAM_ENABLED="NO")
        try:
            with warnings.catch_warnings(), self._env:
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._target = rasterio.open(place, "w", **self._profile(meta))
                _describe(self._target, driver, meta)
        except RasterioError as error:
            self.discard()
            raise _failure(name, error) from error

    def _profile(self, meta: Metadata) -> dict[str, Any]:
        rows, cols, bands = self.shape
        profile: dict[str, Any] = {
            "driver": "ENVI" if self.driver == "ENVI" else "GTiff",
            "width": cols,
            "height": rows,
            "count": bands,
            "dtype": self.dtype.name,
            "crs": meta.crs,
            "transform": meta.transform,
        }
        marks = None if self.nodata is None else self.nodata[~np.isnan(self.nodata)]
        if marks is not None:
            profile["nodata"] = float(marks[0])
        if meta.gcps[0]:
            profile |= {"gcps": meta.gcps[0], "crs": meta.gcps[1], "transform": None}
        if self.driver == "GTiff":
            profile |= _tiff_layout(self._layout, self.shape) | {"BIGTIFF": "IF_SAFER"}
        elif self.driver == "ENVI":
            names = {"pixel": "bip", "line": "bil", "band": "bsq"}
            profile["interleave"] = names.get(str(self._layout.get("interleave", "band")), "bsq")
        else:
            profile |= {"BIGTIFF": "IF_SAFER", "interleave": "band"}
        return profile

    def write_stored(self, top: int, stored: Stored) -> None:
        """Write samples that already have the stored type."""
        window = Window(0, top, self.shape[1], stored.shape[0])
        try:
            with self._env:
                self._target.write(np.ascontiguousarray(np.moveaxis(stored, -1, 0)), window=window)
        except RasterioError as error:
            raise _failure(self.name, error) from error

    def finish(self) -> None:
        """Close the file, and copy it where the format cannot grow row by row."""
        try:
            with self._env:
                self._target.close()
                if self.driver == "COG":
                    options = {"COMPRESS": str(self._layout.get("compress", "deflate")).upper()}
                    rasterio.shutil.copy(self._place, self.path, driver="COG", BIGTIFF="IF_SAFER", **options)
                elif self.driver == "netCDF":
                    rasterio.shutil.copy(
                        self._place, self.path, driver="netCDF", FORMAT="NC4", COMPRESS="DEFLATE", ZLEVEL="1"
                    )
        except RasterioError as error:
            raise _failure(self.name, error) from error
        self.discard()

    def discard(self) -> None:
        """Close the file, whatever state it is in, and remove the scratch file."""
        target = getattr(self, "_target", None)
        if target is not None and not target.closed:
            try:
                target.close()
            except RasterioError:
                self._target = None
        if self._scratch is not None:
            self._scratch.cleanup()


def create_raster(
    path: Path,
    driver: str,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    nodata: npt.NDArray[np.float64] | None,
    meta: Metadata,
    name: str,
) -> RasterWriter:
    """Open a raster file for writing, rows from top to bottom; errors call it ``name``."""
    if dtype == np.float16:
        dtype = np.dtype(np.float32)
    return RasterWriter(path, driver, shape, dtype, nodata, meta, name)


def _tiff_layout(layout: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
    chosen = {name: layout[name] for name in ("compress", "interleave", "predictor") if name in layout}
    if not layout:
        chosen = {"compress": "deflate", "interleave": "band"}
    if str(chosen.get("compress", "")).lower() in ("jpeg", "webp", "jxl", "lerc"):
        chosen["compress"] = "deflate"
    sides = (int(layout.get("blockxsize", 0)), int(layout.get("blockysize", 0)))
    if layout.get("tiled") and all(side and side % 16 == 0 for side in sides):
        return chosen | {"tiled": True, "blockxsize": sides[0], "blockysize": sides[1]}
    if max(shape[:2]) > 1024:
        return chosen | {"tiled": True, "blockxsize": 256, "blockysize": 256}
    return chosen


def _describe(target: Any, driver: str, meta: Metadata) -> None:
    target.descriptions = [name or None for name in meta.band_names] or target.descriptions
    if meta.scales and any(s != 1 for s in meta.scales):
        target.scales = meta.scales
    if meta.offsets and any(o != 0 for o in meta.offsets):
        target.offsets = meta.offsets
    if any(meta.units):
        target.units = meta.units
    target.update_tags(**meta.tags)
    band_tags = shared_tags(meta.band_tags) if driver == "netCDF" else meta.band_tags
    for band, tags in enumerate(band_tags, start=1):
        target.update_tags(band, **tags)
    for name, tags in meta.namespaces.items():
        kept = {k: v for k, v in tags.items() if name != "ENVI" or k not in _ENVI_OWN}
        target.update_tags(ns=name, **kept)
    if driver == "netCDF" and "NETCDF_DIM_EXTRA" not in meta.tags and target.count > 1:
        _cube_dimension(target, meta)
    if meta.wavelengths is None:
        return
    centres = [f"{value:.9g}" for value in meta.wavelengths]
    if driver == "ENVI" and "wavelength" not in meta.namespaces.get("ENVI", {}):
        extra = {"wavelength": "{" + ", ".join(centres) + "}", "wavelength_units": "Nanometers"}
        for name in ("fwhm", "bbl"):
            if meta.band_tags and all(name in tags for tags in meta.band_tags):
                extra[name] = "{" + ", ".join(tags[name] for tags in meta.band_tags) + "}"
        target.update_tags(ns="ENVI", **extra)
    elif driver in ("GTiff", "COG") and not all("wavelength" in tags for tags in meta.band_tags or ({},)):
        for band, centre in enumerate(centres, start=1):
            target.update_tags(band, wavelength=centre, wavelength_units="Nanometers")


def _cube_dimension(target: Any, meta: Metadata) -> None:
    """Tell the NetCDF driver that the bands are one variable with a spectral axis, not one variable each."""
    name, unit, centres = "band", "1", [str(band) for band in range(1, target.count + 1)]
    if meta.wavelengths is not None:
        name, unit, centres = "wavelength", "nm", [f"{value:.9g}" for value in meta.wavelengths]
    dimension = {f"NETCDF_DIM_{name}_DEF": f"{{{target.count},6}}"}
    dimension[f"NETCDF_DIM_{name}_VALUES"] = "{" + ",".join(centres) + "}"
    target.update_tags(**dimension, **{"NETCDF_DIM_EXTRA": f"{{{name}}}", f"{name}#units": unit})
    for band, value in enumerate(centres, start=1):
        target.update_tags(band, NETCDF_VARNAME="cube", **{f"NETCDF_DIM_{name}": value})


def _failure(name: str, error: Exception) -> OutputError:
    return OutputError(f"{name} cannot be written ({_last(error)})", "check the free space and the folder")


def _last(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())[:200]
