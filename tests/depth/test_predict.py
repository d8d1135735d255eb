"""``depth predict`` on pictures: outputs at the picture's own size, alone or in batches, small or large."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pictures_on_disk import drawn, write
from PIL import Image

from diffusion_suite.core.cli import main
from diffusion_suite.depth.config import PredictConfig
from diffusion_suite.depth.io.maps import read_map
from diffusion_suite.depth.load import load_network
from diffusion_suite.depth.outputs import ENDINGS
from diffusion_suite.depth.predictor import Predictor, processing_size

FAST = ("steps=1", "members=2")
Predict = Any


@pytest.fixture
def predict(network: Path, capsys: pytest.CaptureFixture[str]) -> Predict:
    """Runs the command, which must succeed; gives what it said."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = main(["depth", "predict", f"weights={network}", *FAST, *map(str, words)])
        said = capsys.readouterr().err
        assert code == 0, said
        return said

    return run


def facts(folder: Path, stem: str = "a") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{stem}_depth.json").read_text())
    return found


def test_every_output_has_the_size_of_the_picture(predict: Predict, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", drawn(45, 61), quality=95)
    predict(path, "-o", tmp_path, "outputs=[npy,tiff,png16,color,grey8,log_depth,normals,points]")
    depth = np.load(tmp_path / "a_depth.npy")
    assert depth.shape == (45, 61)
    assert depth.dtype == np.float32
    assert 0 <= depth.min() < depth.max() <= 1
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a_depth.tif"), depth)
    png = np.asarray(Image.open(tmp_path / "a_depth.png"))
    assert png.dtype == np.uint16
    np.testing.assert_allclose(png / 65535, depth, atol=1e-5)
    for kind in ("color", "uncertainty_picture", "normals_picture", "grey8"):
        assert Image.open(tmp_path / f"a{ENDINGS[kind]}").size == (61, 45)
    assert np.load(tmp_path / "a_normals.npy").shape == (45, 61, 3)
    spread = np.load(tmp_path / "a_uncertainty.npy")
    assert spread.shape == (45, 61)
    assert (spread > 0).any()
    log_depth = np.load(tmp_path / "a_log_depth.npy")
    order = np.argsort(log_depth, axis=None)
    assert (np.diff(depth.ravel()[order]) >= -1e-6).all()
    assert b"element vertex 2745\n" in (tmp_path / "a_points.ply").read_bytes()[:200]
    told = facts(tmp_path)
    assert (told["depth"], told["width"], told["height"]) == ("relative", 61, 45)
    assert told["focal"]["source"] == "assumed"
    (entry,) = map(json.loads, (tmp_path / "manifest.jsonl").read_text().splitlines())
    assert {path.name for path in tmp_path.iterdir()} == {*entry["files"], "a.jpg", "manifest.jsonl"}


@pytest.mark.parametrize("size", [(30, 20), (1, 1), (3, 200), (64, 64), (101, 150)])
def test_sizes(predict: Predict, tmp_path: Path, size: tuple[int, int]) -> None:
    predict(write(tmp_path / "a.png", drawn(size[1], size[0])), "-o", tmp_path)
    depth = np.load(tmp_path / "a_depth.npy")
    assert depth.shape == (size[1], size[0])
    assert np.isfinite(depth).all()


def test_a_flat_picture_gives_numbers(predict: Predict, tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.full((40, 50, 3), 128, np.uint8))
    predict(tmp_path / "a.png", "-o", tmp_path, "outputs=[npy,png16,color,grey8,normals,points]")
    assert np.isfinite(np.load(tmp_path / "a_depth.npy")).all()


def test_batches_give_what_one_by_one_gives(predict: Predict, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(5):
        write(folder / f"{seed}.png", drawn(40, 56 if seed < 4 else 40, seed))
    predict(folder, "-o", tmp_path / "together", "batch_size=3")
    predict(folder, "-o", tmp_path / "alone", "batch_size=1")
    for seed in range(5):
        for kind in ("npy", "uncertainty"):
            one, other = (np.load(tmp_path / n / f"{seed}{ENDINGS[kind]}") for n in ("together", "alone"))
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert not np.array_equal(
        np.load(tmp_path / "alone/0_depth.npy"), np.load(tmp_path / "alone/1_depth.npy")
    )


def test_the_seed_decides(predict: Predict, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        predict(tmp_path / "a.png", "-o", tmp_path / name, f"seed={seed}")
    one, same, other = (np.load(tmp_path / n / "a_depth.npy") for n in ("one", "same", "other"))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_orientation_turns_the_result(predict: Predict, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "turned.png", np.ascontiguousarray(np.rot90(drawn(40, 56))), exif=exif)
    write(tmp_path / "upright.png", drawn(40, 56))
    predict(tmp_path / "turned.png", tmp_path / "upright.png", "-o", tmp_path)
    one, other = (np.load(tmp_path / f"{name}_depth.npy") for name in ("turned", "upright"))
    assert one.shape == (40, 56)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_one_output_file(predict: Predict, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    for name in ("one.npy", "two.tif", "three.png", "four.ply"):
        predict(path, "-o", tmp_path / name)
        assert (tmp_path / name).is_file()
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), tifffile.imread(tmp_path / "two.tif"))
    entry = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[1])
    assert entry["output"] == "two.tif"


def test_own_results_are_no_inputs(predict: Predict, tmp_path: Path) -> None:
    """A folder that holds its own results is predicted once."""
    write(tmp_path / "a.png")
    predict(tmp_path, "-o", tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert "done before" in predict(tmp_path, "-o", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_metric_depth_from_a_few_points(predict: Predict, tmp_path: Path) -> None:
    """Known depths that are a line of the network's own log-depth come back as they are."""
    path = write(tmp_path / "a.png")
    predict(path, "-o", tmp_path, "outputs=[log_depth]")
    y = np.load(tmp_path / "a_log_depth.npy")
    rows, columns = np.divmod(np.arange(0, y.size, 37), y.shape[1])
    true = np.exp(1.5 * y + 0.4)
    lines = [f"{c},{r},{true[r, c]}" for r, c in zip(rows, columns, strict=True)]
    (tmp_path / "known.csv").write_text("x,y,depth\n" + "\n".join(lines))
    predict(path, "-o", tmp_path / "out", f"known={tmp_path / 'known.csv'}")
    np.testing.assert_allclose(np.load(tmp_path / "out/a_depth.npy"), true, rtol=1e-2)
    told = facts(tmp_path / "out")
    assert told["depth"] == "metric"
    assert told["fit"]["known_depths"] == len(rows)
    assert told["fit"]["slope"] == pytest.approx(1.5, abs=0.01)
    np.testing.assert_allclose(read_map(tmp_path / "out/a_depth.png"), true, rtol=1e-2, atol=0.001)


def test_completion_from_a_map(predict: Predict, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    sparse = np.zeros((40, 56), np.uint16)
    sparse[::4, ::4] = 1000 + 50 * np.arange(14, dtype=np.uint16)
    known = tmp_path / "known"
    known.mkdir()
    write(known / "a.png", sparse)
    predict(path, "-o", tmp_path / "fit", f"known={known}")
    predict(path, "-o", tmp_path / "completed", f"known={known}", "completion=true")
    truth = sparse[::4, ::4] / 1000
    errors = [
        np.abs(np.load(tmp_path / n / "a_depth.npy")[::4, ::4] - truth).mean() for n in ("fit", "completed")
    ]
    assert errors[1] < 0.2 * errors[0]
    assert facts(tmp_path / "completed")["completed"] is True


def test_near_and_far_make_metres(predict: Predict, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    predict(path, "-o", tmp_path, "near=1", "far=9", "outputs=[npy,log_depth]")
    y, depth = np.load(tmp_path / "a_log_depth.npy"), np.load(tmp_path / "a_depth.npy")
    np.testing.assert_allclose(depth, 3 ** (y + 1), rtol=1e-4)


def test_log_affine_keeps_exp_y(predict: Predict, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    predict(path, "-o", tmp_path, "alignment=log_affine", "outputs=[npy,log_depth,png16]")
    y, depth = np.load(tmp_path / "a_log_depth.npy"), np.load(tmp_path / "a_depth.npy")
    np.testing.assert_allclose(depth, np.exp(y), rtol=1e-5)
    step = float(facts(tmp_path)["png16"].split()[2])
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "a_depth.png")) * step, depth, atol=step)


def test_large_pictures_go_in_windows(predict: Predict, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", drawn(150, 200))
    said = predict(path, "-o", tmp_path, "resolution=0", "outputs=[npy,log_depth]")
    assert "relative" in said
    assert facts(tmp_path)["predicted_at"] == [200, 152]
    y = np.load(tmp_path / "a_log_depth.npy")
    assert y.shape == (150, 200)
    assert np.isfinite(y).all()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_24_megapixels_in_bounded_memory(network: Path, tmp_path: Path) -> None:
    """Arrays of Python and NumPy stay below 800 MB, 34 bytes a pixel, whatever goes through the network."""
    path = write(tmp_path / "a.jpg", np.kron(drawn(400, 600), np.ones((10, 10, 1), np.uint8)))
    words = [f"weights={network}", *FAST, "resolution=1500", "window=512", "-o", str(tmp_path)]
    tracemalloc.start()
    assert main(["depth", "predict", str(path), *words]) == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.load(tmp_path / "a_depth.npy", mmap_mode="r").shape == (4000, 6000)
    assert peak < 800e6


@pytest.mark.parametrize(
    ("size", "resolution", "multiple", "found"),
    [
        ((150, 101), 0, 64, (128, 128)),
        ((150, 101), 300, 64, (320, 192)),
        ((640, 480), 256, 8, (256, 192)),
        ((96, 96), 0, 64, (128, 128)),
        ((160, 160), 0, 64, (128, 128)),
        ((3, 2000), 256, 8, (8, 256)),
    ],
)
def test_processing_sizes(
    size: tuple[int, int], resolution: int, multiple: int, found: tuple[int, int]
) -> None:
    """Truncated, then to the nearest multiple, ties to even; never 0."""
    assert processing_size(size, resolution, multiple) == found


def test_speed_options_change_little(network: Path) -> None:
    pictures = [drawn(seed=seed) for seed in range(2)]
    settings = {"plain": {}, "fast": {"channels_last": True, "precision": "bf16"}}
    seen = {
        name: Predictor(load_network(str(network)), PredictConfig(device="cpu", members=2, **given)).predict(
            pictures
        )
        for name, given in settings.items()
    }
    for one, other in zip(seen["plain"], seen["fast"], strict=True):
        np.testing.assert_allclose(one.y, other.y, atol=0.1)


def test_pictures_that_do_not_fit_together(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is too large is halved, with the same result."""
    import torch

    predictor = Predictor(load_network(str(network)), PredictConfig(device="cpu", members=1))
    pictures = [drawn(seed=seed) for seed in range(3)]
    whole = predictor.predict(pictures)
    inner = predictor.model.predict

    def small(batch: torch.Tensor, **how: Any) -> Any:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("too large")
        return inner(batch, **how)

    monkeypatch.setattr(predictor.model, "predict", small)
    for one, other in zip(predictor.predict(pictures), whole, strict=True):
        np.testing.assert_allclose(one.y, other.y, atol=1e-5)
