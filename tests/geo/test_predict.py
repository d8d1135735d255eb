"""``geo predict``: scenes in, restored scenes out, with all that they say about themselves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from scenes_on_disk import BANDS, COLS, NODATA, ROWS, low_rank, read_tif, with_border, write_tif

from diffusion_suite.core.cli import main
from diffusion_suite.core.testing import DomainContract
from diffusion_suite.geo.restoration import predict

FAST = ("mode=subspace", "pictures=false")


def run(*words: object) -> int:
    return main(["geo", "predict", *map(str, words)])


class Pointwise:
    """A restoration that looks at each sample alone, so that windows cannot differ from the whole."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def restore(self, cube: np.ndarray, **more: Any) -> SimpleNamespace:
        self.calls.append(more)
        factor = more["factor"] or 1
        filled = np.nan_to_num(cube, nan=1234).repeat(factor, 0).repeat(factor, 1) + 10
        return SimpleNamespace(cube=filled, uncertainty=np.full_like(filled, 2.5), log={})


@pytest.fixture
def pointwise(monkeypatch: pytest.MonkeyPatch) -> Pointwise:
    method = Pointwise()
    monkeypatch.setattr(predict, "make_method", lambda config, mode: method)
    return method


class TestRestoration(DomainContract):
    domain = "geo"
    system = "restoration"
    module = "diffusion_suite.geo.restoration.module:EigenPriorModule"
    suffix = ".npy"
    train_overrides = (
        "scenes=2", "patch=32", "channels=2", "widths=[4,8]", "blocks=[1,1]", "batch_size=2", "workers=0",
        "validation=0",
    )  # fmt: skip
    predict_overrides = FAST

    def write_sample(self, path: Path, seed: int) -> None:
        np.save(path, low_rank(seed).astype(np.float32))

    def read_output(self, path: Path) -> np.ndarray:
        return np.load(path)


def test_a_geotiff_keeps_its_georeference_and_nodata(tmp_path: Path) -> None:
    cube = with_border()
    scene = write_tif(tmp_path / "scene.tif", cube, compress="deflate")
    assert run(scene, "-o", tmp_path / "out", "mode=subspace", "task=denoise") == 0
    result = read_tif(tmp_path / "out" / "scene_restored.tif")
    assert result.dtype == np.int16
    assert np.array_equal(result == NODATA, cube == NODATA)
    inside = cube != NODATA
    assert not np.array_equal(result[inside], cube[inside])
    assert np.abs(result[inside] - low_rank()[inside]).mean() < 40
    with rasterio.open(scene) as before, rasterio.open(tmp_path / "out" / "scene_restored.tif") as after:
        for name in ("crs", "transform", "nodata", "count", "dtypes", "shape", "compression"):
            assert getattr(after, name) == getattr(before, name), name
        assert after.tags(3) == before.tags(3)
    made = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"scene_quicklook.png", "scene_before_after.png", "scene_spectra.png"}
    assert made == {"scene_restored.tif", "manifest.jsonl", *pictures}


@pytest.mark.parametrize("fill", ["auto", "none", "all"])
def test_what_is_filled(tmp_path: Path, pointwise: Pointwise, fill: str) -> None:
    cube = with_border()
    cube[..., 4] = NODATA
    scene = write_tif(tmp_path / "scene.tif", cube)
    assert run(scene, "-o", tmp_path / "out.tif", f"fill={fill}", "pictures=false") == 0
    assert pointwise.calls[0]["task"] == "complete"
    result = read_tif(tmp_path / "out.tif")
    assert (result[..., 4] == NODATA).all()
    live = [0, 1, 2, 3, 5]
    outside = result[:, :3][..., live]
    assert (outside == (1244 if fill == "all" else NODATA)).all()
    assert (result[5:9, 10, 2] == (NODATA if fill == "none" else 1244)).all()
    assert np.array_equal(result[:, 3:][..., 3], cube[:, 3:][..., 3] + 10)


def test_a_mask_names_what_is_missing(tmp_path: Path, pointwise: Pointwise) -> None:
    cube = low_rank().round().astype(np.uint16)
    np.savez(tmp_path / "scene.npz", hsi=cube)
    mask = np.ones((ROWS, COLS), bool)
    mask[4:8, 4:8] = False
    np.save(tmp_path / "mask.npy", mask)
    for fill in ("auto", "none"):
        out = tmp_path / f"{fill}.npz"
        assert (
            run(tmp_path / "scene.npz", "-o", out, f"mask={tmp_path / 'mask.npy'}", f"fill={fill}", *FAST)
            == 0
        )
        result = np.load(out)["hsi"]
        assert np.array_equal(result[mask], cube[mask] + 10)
        assert np.array_equal(result[~mask], np.full((16, BANDS), 1244) if fill == "auto" else cube[~mask])
    band_mask = np.repeat(mask[..., None], BANDS, axis=2)
    band_mask[..., 0] = True
    np.savez(tmp_path / "masks.npz", other=mask, bands=band_mask)
    out = tmp_path / "bands.npz"
    assert run(tmp_path / "scene.npz", "-o", out, f"mask={tmp_path / 'masks.npz'}#bands", *FAST) == 0
    result = np.load(out)["hsi"]
    assert np.array_equal(result[..., 0], cube[..., 0] + 10)
    assert (result[~mask][:, 1:] == 1244).all()


def test_windows_join_to_the_whole(tmp_path: Path, pointwise: Pointwise) -> None:
    scene = write_tif(tmp_path / "scene.tif", with_border("float32"))
    assert run(scene, "-o", tmp_path / "whole.tif", "uncertainty=true", *FAST) == 0
    assert len(pointwise.calls) == 1
    words = ("window=16", "overlap=6", "uncertainty=true", *FAST)
    assert run(scene, "-o", tmp_path / "parts.tif", *words) == 0
    assert len(pointwise.calls) == 5
    assert len({call["seed"] for call in pointwise.calls[1:]}) == 4
    whole, parts = read_tif(tmp_path / "whole.tif"), read_tif(tmp_path / "parts.tif")
    assert parts == pytest.approx(whole, rel=1e-6)
    spread = read_tif(tmp_path / "parts_uncertainty.tif")
    assert spread.dtype == np.float32
    assert spread[:, 3:] == pytest.approx(2.5)
    assert (spread[:, :3] == NODATA).all()


def test_windows_without_samples_have_no_say(tmp_path: Path, pointwise: Pointwise) -> None:
    cube = low_rank(cols=40).astype(np.float32)
    cube[:, :20] = np.nan
    np.save(tmp_path / "half.npy", cube)
    words = ("window=16", "overlap=4", "fill=all", *FAST)
    assert run(tmp_path / "half.npy", "-o", tmp_path / "out.npy", *words) == 0
    result = np.load(tmp_path / "out.npy")
    assert result[:, 20:] == pytest.approx(cube[:, 20:] + 10, rel=1e-6)
    assert np.isnan(result[:, :12]).all()
    assert result[:, 12:20] == pytest.approx(1244)


def test_super_resolution(tmp_path: Path, pointwise: Pointwise) -> None:
    cube = with_border("float32")
    scene = write_tif(tmp_path / "scene.tif", cube)
    words = ("factor=3", "window=16", "overlap=4", *FAST)
    assert run(scene, "-o", tmp_path / "fine.tif", *words) == 0
    result = read_tif(tmp_path / "fine.tif")
    assert result.shape == (3 * ROWS, 3 * COLS, BANDS)
    repeated = cube.repeat(3, 0).repeat(3, 1)
    assert np.array_equal(result == NODATA, repeated == NODATA)
    inside = repeated != NODATA
    assert result[inside] == pytest.approx(repeated[inside] + 10, rel=1e-6)
    with rasterio.open(tmp_path / "fine.tif") as fine:
        assert fine.transform.a == pytest.approx(10)


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    scene = write_tif(tmp_path / "scene.tif", with_border("float32"))
    words = ("window=16", "overlap=6", *FAST)
    assert run(scene, "-o", tmp_path / "whole" / "a.tif", *words) == 0
    done, restore = [], predict.restore_window

    def killed(scene: Any, window: Any, *rest: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(window.index)
        return restore(scene, window, *rest)

    monkeypatch.setattr(predict, "restore_window", killed)
    assert run(scene, "-o", tmp_path / "parts" / "a.tif", *words) == 130
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [".a.tif.windows"]
    monkeypatch.setattr(
        predict, "restore_window", lambda s, w, *r: (done.append(w.index), restore(s, w, *r))[1]
    )
    assert run(scene, "-o", tmp_path / "parts" / "a.tif", *words) == 0
    assert done == [0, 1, 2, 3]
    assert (tmp_path / "parts" / "a.tif").read_bytes() == (tmp_path / "whole" / "a.tif").read_bytes()
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"a.tif", "manifest.jsonl"}


def test_unfinished_windows_of_other_settings_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_tif(tmp_path / "scene.tif", with_border("float32"))
    restore = predict.restore_window
    monkeypatch.setattr(
        predict,
        "restore_window",
        lambda s, w, *r: restore(s, w, *r) if w.index == 0 else (_ for _ in ()).throw(KeyboardInterrupt),
    )
    out = tmp_path / "out" / "a.tif"
    assert run(scene, "-o", out, "window=16", "overlap=6", *FAST) == 130
    monkeypatch.undo()
    assert run(scene, "-o", out, "window=16", "overlap=6", "rank=2", *FAST) == 2
    assert "windows of another run" in capsys.readouterr().err
    assert run(scene, "-o", out, "window=16", "overlap=6", "rank=2", "overwrite=true", *FAST) == 0
    assert run(scene, "-o", tmp_path / "b.tif", "window=16", "overlap=6", "rank=2", *FAST) == 0
    assert np.array_equal(read_tif(out), read_tif(tmp_path / "b.tif"))


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_tif(folder / "a.tif", with_border())
    (folder / "b.tif").write_text("a letter")
    write_tif(folder / "c.tif", with_border())
    assert run(folder, "-o", tmp_path / "out", *FAST) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 2
    assert "b.tif" in lines[0]
    assert "1 of 3 scenes" in lines[1]
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"a_restored.tif", "c_restored.tif", "manifest.jsonl"}


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    scene = write_tif(tmp_path / "scene.tif", with_border())
    assert run(scene, "-o", tmp_path / "out", "seed=7", *FAST) == 0
    (line,) = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["seed"] == 7
    assert entry["mode"] == "subspace"
    assert entry["task"] == "complete"
    assert entry["windows"] == 1


def test_an_envi_pair_is_one_scene(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_tif(folder / "s.img", with_border(), driver="ENVI")
    assert run(folder, "-o", tmp_path / "out", *FAST) == 0
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"s_restored.img", "s_restored.hdr", "manifest.jsonl"}
    assert run(folder / "s.hdr", "-o", tmp_path / "again.tif", *FAST) == 0
    assert np.array_equal(read_tif(tmp_path / "again.tif"), read_tif(tmp_path / "out" / "s_restored.img"))


def test_sigma_of_each_band_from_a_file(tmp_path: Path, pointwise: Pointwise) -> None:
    scene = write_tif(tmp_path / "scene.tif", with_border())
    levels = tmp_path / "sigma.csv"
    levels.write_text("\n".join(f"{20 + band}," for band in range(BANDS)))
    assert run(scene, "-o", tmp_path / "a.tif", f"sigma={levels}", *FAST) == 0
    assert run(scene, "-o", tmp_path / "b.tif", "sigma=2.5", *FAST) == 0
    assert pointwise.calls[0]["sigma"].tolist() == [20, 21, 22, 23, 24, 25]
    assert pointwise.calls[1]["sigma"] == 2.5


def test_the_file_and_the_call_agree(tmp_path: Path) -> None:
    from diffusion_suite.geo import DDS2M

    cube = low_rank().astype(np.float32)
    np.save(tmp_path / "a.npy", cube)
    assert run(tmp_path / "a.npy", "-o", tmp_path / "b.npy", "seed=3", *FAST) == 0
    called = DDS2M("subspace").restore(cube, task="denoise", seed=3).cube
    assert np.load(tmp_path / "b.npy") == pytest.approx(called, rel=1e-6)
