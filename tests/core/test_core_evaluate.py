"""`core evaluate`: pictures, arrays and features in; table and JSON out; bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from diffusion_suite.core import seeding
from diffusion_suite.core.cli import main
from diffusion_suite.core.domain import installed
from diffusion_suite.core.metrics import frechet_distance
from diffusion_suite.core.metrics.config import METRICS

pytestmark = pytest.mark.filterwarnings("ignore:fewer than")

Image = pytest.importorskip("PIL.Image")
Array = npt.NDArray[Any]
SIDE = 6


def values(*shape: int, key: str = "real") -> npt.NDArray[np.float64]:
    return seeding.numpy_generator("evaluate", key).random(shape)


def save_pictures(folder: Path, pictures: Array, suffix: str = ".png") -> Path:
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03}{suffix}")
    return folder


def save(path: Path, array: Array) -> str:
    np.save(path, array)
    return str(path)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Pictures real, fake, train, test: 30 each, in colour."""
    return {
        name: str(
            save_pictures(tmp_path / name, (255 * values(30, SIDE, SIDE, 3, key=name)).astype(np.uint8))
        )
        for name in ("real", "fake", "train", "test")
    }


def run(*words: str) -> int:
    return main(["core", "evaluate", *words])


def scores(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["scores"]
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command says before it ends with 2."""
    capsys.readouterr()
    assert run(*words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line]
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_every_metric_of_pictures(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = f"metrics=[{','.join(METRICS)}]"
    sets = (folders["real"], folders["fake"], f"train={folders['train']}", f"test={folders['test']}")
    assert run(*sets, names, "cells=1", "bootstrap=3", "-o", str(tmp_path / "out" / "s.json")) == 0
    out, err = capsys.readouterr()
    found = scores(tmp_path / "out" / "s.json")
    for name in METRICS:
        assert f"{name}_pixels" in found
        assert f"{name}_pixels" in out
    assert found["ct_pixels"]["sizes"] == {"train": 30, "test": 30, "fake": 30}
    assert found["fd_pixels"]["standard_error"] > 0
    assert "below 216 items" in found["fd_pixels"]["note"]
    assert "s.json" in err
    record = json.loads((tmp_path / "out" / "s.json").read_text())
    assert record["sets"]["real"] == folders["real"]
    real, fake = (
        torch.from_numpy((255 * values(30, SIDE, SIDE, 3, key=name)).astype(np.uint8) / 255)
        .permute(0, 3, 1, 2)
        .flatten(1)
        for name in ("real", "fake")
    )
    assert found["fd_pixels"]["value"] == pytest.approx(frechet_distance(real, fake), rel=1e-5)


def test_the_same_pictures_in_any_form(folders: dict[str, str], tmp_path: Path) -> None:
    pictures = {
        name: (255 * values(30, SIDE, SIDE, 3, key=name)).astype(np.uint8) for name in ("real", "fake")
    }
    np.savez(tmp_path / "several.npz", pictures=pictures["fake"], labels=np.arange(30))
    manifest = tmp_path / "list.csv"
    manifest.write_text("input\n" + "\n".join(f"fake/{index:03}.png" for index in range(30)))
    (tmp_path / "arrays").mkdir()
    save(tmp_path / "arrays" / "a.npy", pictures["fake"][:10])
    save(tmp_path / "arrays" / "b.npy", pictures["fake"][10:].transpose(0, 3, 1, 2))
    alpha = np.concatenate([pictures["fake"], np.full((30, SIDE, SIDE, 1), 255, np.uint8)], 3)
    forms: list[tuple[str, ...]] = [
        (folders["fake"],),
        (save(tmp_path / "bytes.npy", pictures["fake"]),),
        (save(tmp_path / "words.npy", pictures["fake"].astype(np.uint16) * 257),),
        (save(tmp_path / "floats.npy", (pictures["fake"] / 255).astype(np.float32)),),
        (save(tmp_path / "alpha.npy", alpha),),
        (str(tmp_path / "several.npz"), "key=pictures"),
        (str(manifest),),
        (f"{folders['fake']}/*.png",),
        (str(tmp_path / "arrays"),),
        (str(save_pictures(tmp_path / "tif", pictures["fake"], ".tif")),),
    ]
    found = []
    for place, form in enumerate(forms):
        output = tmp_path / f"{place}.json"
        assert run(folders["real"], *form, "metrics=[fd]", "bootstrap=0", "-o", str(output)) == 0
        found.append(scores(output)["fd_pixels"]["value"])
    assert found == pytest.approx([found[0]] * len(forms), rel=1e-5)


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    grey = {name: (255 * values(20, 4, 5, key=name)).astype(np.uint8) for name in ("real", "fake")}
    real = save_pictures(tmp_path / "real", grey["real"])
    fake = save(tmp_path / "fake.npy", grey["fake"] / 255.0)
    output = tmp_path / "s.json"
    assert run(str(real), fake, "metrics=[fd]", "bootstrap=0", "-o", str(output)) == 0
    a, b = (torch.from_numpy(grey[name] / 255).flatten(1) for name in ("real", "fake"))
    assert scores(output)["fd_pixels"]["value"] == pytest.approx(frechet_distance(a, b), rel=1e-4)
    colour = save_pictures(tmp_path / "colour", np.repeat(grey["fake"][..., None], 3, 3))
    colour_output = tmp_path / "c.json"
    assert run(str(real), str(colour), "metrics=[fd]", "bootstrap=0", "-o", str(colour_output)) == 0
    assert scores(colour_output)["fd_pixels"]["value"] == pytest.approx(frechet_distance(a, b), rel=1e-4)


def test_features_of_any_encoder(tmp_path: Path) -> None:
    real, fake = values(40, 7), values(30, 7, key="fake")
    (tmp_path / "shards").mkdir()
    save(tmp_path / "shards" / "0.npy", fake[:20].astype(np.float32))
    for index in range(20, 30):
        save(tmp_path / "shards" / f"{index}.npy", fake[index])
    output = tmp_path / "out"
    words = (save(tmp_path / "real.npy", real), str(tmp_path / "shards"), "bootstrap=0", "-o", str(output))
    assert run(*words, "--metrics", "[fd, kd_full]") == 0
    expected = frechet_distance(torch.from_numpy(real), torch.from_numpy(fake))
    assert scores(output / "scores.json")["fd_features"]["value"] == pytest.approx(expected, rel=1e-6)
    assert run(*words, "encoder_name=dinov2", "metrics=[fd]", "overwrite=true") == 0
    assert list(scores(output / "scores.json")) == ["fd_dinov2"]


def test_the_result_hangs_on_the_seed_alone(folders: dict[str, str], tmp_path: Path) -> None:
    def go(*more: str) -> dict[str, Any]:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        words = ("metrics=[kd,fd]", "subset_size=10", "bootstrap=4", "-o", str(output))
        assert run(folders["real"], folders["fake"], *words, *more) == 0
        return scores(output)

    assert go() == go()
    assert go()["kd_pixels"] != go("seed=1")["kd_pixels"]


def make_encoder(folder: Path) -> str:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with seeding.seeded("evaluate", "encoder"):
        network = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8))
    network.save_pretrained(folder)
    return str(folder)


def test_pictures_of_many_sizes_through_an_encoder(folders: dict[str, str], tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    larger = save_pictures(tmp_path / "larger", (255 * values(5, 20, 9, 3)).astype(np.uint8))
    for file in larger.iterdir():
        file.rename(Path(folders["fake"]) / f"larger_{file.name}")
    words = (folders["real"], folders["fake"], f"encoder={encoder}", "metrics=[fd,precision]", "bootstrap=0")
    found = []
    for place, setting in enumerate(("batch_size=7", "batch_size=1", "cache=CACHE", "cache=CACHE")):
        setting = setting.replace("CACHE", str(tmp_path / "cache"))
        output = tmp_path / f"{place}.json"
        assert run(*words, setting, "-o", str(output)) == 0
        found.append(scores(output))
    assert list(found[0]) == ["fd_vit", "precision_vit"]
    assert found[0]["fd_vit"]["sizes"] == {"real": 30, "fake": 35}
    for other in found[1:]:
        assert other["fd_vit"]["value"] == pytest.approx(found[0]["fd_vit"]["value"], rel=1e-3)
    assert any((tmp_path / "cache").rglob("*.safetensors"))


def test_unusable_pictures_are_named(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, fake = folders["real"], folders["fake"]
    (tmp_path / "empty").mkdir()
    one = save_pictures(tmp_path / "one", np.zeros((1, SIDE, SIDE), np.uint8))
    larger = save_pictures(tmp_path / "larger", np.zeros((3, SIDE, 9), np.uint8))
    broken = save_pictures(tmp_path / "broken", np.zeros((3, SIDE, SIDE), np.uint8))
    (broken / "001.png").write_bytes((broken / "001.png").read_bytes()[:40])
    bright = save(tmp_path / "bright.npy", 255 * values(5, SIDE, SIDE, 3))
    hole = save(tmp_path / "hole.npy", np.full((5, SIDE, SIDE, 3), np.nan))
    bands = save(tmp_path / "bands.npy", values(5, SIDE, SIDE, 7))
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    said = {
        "nowhere does not exist": (real, "nowhere"),
        "holds no picture": (real, str(tmp_path / "empty")),
        "holds a single item": (real, str(one)),
        f"{SIDE} x {SIDE} pixels but": (real, str(larger)),
        "001.png cannot be read": (real, str(broken)),
        "outside [0, 1]": (real, bright),
        "or NaN": (real, hole),
        "neither 1, 3 nor 4 channels": (real, bands),
        "text.txt is no": (real, str(text)),
        "matches no": (real, str(tmp_path / "*.bmp")),
        "two inputs, REAL and FAKE, not 1": (real,),
        "two inputs, REAL and FAKE, not 3": (real, fake, fake),
        "device=nonsense": (real, fake, "device=nonsense"),
        "nothing_like_this": (real, fake, "encoder=nothing_like_this"),
    }
    for expected, words in said.items():
        assert expected in refused(capsys, *words), expected


def test_unusable_arrays_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save(tmp_path / "good.npy", values(20, 5))
    holes = values(20, 5)
    holes[3, 2] = np.nan
    (tmp_path / "cut.npy").write_bytes(Path(good).read_bytes()[:90])
    np.savez(tmp_path / "two.npz", a=values(4, 5), b=values(4, 5))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    (tmp_path / "mixed").mkdir()
    save(tmp_path / "mixed" / "a.npy", values(4, 5))
    save(tmp_path / "mixed" / "b.npy", values(4, 5, 5, 3))
    (tmp_path / "uneven").mkdir()
    save(tmp_path / "uneven" / "a.npy", values(4, 5))
    save(tmp_path / "uneven" / "b.npy", values(4, 6))
    said = {
        "features of 1 of 20 items hold NaN": save(tmp_path / "holes.npy", holes),
        "5 features an item but": save(tmp_path / "wide.npy", values(20, 6)),
        "cut.npy cannot be read": str(tmp_path / "cut.npy"),
        "holds 2 arrays; give key= one of a, b": str(tmp_path / "two.npz"),
        "objects.npy cannot be read": str(tmp_path / "objects.npy"),
        "of <U1": save(tmp_path / "words.npy", np.array(["a", "b"])),
        "holds features but": save(tmp_path / "pictures.npy", values(20, 4, 4, 3)),
        "holds both features and pictures": str(tmp_path / "mixed"),
        "b.npy has 6 features": str(tmp_path / "uneven"),
        "a single item": save(tmp_path / "single.npy", values(1, 5)),
    }
    for expected, path in said.items():
        assert expected in refused(capsys, good, path), expected
    assert "no array 'c'" in refused(capsys, good, str(tmp_path / "two.npz"), "key=c")
    assert "4 items where 6 are needed" in refused(
        capsys, save(tmp_path / "few.npy", values(4, 5)), good, "metrics=[precision]"
    )


def test_settings_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save(tmp_path / "good.npy", values(30, 5))
    pair = (good, good)
    assert "did you mean 'precision'?" in refused(capsys, *pair, "metrics=[fd,precison]")
    assert "metrics is empty" in refused(capsys, *pair, "metrics=[]")
    assert "needs train and test" in refused(capsys, *pair, "metrics=[ct]")
    assert "needs test beside" in refused(capsys, *pair, "metrics=[authpct]", f"train={good}")
    assert "bootstrap=1" in refused(capsys, *pair, "bootstrap=1")
    assert "k" in refused(capsys, *pair, "k=0")
    output = tmp_path / "s.json"
    assert run(*pair, "metrics=[fd]", "-o", str(output)) == 0
    before = output.read_bytes()
    assert "exists already" in refused(capsys, *pair, "metrics=[kd]", "-o", str(output))
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_help_lists_the_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert "core" in installed()
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for name in METRICS:
        assert name in shown
