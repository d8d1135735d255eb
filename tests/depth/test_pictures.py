"""Pictures of every mode come in as 8-bit RGB, upright; depth maps go out and come in unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pictures_on_disk import drawn, write
from PIL import Image

from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.depth.colour import coloured, limits, table
from diffusion_suite.depth.io.maps import (
    levels16,
    read_map,
    read_points,
    resized,
    write_image,
    write_npy,
    write_tiff,
)
from diffusion_suite.depth.io.pictures import read_picture, stretched


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".ppm"])
def test_lossless_formats_are_exact(tmp_path: Path, suffix: str) -> None:
    how = {"lossless": True} if suffix == ".webp" else {}
    path = write(tmp_path / f"a{suffix}", drawn(), **how)
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.rgb, drawn())
    assert picture.size == (56, 40)
    assert picture.focal is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The stored array is the inverse of the turn that the orientation asks for."""
    upright = drawn(40, 56)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read_picture(path).rgb, upright)


def test_focal_length_from_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    path = write(tmp_path / "a.jpg", drawn(30, 40), exif=exif)
    focal = read_picture(path).focal
    assert focal == pytest.approx(26 / math.hypot(36, 24) * 50)


def test_alpha_is_white_where_transparent(tmp_path: Path) -> None:
    rgba = np.dstack([drawn(), np.full((40, 56), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    picture = read_picture(write(tmp_path / "a.png", rgba)).rgb
    assert (picture[:10] == 255).all()
    np.testing.assert_array_equal(picture[10:], drawn()[10:])
    Image.fromarray(rgba).convert("LA").save(tmp_path / "la.png")
    assert (read_picture(tmp_path / "la.png").rgb[:10] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": ".jpg", "YCbCr": ".jpg"}.get(mode, ".png")
    Image.fromarray(drawn()).convert(mode).save(tmp_path / f"a{suffix}")
    picture = read_picture(tmp_path / f"a{suffix}").rgb
    assert picture.shape == (40, 56, 3)
    assert picture.dtype == np.uint8
    assert np.ptp(picture) > 100


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_grey_of_many_bits(tmp_path: Path, bits: int) -> None:
    """The fewest bits that hold the greatest value are black to white."""
    stored = np.linspace(0, 2**bits - 1, 40 * 56).reshape(40, 56).astype(np.uint16)
    Image.fromarray(stored).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png").rgb
    np.testing.assert_allclose(picture[..., 0], stored / (2**bits - 1) * 255, atol=0.51)


@pytest.mark.parametrize("planar", [False, True])
def test_colour_tiff_of_16_bits_and_floats(tmp_path: Path, planar: bool) -> None:
    stored = drawn().astype(np.uint16) * 257
    shown = np.moveaxis(stored, -1, 0) if planar else stored
    kind = {"photometric": "rgb", "planarconfig": "separate" if planar else "contig"}
    tifffile.imwrite(tmp_path / "a.tif", shown, **kind)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").rgb, drawn())
    tifffile.imwrite(tmp_path / "f.tif", (shown / 65535).astype(np.float32), **kind)
    np.testing.assert_array_equal(read_picture(tmp_path / "f.tif").rgb, drawn())


def test_stretched_keeps_what_is_no_number_black() -> None:
    picture = stretched(np.array([[np.nan, 0.5], [np.inf, 1.0]]))
    assert picture[..., 0].tolist() == [[0, 128], [0, 255]]
    with pytest.raises(InputError, match="no picture"):
        stretched(np.zeros((2, 2, 2, 2)))


@pytest.mark.parametrize("content", [b"", b"a letter, not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\."):
        read_picture(path)


def test_a_picture_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.jpg", drawn(200, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        read_picture(path)


def test_maps_out_and_in(tmp_path: Path) -> None:
    depth = np.linspace(0.5, 9, 40 * 56, dtype=np.float32).reshape(40, 56)
    write_npy(tmp_path / "a.npy", depth)
    write_tiff(tmp_path / "a.tif", depth, {"depth": "metric"})
    write_image(tmp_path / "a.png", levels16(depth, 1000))
    np.testing.assert_array_equal(read_map(tmp_path / "a.npy"), depth)
    np.testing.assert_array_equal(read_map(tmp_path / "a.tif"), depth)
    np.testing.assert_allclose(read_map(tmp_path / "a.png"), depth, atol=0.00051)
    np.testing.assert_allclose(read_map(tmp_path / "a.png", 0.01), 10 * depth, atol=0.0051)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert json.loads(file.pages[0].description) == {"depth": "metric"}


def test_what_a_map_does_not_know_is_nan(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0, 0.0], [-2.0, np.inf]]))
    assert np.isnan(read_map(tmp_path / "a.npy")).tolist() == [[False, True], [True, True]]
    write(tmp_path / "rgb.png")
    with pytest.raises(InputError, match="no depth map"):
        read_map(tmp_path / "rgb.png")
    (tmp_path / "bad.npy").write_text("a letter")
    with pytest.raises(InputError, match=r"bad\.npy"):
        read_map(tmp_path / "bad.npy")


def test_tables_of_points(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("depth, y, x\n2.5, 3, 4\n0, 1, 1\n")
    assert read_points(path).tolist() == [[4, 3, 2.5]]
    path.write_text("4,3,250\n5,3,300\n")
    assert read_points(path, 0.01).tolist() == [[4, 3, 2.5], [5, 3, 3]]
    for text, said in (("x,y\n1,2\n", "columns"), ("1,2\n", "three numbers"), ("1,1,0\n", "no known depth")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_points(path)


def test_resizing_keeps_a_slope() -> None:
    slope = np.tile(np.arange(16, dtype=np.float32), (8, 1))
    larger = resized(slope, (32, 16))
    np.testing.assert_allclose(
        larger[:, 2:-2], np.tile((np.arange(2, 30) + 0.5) / 2 - 0.5, (16, 1)), atol=1e-5
    )


def test_colours() -> None:
    values = np.array([[0.0, 0.5], [1.0, np.nan]], np.float32)
    picture = coloured(values, 0, 1, "Spectral")
    assert picture[0, 0].tolist() == table("Spectral")[0].tolist()
    assert picture[1, 0].tolist() == table("Spectral")[-1].tolist()
    assert picture[1, 1].tolist() == [0, 0, 0]
    assert (coloured(np.ones((2, 2), np.float32), 1, 1, "magma") == table("magma")[0]).all()
    assert limits(np.full((4, 4), np.nan, np.float32)) == (0, 0)
    with pytest.raises(ConfigError, match="Spectral"):
        table("Spectrl")
