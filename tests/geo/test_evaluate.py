"""``geo evaluate``, ``info`` and ``convert`` on files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes_on_disk import BANDS, NODATA, low_rank, with_border, write_tif

from diffusion_suite.core.cli import main
from diffusion_suite.geo.io import open_scene
from diffusion_suite.geo.restoration import demo, evaluate
from diffusion_suite.geo.restoration.metrics import score
from diffusion_suite.geo.restoration.network import VS2M, Levels
from diffusion_suite.geo.restoration.published import to_published
from diffusion_suite.geo.restoration.quality import measure


def run(command: str, *words: object) -> int:
    return main(["geo", command, *map(str, words)])


def scores(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "scores.json").read_text())["scores"]


@pytest.mark.parametrize("many", [False, True])
def test_against_a_clean_scene(tmp_path: Path, many: bool, capsys: pytest.CaptureFixture[str]) -> None:
    clean = with_border()
    restored = clean + np.where(clean == NODATA, 0, 30).astype(np.int16)
    restored[5:9, 10, 2] = 2000
    (tmp_path / "clean").mkdir()
    reference = write_tif(tmp_path / "clean" / "scene.tif", clean)
    result = write_tif(tmp_path / "scene_restored.tif", restored)
    where = tmp_path / "clean" if many else reference
    assert run("evaluate", result, f"reference={where}", "-o", tmp_path / "out") == 0
    seen = clean != NODATA
    expected = score(np.where(seen, clean, np.nan), restored.astype(float))
    (row,) = scores(tmp_path / "out")
    for name in ("psnr", "ssim", "sam", "ergas"):
        assert row[name] == pytest.approx(getattr(expected, name), rel=1e-4), name
    assert len(row["psnr_bands"]) == BANDS
    assert "scene_restored.tif" in capsys.readouterr().out
    assert (tmp_path / "out" / "scene_restored_compared.png").stat().st_size > 1000


@pytest.mark.parametrize("loss", ["denoise:0.1", "complete:0.5", "mixed:0.05"])
def test_modes_compared_on_a_simulated_loss(tmp_path: Path, loss: str) -> None:
    np.save(tmp_path / "clean.npy", low_rank(rows=32, cols=32).astype(np.float32))
    words = ("--simulate", loss, "modes=[subspace]", "-o", tmp_path / "out")
    assert run("evaluate", tmp_path / "clean.npy", *words) == 0
    degraded, restored = scores(tmp_path / "out")
    assert (degraded["mode"], restored["mode"]) == ("degraded", "subspace")
    assert restored["psnr"] > degraded["psnr"] + 2
    assert restored["sam"] < degraded["sam"]
    stem = f"clean_{loss.replace(':', '_')}"
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {
        f"{stem}_compared.png",
        f"{stem}_psnr.png",
        f"{stem}_scores.png",
        f"{stem}_spectra.png",
    }
    assert run("evaluate", tmp_path / "clean.npy", *words) == 2
    assert run("evaluate", tmp_path / "clean.npy", *words, "overwrite=true") == 0


def test_super_resolution_is_scored_with_its_factor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cubic:
        def restore(self, cube: np.ndarray, *, factor: int, task: str, **_: Any) -> Any:
            assert (task, factor) == ("sr", 2)
            return type("Restoration", (), {"cube": cube.repeat(2, 0).repeat(2, 1)})()

    monkeypatch.setattr(evaluate, "make_method", lambda config, mode: Cubic())
    np.save(tmp_path / "clean.npy", low_rank(rows=32, cols=32).astype(np.float32))
    assert (
        run(
            "evaluate", tmp_path / "clean.npy", "--simulate", "sr:2", "modes=[subspace]", "-o", tmp_path / "o"
        )
        == 0
    )
    degraded, restored = scores(tmp_path / "o")
    assert restored["psnr"] == degraded["psnr"] > 15


def test_report_without_a_reference(tmp_path: Path) -> None:
    clean, rng = low_rank(rows=60, cols=50), np.random.default_rng(1)
    clean = clean - 20 * np.random.default_rng(0).standard_normal(clean.shape)
    stripes = np.where(rng.random((50, BANDS)) < 0.3, 200.0, 0.0)
    noisy = clean + 100 * rng.standard_normal(clean.shape) + stripes
    noisy[:, :5, 1] = np.nan
    np.save(tmp_path / "noisy.npy", noisy.astype(np.float32))
    np.save(tmp_path / "clean.npy", clean.astype(np.float32))
    words = (tmp_path / "clean.npy", f"before={tmp_path / 'noisy.npy'}", "-o", tmp_path / "out")
    assert run("evaluate", *words) == 0
    before, after = scores(tmp_path / "out")
    assert before["scene"] == "noisy.npy"
    assert before["noise_bands"] == pytest.approx([100] * BANDS, rel=0.15)
    for name in ("noise", "striping", "missing", "roughness"):
        assert after[name] < before[name], name
    assert before["missing"] == pytest.approx(5 / 50 / BANDS, abs=1e-6)


def test_figures_of_odd_cubes() -> None:
    cube = np.full((4, 1, 2), 3.0)
    found = measure(cube, np.ones(cube.shape, bool))
    assert np.isnan(found.noise)
    nothing = measure(cube * np.nan, np.zeros(cube.shape, bool))
    assert nothing.missing == 1
    assert nothing.dead_bands == [1, 2]


def test_info_of_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cube = with_border()
    cube[..., 4:] = NODATA
    path = write_tif(tmp_path / "scene.tif", cube)
    assert run("info", path, "json=true") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["size"] == "24 rows x 20 columns x 6 bands"
    assert facts["CRS"] == "EPSG:32633"
    assert facts["wavelengths"] == "500 to 1000 nm"
    assert facts["nodata"] == NODATA
    assert facts["bands without data"] == "5-6"
    assert run("info", path) == 0
    assert "EPSG:32633" in capsys.readouterr().out


def test_info_and_convert_of_a_training_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusion_suite.geo.restoration.eigen_prior import EigenPrior
    from diffusion_suite.geo.restoration.module import EigenPriorModule

    module = EigenPriorModule(2, [4, 8], [1, 1])
    path = tmp_path / "last.ckpt"
    content = {
        "hyper_parameters": dict(module.hparams),
        "global_step": 7,
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save({**content, "state_dict": module.state_dict()}, path)
    assert run("convert", path, "-o", tmp_path / "prior") == 0
    loaded = EigenPrior.from_pretrained(tmp_path / "prior")
    for name, tensor in module.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    capsys.readouterr()
    assert run("info", tmp_path / "prior", "json=true") == 0
    assert json.loads(capsys.readouterr().out)["channels"] == 2
    assert run("info", path, "json=true") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 7
    assert run("convert", path, "-o", tmp_path / "prior") == 2
    torch.save({**content, "state_dict": {"a": torch.zeros(1)}}, path)
    assert run("convert", path, "-o", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


def test_convert_published_weights(tmp_path: Path) -> None:
    levels = Levels((8, 12, 16), (8, 12, 16), (0, 4, 4), (7, 5, 3), (5, 3, 3))
    network = VS2M(3, 16, 24, 5, levels=levels, hidden=(6, 7), seed=1)
    merged = {name: value.detach() for name, value in network.named_parameters()}
    published = {name: value.contiguous() for name, value in to_published(merged, levels).items()}
    save_file(published, tmp_path / "vs2m.safetensors")
    assert run("convert", tmp_path / "vs2m.safetensors", "-o", tmp_path / "ours.safetensors") == 0
    ours = load_file(tmp_path / "ours.safetensors")
    assert ours.keys() == merged.keys()
    for name, tensor in merged.items():
        assert torch.equal(ours[name], tensor), name
    del published["image_net.1.2.weight"]
    save_file(published, tmp_path / "broken.safetensors")
    assert run("convert", tmp_path / "broken.safetensors", "-o", tmp_path / "no.safetensors") == 2
    assert not (tmp_path / "no.safetensors").exists()


def test_convert_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tif(tmp_path / "a.tif", with_border())
    assert run("convert", source, "-o", tmp_path / "b.img") == 0
    assert run("convert", tmp_path / "b.hdr", "-o", tmp_path / "c.nc") == 0
    assert run("convert", tmp_path / "c.nc", "-o", tmp_path / "d.mat") == 0
    assert f"nodata={NODATA}" in capsys.readouterr().err
    for name in ("b.img", "c.nc", "d.mat"):
        with open_scene(tmp_path / name) as scene:
            assert np.array_equal(scene.read_stored(slice(0, 24), slice(0, 20)), with_border())
            assert scene.wavelengths == pytest.approx([500, 600, 700, 800, 900, 1000])
    assert run("convert", source, "-o", tmp_path / "b.img") == 2
    assert run("convert", source, "-o", tmp_path / "b.img", "overwrite=true") == 0


def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorly")
    cube, wavelengths = demo.indian_pines()
    assert cube.shape == (145, 145, 200)
    monkeypatch.setattr(demo, "indian_pines", lambda: (cube[40:80, 40:80, :30], wavelengths[:30]))
    monkeypatch.setattr(demo, "CROP", slice(0, 32))
    monkeypatch.setattr(demo, "QUIET_BANDS", list(range(8)))
    quick = {name: replace(loss, modes=["subspace"]) for name, loss in demo.LOSSES.items()}
    monkeypatch.setattr(demo, "LOSSES", quick)
    sections = demo.run(tmp_path)
    assert len(sections) == 5
    for section in sections:
        assert all(picture.path.is_file() and picture.caption for picture in section.pictures)
        assert len(section.table) == 2
        assert all(row.keys() == section.table[0].keys() for row in section.table)


def test_the_demo_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorly.datasets", None)
    with pytest.raises(Exception, match=r"pip install 'diffusion-suite\[samples\]'"):
        demo.indian_pines()
