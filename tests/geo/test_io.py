"""Every format goes out and comes back with its samples and all that it says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from diffusion_suite.core.errors import SuiteError
from diffusion_suite.geo.io import create_scene, encode, open_scene

ROWS, COLS, BANDS = 20, 24, 6
WAVELENGTHS = [450.5, 550.0, 650.25, 800.0, 1600.0, 2200.0]
NODATA = -9999
WHOLE = (slice(0, ROWS), slice(0, COLS))


def make_cube(seed: int = 0) -> np.ndarray:
    cube = np.random.default_rng(seed).integers(0, 5000, (ROWS, COLS, BANDS)).astype(np.int16)
    cube[:3, :4] = NODATA
    cube[10, 5, 2] = NODATA
    return cube


def write_raster(path: Path, cube: np.ndarray, **more: Any) -> Path:
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": cube.shape[0],
        "width": cube.shape[1],
        "count": cube.shape[2],
        "dtype": cube.dtype.name,
        "crs": "EPSG:32633",
        "transform": from_origin(365055, 5807085, 30, 30),
        "nodata": NODATA,
    } | more
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.moveaxis(cube, -1, 0))
        target.descriptions = [f"name {i}" for i in range(cube.shape[2])]
        if profile["driver"] == "GTiff":
            target.update_tags(sensor="EnMAP", scene="Potsdam")
            target.update_tags(ns="ENVI", sensor_type="EnMAP")
            target.scales, target.offsets = [1e-4] * cube.shape[2], [0.5] * cube.shape[2]
            for band, centre in enumerate(WAVELENGTHS, start=1):
                target.update_tags(band, wavelength=str(centre), wavelength_units="Nanometers", fwhm="6.5")
        else:
            centres = "{" + ", ".join(str(w / 1000) for w in WAVELENGTHS) + "}"
            target.update_tags(
                ns="ENVI", wavelength=centres, wavelength_units="Micrometers", sensor_type="EnMAP"
            )
    return path


def write_cog(path: Path, cube: np.ndarray) -> Path:
    import rasterio.shutil

    plain = write_raster(path.with_suffix(".plain.tif"), cube)
    rasterio.shutil.copy(plain, path, driver="COG", COMPRESS="DEFLATE")
    plain.unlink()
    return path


def write_netcdf(path: Path, cube: np.ndarray) -> Path:
    import rasterio.shutil

    plain = write_raster(path.with_suffix(".plain.tif"), cube)
    with rasterio.open(plain, "r+") as target:
        values = ",".join(str(w) for w in WAVELENGTHS)
        names = {"NETCDF_DIM_EXTRA": "{wavelength}", "NETCDF_DIM_wavelength_DEF": "{6,6}"}
        target.update_tags(
            **names, NETCDF_DIM_wavelength_VALUES="{" + values + "}", **{"wavelength#units": "nm"}
        )
        for band, centre in enumerate(WAVELENGTHS, start=1):
            target.update_tags(band, NETCDF_VARNAME="reflectance", NETCDF_DIM_wavelength=str(centre))
    rasterio.shutil.copy(plain, path, driver="netCDF", FORMAT="NC4")
    plain.unlink()
    return path


def make_file(folder: Path, name: str) -> Path:
    cube = make_cube()
    path = folder / name
    if name == "scene.tif":
        return write_raster(path, cube, compress="deflate", interleave="pixel")
    if name == "tiled.tif":
        return write_raster(path, cube, tiled=True, blockxsize=16, blockysize=16)
    if name == "cog.tif":
        return write_cog(path, cube)
    if name.endswith(".nc"):
        return write_netcdf(path, cube)
    interleave = {".img": "bsq", ".bil": "bil", ".bip": "bip", ".dat": "bsq"}[path.suffix]
    return write_raster(path, cube, driver="ENVI", interleave=interleave)


RASTERS = [
    "scene.tif",
    "tiled.tif",
    "cog.tif",
    "scene.img",
    "scene.bil",
    "scene.bip",
    "scene.dat",
    "scene.nc",
]


def copy(source: Path, target: Path, slab: int = 7, factor: int = 1) -> None:
    with open_scene(source) as scene, create_scene(target, scene, factor=factor) as writer:
        for top in range(0, scene.shape[0], slab):
            rows = slice(top, min(scene.shape[0], top + slab))
            values, _ = scene.read(rows, slice(0, scene.shape[1]))
            writer.write(top * factor, values.repeat(factor, axis=0).repeat(factor, axis=1))


@pytest.mark.parametrize("name", RASTERS)
def test_a_raster_comes_back_whole(tmp_path: Path, name: str) -> None:
    source, target = make_file(tmp_path, name), tmp_path / "out" / name
    target.parent.mkdir()
    copy(source, target)
    with open_scene(source) as before, open_scene(target) as after:
        assert after.format == before.format
        assert after.shape == (ROWS, COLS, BANDS)
        assert after.dtype == np.int16
        assert np.array_equal(after.read_stored(*WHOLE), make_cube())
        assert after.meta.crs == before.meta.crs
        assert after.meta.crs.to_epsg() == 32633
        assert after.meta.transform == from_origin(365055, 5807085, 30, 30)
        assert after.nodata is not None
        assert set(after.nodata) == {NODATA}
        assert after.wavelengths == pytest.approx(WAVELENGTHS)
        assert after.meta.band_names == before.meta.band_names
        assert after.meta.scales == before.meta.scales
        assert after.meta.offsets == before.meta.offsets
        if not name.endswith(".nc"):
            assert after.band_names[2].startswith("name 2")
            assert before.meta.layout == after.meta.layout
        if name != "cog.tif" and not name.endswith(".nc"):
            assert after.meta.namespaces["ENVI"]["sensor_type"] == "EnMAP"
        if name.endswith(".tif"):
            assert after.meta.tags["sensor"] == "EnMAP"
            assert after.meta.band_tags[3]["fwhm"] == "6.5"
        if name.endswith(".nc"):
            assert after.meta.band_tags[0]["NETCDF_VARNAME"] == "reflectance"
    left = sorted(p.name for p in target.parent.iterdir())
    assert left == sorted(
        [name] + (["scene.hdr"] if target.suffix in (".img", ".bil", ".bip", ".dat") else [])
    )


def test_nodata_is_missing_and_reads_as_nan(tmp_path: Path) -> None:
    with open_scene(make_file(tmp_path, "scene.tif")) as scene:
        values, seen = scene.read(slice(0, 12), slice(2, 10))
        assert values.shape == (12, 8, BANDS)
        assert values.dtype == np.float32
        assert not seen[:3, :2].any()
        assert not seen[10, 3, 2]
        assert seen[10, 3, 1]
        assert np.array_equal(np.isnan(values), ~seen)
        assert values[11, 0, 3] == make_cube()[11, 2, 3]


def test_an_envi_header_opens_its_data_file(tmp_path: Path) -> None:
    source = make_file(tmp_path, "scene.dat")
    with open_scene(source.with_suffix(".hdr")) as scene:
        assert scene.path == source
        assert scene.shape == (ROWS, COLS, BANDS)
    source.unlink()
    with pytest.raises(SuiteError, match="no data file beside"):
        open_scene(source.with_suffix(".hdr"))


def test_super_resolution_moves_the_transform(tmp_path: Path) -> None:
    source, target = make_file(tmp_path, "scene.tif"), tmp_path / "fine.tif"
    copy(source, target, factor=3)
    with open_scene(target) as fine, open_scene(source) as coarse:
        assert fine.shape == (3 * ROWS, 3 * COLS, BANDS)
        assert fine.meta.transform.a == pytest.approx(10)
        assert fine.meta.transform.e == pytest.approx(-10)
        far = rasterio.transform.xy(fine.meta.transform, 3 * ROWS, 3 * COLS, offset="ul")
        assert far == pytest.approx(rasterio.transform.xy(coarse.meta.transform, ROWS, COLS, offset="ul"))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_array_files_come_back(tmp_path: Path, suffix: str, dtype: str) -> None:
    cube = np.abs(make_cube()).astype(dtype)
    extras = {"wavelengths": np.array(WAVELENGTHS), "row0": np.array([[8]], dtype=np.int64)}
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    if suffix == ".npy":
        np.save(source, cube)
    elif suffix == ".npz":
        np.savez(source, hsi=cube, **extras)
    else:
        from scipy.io import savemat

        savemat(source, {"hsi": cube, **extras})
    copy(source, target)
    with open_scene(target) as scene:
        assert scene.dtype == dtype
        assert np.array_equal(scene.read_stored(*WHOLE), cube)
        if suffix != ".npy":
            assert scene.wavelengths == pytest.approx(WAVELENGTHS)
            assert int(scene.meta.extras["row0"].item()) == 8
            assert open_scene(f"{target}#hsi").shape == cube.shape


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_several_arrays_need_a_key(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"both{suffix}"
    arrays = {"img": np.ones((5, 6, 3)), "mask_10": np.zeros((5, 6, 3))}
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        from scipy.io import savemat

        savemat(path, arrays)
    with pytest.raises(SuiteError, match="img 5x6x3, mask_10 5x6x3; choose one with key=img"):
        open_scene(path)
    with open_scene(path, key="mask_10") as scene:
        assert not scene.read(slice(0, 5), slice(0, 6))[0].any()
    with pytest.raises(SuiteError, match="no variable 'nope'; it holds img, mask_10"):
        open_scene(path, key="nope")


def test_netcdf_of_single_bands_is_one_cube(tmp_path: Path) -> None:
    import rasterio.shutil

    plain = write_raster(tmp_path / "plain.tif", make_cube())
    path = tmp_path / "bands.nc"
    rasterio.shutil.copy(plain, path, driver="netCDF")
    with open_scene(path) as scene:
        assert scene.shape == (ROWS, COLS, BANDS)
        assert np.array_equal(scene.read_stored(*WHOLE), make_cube())


def test_two_dimensional_arrays_are_one_band(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones((7, 9), dtype=np.float32))
    assert open_scene(tmp_path / "flat.npy").shape == (7, 9, 1)


@pytest.mark.parametrize(
    ("source", "target"), [("scene.tif", "out.img"), ("scene.img", "out.tif"), ("scene.dat", "o.nc")]
)
def test_formats_convert_into_each_other(tmp_path: Path, source: str, target: str) -> None:
    copy(make_file(tmp_path, source), tmp_path / target)
    with open_scene(tmp_path / target) as scene:
        assert np.array_equal(scene.read_stored(*WHOLE), make_cube())
        assert scene.wavelengths == pytest.approx(WAVELENGTHS)
        assert scene.meta.crs.to_epsg() == 32633


def test_array_to_raster_and_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", cube=np.abs(make_cube()), wavelength=np.array(WAVELENGTHS))
    for before, after in [("a.npz", "b.tif"), ("b.tif", "c.nc"), ("c.nc", "d.mat"), ("d.mat", "e.npz")]:
        copy(tmp_path / before, tmp_path / after)
        with open_scene(tmp_path / after) as scene:
            assert np.array_equal(scene.read_stored(*WHOLE), np.abs(make_cube()))
            assert scene.wavelengths == pytest.approx(WAVELENGTHS)


def test_dataset_masks_count_as_missing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "m.tif", np.abs(make_cube()), nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        mask = np.full((ROWS, COLS), 255, np.uint8)
        mask[4] = 0
        target.write_mask(mask)
    with open_scene(path) as scene:
        _, seen = scene.read(*WHOLE)
        assert not seen[4].any()
        assert seen[5:].all()


def test_blocks_cover_the_scene_once(tmp_path: Path) -> None:
    with open_scene(make_file(tmp_path, "scene.tif")) as scene:
        parts = [values for values, _ in scene.blocks(limit=3 * COLS * BANDS, least=1)]
        assert [p.shape[0] for p in parts] == [3] * 6 + [2]
        assert np.array_equal(np.concatenate(parts), scene.read(*WHOLE)[0], equal_nan=True)
        assert scene.sample(side=10)[0].shape == (7, 8, BANDS)


def test_encode_rounds_and_clips_and_never_wraps() -> None:
    values = np.array([[[-1.6, 3.5]], [[70000.0, 2.4]]], dtype=np.float32)
    assert encode(values, np.dtype(np.uint16)).ravel().tolist() == [0, 4, 65535, 2]
    assert encode(values, np.dtype(np.int64)).ravel().tolist() == [-2, 4, 70000, 2]
    big = np.full((1, 1, 1), 1e30, np.float32)
    assert encode(big, np.dtype(np.int64)).item() > 2**62
    assert np.isfinite(encode(big, np.dtype(np.float16))).all()


def test_encode_keeps_results_off_the_nodata_value() -> None:
    values = np.array([[[0.2, 254.9]], [[np.nan, np.nan]]], dtype=np.float32)
    stored = encode(values, np.dtype(np.uint8), np.array([0.0, 255.0]))
    assert stored.ravel().tolist() == [1, 254, 0, 255]
    floats = encode(np.array([[[-1.0]], [[np.nan]]], np.float32), np.dtype(np.float32), np.array([-1.0]))
    assert floats[0, 0, 0] != -1
    assert floats[0, 0, 0] == pytest.approx(-1)
    assert floats[1, 0, 0] == -1


def test_encode_leaves_the_original_where_there_is_no_result() -> None:
    values = np.array([[[np.nan, 7.0]]], dtype=np.float32)
    assert encode(values, np.dtype(np.int16), None, np.array([[[-9, 5]]], np.int16)).ravel().tolist() == [
        -9,
        7,
    ]
    with pytest.raises(SuiteError, match="nodata=VALUE"):
        encode(values, np.dtype(np.int16))


@pytest.mark.parametrize("name", ["a.tif", "a.img", "a.nc", "a.mat", "a.npy", "a.npz"])
def test_a_failure_leaves_nothing(tmp_path: Path, name: str) -> None:
    source = make_file(tmp_path, "scene.img")
    out = tmp_path / "out"
    out.mkdir()

    def interrupted() -> None:
        with open_scene(source) as scene, create_scene(out / name, scene) as writer:
            writer.write(0, scene.read(slice(0, 5), slice(0, COLS))[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(out.iterdir()) == []


def test_a_flat_array_stays_flat(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(12.0).reshape(3, 4))
    copy(tmp_path / "a.npy", tmp_path / "b.npy")
    assert np.array_equal(np.load(tmp_path / "b.npy"), np.arange(12.0).reshape(3, 4))
