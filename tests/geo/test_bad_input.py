"""What cannot be restored is refused in one line with a remedy, exit code 2, and nothing is left behind."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from scenes_on_disk import BANDS, COLS, NODATA, ROWS, low_rank, read_tif, with_border, write_tif

from diffusion_suite.core.cli import main
from diffusion_suite.geo.io import arrays, raster

FAST = ("mode=subspace", "pictures=false")


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Refused:
    """Runs a command that must be refused and gives its line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *words: object, command: str = "predict") -> str:
        before = tree(self.folder)
        self.capsys.readouterr()
        code = main(["geo", command, *map(str, words)])
        captured = self.capsys.readouterr()
        assert code == 2, captured.err
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        assert "; " in line or " takes " in line, "no remedy"
        assert "internal" not in line
        assert tree(self.folder) == before, "something was left behind"
        return line


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(tmp_path, capsys)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_tif(tmp_path / "scene.tif", with_border("float32"))


def test_missing_file(refused: Refused, tmp_path: Path) -> None:
    assert "absent.tif" in refused(tmp_path / "absent.tif", "-o", tmp_path / "out")


@pytest.mark.parametrize("suffix", [".tif", ".img", ".nc", ".mat", ".npz", ".npy", ".hdr"])
@pytest.mark.parametrize("content", [b"", b"Dear reader, this is a letter.\n" * 20])
def test_files_that_are_something_else(refused: Refused, tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"letter{suffix}"
    path.write_bytes(content)
    assert "letter" in refused(path, "-o", tmp_path / "out")


def test_cut_short(refused: Refused, tmp_path: Path) -> None:
    whole = write_tif(tmp_path / "whole.tif", low_rank(rows=200, cols=200).astype(np.float32))
    path = tmp_path / "cut.tif"
    rasterio.shutil.copy(whole, path, driver="COG")
    path.write_bytes(path.read_bytes()[:400_000])
    assert "damaged or cut short" in refused(path, "-o", tmp_path / "out")
    path.write_bytes(path.read_bytes()[:100])
    assert "not a raster" in refused(path, "-o", tmp_path / "out")


def test_matlab_7_3(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "new.mat"
    path.write_bytes(
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124)
        + b"\x00\x02IM"
        + b"\x89HDF\r\n\x1a\n"
        + bytes(64)
    )
    assert "-v7" in refused(path, "-o", tmp_path / "out")


def test_several_variables(refused: Refused, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=low_rank(), b=low_rank())
    assert "choose one with key=a" in refused(tmp_path / "two.npz", "-o", tmp_path / "out")
    assert "no variable 'c'" in refused(tmp_path / "two.npz", "key=c", "-o", tmp_path / "out")


def test_text_and_complex_arrays(refused: Refused, tmp_path: Path) -> None:
    np.save(tmp_path / "complex.npy", low_rank().astype(complex))
    assert "complex128" in refused(tmp_path / "complex.npy", "-o", tmp_path / "out")
    np.save(tmp_path / "line.npy", np.zeros(5))
    assert "(rows, columns, bands)" in refused(tmp_path / "line.npy", "-o", tmp_path / "out")


def test_all_nodata(refused: Refused, tmp_path: Path) -> None:
    path = write_tif(tmp_path / "empty.tif", np.full((8, 9, 3), NODATA, np.int16))
    assert "nodata" in refused(path, "-o", tmp_path / "out")
    np.save(tmp_path / "nan.npy", np.full((8, 9, 3), np.nan))
    assert "all samples are" in refused(tmp_path / "nan.npy", "-o", tmp_path / "out")


def test_mask_of_another_shape(refused: Refused, scene: Path, tmp_path: Path) -> None:
    for shape in ((COLS, ROWS), (ROWS, COLS, BANDS - 1), (ROWS + 1, COLS)):
        np.save(tmp_path / "mask.npy", np.ones(shape))
        line = refused(scene, f"mask={tmp_path / 'mask.npy'}", "-o", tmp_path / "out")
        assert f"{ROWS} x {COLS}" in line
    assert "absent.npy" in refused(scene, f"mask={tmp_path / 'absent.npy'}", "-o", tmp_path / "out")


def test_mask_that_hides_everything(refused: Refused, scene: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.zeros((ROWS, COLS)))
    assert "mask" in refused(scene, f"mask={tmp_path / 'mask.npy'}", "-o", tmp_path / "out")


@pytest.mark.parametrize("factor", ["0", "1", "-2", "2.5", "two"])
def test_factors_that_are_none(refused: Refused, scene: Path, tmp_path: Path, factor: str) -> None:
    assert "factor" in refused(scene, f"factor={factor}", "task=sr", "-o", tmp_path / "out")


def test_settings_that_do_not_go_together(refused: Refused, scene: Path, tmp_path: Path) -> None:
    assert "needs a factor" in refused(scene, "task=sr", "-o", tmp_path / "out")
    assert "drop the factor" in refused(scene, "task=denoise", "factor=2", "-o", tmp_path / "out")
    assert "overlap" in refused(scene, "window=16", "overlap=9", "-o", tmp_path / "out")
    assert "too small" in refused(scene, "window=3", "-o", tmp_path / "out")
    assert "takes float" in refused(scene, "nodata=x", "-o", tmp_path / "out")


@pytest.mark.parametrize("sigma", ["-1", "nan", "inf", "absent.txt"])
def test_noise_levels_that_are_none(refused: Refused, scene: Path, tmp_path: Path, sigma: str) -> None:
    assert f"sigma={sigma}" in refused(scene, f"sigma={sigma}", "-o", tmp_path / "out")


@pytest.mark.parametrize("text", ["1 2 3", "1 2 3 4 5 x", "1 2 3 4 5 -6", "\x00\xff"])
def test_files_of_noise_levels(refused: Refused, scene: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "levels.txt").write_bytes(text.encode("latin-1"))
    assert "levels.txt" in refused(scene, f"sigma={tmp_path / 'levels.txt'}", "-o", tmp_path / "out")


def test_nodata_that_the_type_cannot_hold(refused: Refused, tmp_path: Path) -> None:
    np.save(tmp_path / "bytes.npy", np.ones((8, 9, 3), np.uint8))
    assert "uint8" in refused(tmp_path / "bytes.npy", "nodata=-9999", "-o", tmp_path / "out")


def test_enlarging_integers_without_nodata(refused: Refused, tmp_path: Path) -> None:
    np.save(tmp_path / "scene.npy", low_rank().astype(np.uint16))
    np.save(tmp_path / "mask.npy", np.eye(ROWS, COLS))
    words = (f"mask={tmp_path / 'mask.npy'}", "factor=2", "-o", tmp_path / "out")
    assert "nodata=VALUE" in refused(tmp_path / "scene.npy", *words)


def test_outputs_that_cannot_be(refused: Refused, scene: Path, tmp_path: Path) -> None:
    other = write_tif(tmp_path / "other.tif", with_border())
    assert "letter.txt" in refused(scene, "-o", _letter(tmp_path) / "below", *FAST)
    assert "cannot write in" in refused(scene, "-o", "/proc/diffusion_suite", *FAST)
    assert "one file for 2 scenes" in refused(scene, other, "-o", tmp_path / "out.tif", *FAST)
    assert "exists already" in refused(scene, "-o", other, *FAST)
    assert "its own result" in refused(scene, "-o", scene, "overwrite=true", *FAST)
    (tmp_path / "a").mkdir()
    twin = write_tif(tmp_path / "a" / "scene.tif", with_border())
    assert "several inputs would be written" in refused(scene, twin, "-o", tmp_path / "out", *FAST)


def _letter(folder: Path) -> Path:
    path = folder / "letter.txt"
    path.write_text("a letter")
    return path


@pytest.mark.parametrize("suffix", [".tif", ".img", ".nc", ".npy", ".npz", ".mat"])
@pytest.mark.parametrize("place", ["write_stored", "finish"])
def test_a_full_disk(
    refused: Refused, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, place: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for writer in (raster.RasterWriter, arrays.ArrayWriter):
        monkeypatch.setattr(writer, place, full)
    assert "space" in refused(scene, "-o", tmp_path / "out" / f"a{suffix}", *FAST)


def test_a_disk_too_small_for_the_windows(
    refused: Refused, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert "make room" in refused(scene, "-o", tmp_path / "out", *FAST)


def test_evaluate_and_convert(refused: Refused, scene: Path, tmp_path: Path) -> None:
    small = write_tif(tmp_path / "small.tif", with_border()[:8])
    assert "give scenes of one size" in refused(
        scene, f"reference={small}", "-o", tmp_path / "e", command="evaluate"
    )
    assert "no clean scene" in refused(
        scene, f"reference={_folder(tmp_path)}", "-o", tmp_path / "e", command="evaluate"
    )
    words = (scene, "-o", tmp_path / "e")
    assert "no such degradation" in refused(*words, "--simulate", "blur", command="evaluate")
    assert "does not divide" in refused(*words, "--simulate", "sr:5", command="evaluate")
    assert "drop one" in refused(*words, "simulate=sr:2", f"before={small}", command="evaluate")
    assert "needs an output" in refused(scene, command="convert")
    assert "end the name in" in refused(scene, "-o", tmp_path / "a.xyz", command="convert")
    assert "one input" in refused(scene, small, "-o", tmp_path / "a.tif", command="convert")
    weights = tmp_path / "some.pt"
    weights.write_bytes(b"not weights")
    assert "some.pt" in refused(weights, "-o", tmp_path / "a.safetensors", command="convert")
    assert "letter.txt" in refused(_letter(tmp_path), command="info")


def _folder(folder: Path) -> Path:
    (folder / "others").mkdir(exist_ok=True)
    return folder / "others"


def test_odd_scenes_work(tmp_path: Path) -> None:
    """One band, constant bands, NaN and infinities, one row: oddities of the field, not errors."""
    cube = low_rank().astype(np.float32)
    constant, holes = cube.copy(), cube.copy()
    constant[..., 2] = 7
    holes[3, 4], holes[5, 6, 1], holes[:, 8, 3] = np.nan, np.inf, -np.inf
    odd = {
        "one": cube[..., :1],
        "constant": constant,
        "holes": holes,
        "thin": cube[:1],
        "pixel": cube[:1, :1],
    }
    for name, values in odd.items():
        np.save(tmp_path / f"{name}.npy", values)
        assert (
            main(
                [
                    "geo",
                    "predict",
                    str(tmp_path / f"{name}.npy"),
                    "-o",
                    str(tmp_path / "out"),
                    "mode=subspace",
                ]
            )
            == 0
        )
        result = np.load(tmp_path / "out" / f"{name}_restored.npy")
        assert result.shape == values.shape
        if name != "holes":
            assert np.isfinite(result).all(), name
    assert (np.load(tmp_path / "out" / "constant_restored.npy")[..., 2] == 7).all()
    filled = np.load(tmp_path / "out" / "holes_restored.npy")
    assert np.isnan(filled[3, 4]).all()
    assert np.isfinite(np.delete(filled.reshape(-1, BANDS), 3 * COLS + 4, axis=0)).all()


def test_nodata_given_by_hand(tmp_path: Path) -> None:
    cube = with_border()
    path = write_tif(tmp_path / "unmarked.tif", cube, nodata=None)
    words = [str(path), "-o", str(tmp_path / "out.tif"), f"nodata={NODATA}", "task=denoise", *FAST]
    assert main(["geo", "predict", *words]) == 0
    assert np.array_equal(read_tif(tmp_path / "out.tif") == NODATA, cube == NODATA)
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.nodata == NODATA
