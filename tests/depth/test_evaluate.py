"""``depth evaluate``: maps or a network against pictures with depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairs_on_disk import parallel, room, sample, samples
from PIL import Image

from diffusion_suite.core.cli import main
from diffusion_suite.depth.alignment import Estimate, align
from diffusion_suite.depth.data import draw
from diffusion_suite.depth.measure import Case, ramp
from diffusion_suite.depth.metrics import score
from diffusion_suite.depth.normalise import log_depth

Run = Any


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command, which must succeed; gives the scores and what it printed."""

    def run(*words: object) -> tuple[dict[str, Any], str]:
        capsys.readouterr()
        code = main(["depth", "evaluate", *map(str, words), "-o", str(tmp_path / "out"), "overwrite=true"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads((tmp_path / "out" / "scores.json").read_text()), printed.out

    return run


def entry(scores: dict[str, Any], method: str, alignment: str) -> dict[str, Any]:
    (found,) = [e for e in scores["mean"] if (e["method"], e["alignment"]) == (method, alignment)]
    return found


def predicted(folder: Path, count: int = 2) -> Path:
    folder.mkdir()
    for number in range(count):
        np.save(folder / f"s{number}_log_depth.npy", (np.log(room(seed=number)) / 0.7 - 2).astype(np.float32))
    return folder


def test_maps_that_are_right_up_to_a_line_in_log_depth(evaluate: Run, tmp_path: Path) -> None:
    maps = predicted(tmp_path / "maps")
    scores, printed = evaluate(samples(tmp_path / "set"), f"predictions={maps}")
    right, published = (entry(scores, "predictions", name) for name in ("log_affine", "affine"))
    assert right["abs_rel"] < 1e-3
    assert right["delta1"] == 1
    assert right["boundary_f1"] > 0.9
    assert published["abs_rel"] > 5 * right["abs_rel"]
    assert entry(scores, "ramp", "affine")["abs_rel"] > 0.1
    assert len(scores["pictures"]) == 2 * 2 * 2
    assert right["pictures"] == 2
    for word in ("AbsRel", "δ1", "s0", "mean of 2", "ramp"):
        assert word in printed
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures.png"))
    assert picture.std() > 10
    assert not (tmp_path / "out" / "sparsification.png").exists()


def test_mean_is_over_pictures_not_pixels(evaluate: Run, tmp_path: Path) -> None:
    sample(tmp_path / "set" / "s0", 0)
    sample(tmp_path / "set" / "s1", 1, size=(80, 112))
    maps = tmp_path / "maps"
    maps.mkdir()
    for number, (size, factor) in enumerate((((40, 56), 1.1), ((80, 112), 1.3))):
        np.save(maps / f"s{number}.npy", factor * room(*size, number))
    scores, _ = evaluate(tmp_path / "set", f"predictions={maps}", "alignments=[none]", "kind=depth")
    assert entry(scores, "predictions", "none")["abs_rel"] == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("ending", ["_depth.npy", ".tif", "_depth.png", ".png"])
def test_relative_maps_of_any_format_and_place(evaluate: Run, tmp_path: Path, ending: str) -> None:
    import tifffile

    folder = tmp_path / "maps" / "s0"
    folder.mkdir(parents=True)
    depth = room()
    relative = ((depth - depth.min()) / np.ptp(depth)).astype(np.float32)
    path = folder / f"rgb{ending}"
    if ending.endswith("npy"):
        np.save(path, relative)
    elif ending.endswith("tif"):
        tifffile.imwrite(path, relative)
    else:
        Image.fromarray((relative * 65535).round().astype(np.uint16)).save(path)
    scores, _ = evaluate(samples(tmp_path / "set", 1), f"predictions={tmp_path / 'maps'}")
    assert entry(scores, "predictions", "affine")["abs_rel"] < 1e-3


def test_pictures_with_a_folder_of_maps(evaluate: Run, tmp_path: Path) -> None:
    parallel(tmp_path)
    words = (f"reference={tmp_path / 'depth'}", f"predictions={made(tmp_path)}")
    scores, _ = evaluate(tmp_path / "rgb", *words, "alignments=[scale]", "limit=1", "kind=depth")
    assert entry(scores, "predictions", "scale")["abs_rel"] < 1e-3
    assert entry(scores, "predictions", "scale")["pictures"] == 1


def made(folder: Path) -> Path:
    (folder / "made").mkdir()
    for seed, name in enumerate("ab"):
        np.save(folder / "made" / f"{name}.npy", room(seed=seed) / 7)
    return folder / "made"


def test_disparities_are_fitted_as_disparities(evaluate: Run, tmp_path: Path) -> None:
    sample(tmp_path / "set" / "s0", kind="disparity_px", scale=100)
    maps = tmp_path / "maps"
    maps.mkdir()
    np.save(maps / "s0_log_depth.npy", np.log(room()).astype(np.float32))
    scores, _ = evaluate(tmp_path / "set", f"predictions={maps}")
    assert {e["alignment"] for e in scores["mean"]} == {"disparity"}
    found = entry(scores, "predictions", "disparity")
    assert found["abs_rel"] < 2e-3
    assert "rmse" not in found
    assert scores["pictures"][0]["rmse"] is None


def test_network_with_uncertainty_steps_and_repeats(evaluate: Run, tmp_path: Path, network: Path) -> None:
    folder = samples(tmp_path / "set", 1)
    words = (folder, f"weights={network}", "members=2", "more_steps=[1]", "repeats=2", "alignments=[affine]")
    scores, _ = evaluate(*words)
    methods = [e["method"] for e in scores["mean"]]
    assert methods == ["2 steps", "2 steps, run 2", "1 step", "1 step, run 2", "ramp"]
    found = entry(scores, "2 steps", "affine")
    assert found["abs_rel_deviation"] > 0
    assert -1 <= found["rank_correlation"] <= 1
    assert found["ause"] >= 0
    assert found["seconds"] > 0
    assert (tmp_path / "out" / "sparsification.png").stat().st_size > 1000
    again, _ = evaluate(*words)
    assert entry(again, "2 steps", "affine")["abs_rel"] == found["abs_rel"]


def test_drawn_pictures(evaluate: Run, network: Path, tmp_path: Path) -> None:
    words = ("drawn=3", "side=32", f"weights={network}", "members=1", "steps=1", "pictures=false")
    scores, printed = evaluate(*words)
    assert entry(scores, "1 step", "affine")["pictures"] <= 3
    assert entry(scores, "1 step", "affine")["boundary_f1"] >= 0
    assert "drawn_0000" in printed
    assert not (tmp_path / "out" / "pictures.png").exists()


def test_protocol_cuts_crops_and_limits(evaluate: Run, tmp_path: Path) -> None:
    folder = sample(tmp_path / "set" / "s0", size=(480, 640), holes=False)
    depth = room(480, 640)
    wrong = depth.copy()
    wrong[:45] = wrong[471:] = 9.0
    np.save(tmp_path / "s0.npy", wrong)
    words = (folder, f"predictions={tmp_path}", "alignments=[none]", "kind=depth")
    assert entry(evaluate(*words, "protocol=nyu")[0], "predictions", "none")["abs_rel"] < 1e-3
    assert entry(evaluate(*words)[0], "predictions", "none")["abs_rel"] > 0.1
    sparse, _ = evaluate(*words, "protocol=nyu", "lidar=16")
    assert "boundary_f1" not in sparse["pictures"][0]
    assert entry(sparse, "predictions", "none")["abs_rel"] < 1e-3
    near, _ = evaluate(*words, "protocol=nyu", "farthest=2")
    assert near["pictures"][0]["rmse"] < 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no input is given"),
        (("SET", "predictions=EMPTY"), "holds no prediction of s0"),
        (("EMPTY",), "holds no picture with depth"),
        (("SET", "predictions=SET", "more_steps=[1]"), "drop drawn, more_steps"),
        (("SET", "predictions=MAPS", "nearest=50"), "no pixel to measure"),
        (("SET", "predictions=MAPS", "protocol=nyu"), "40 x 56 under a protocol for 480 x 640"),
        (("SET", "alignments=[median]"), "median"),
        (("SET", "protocol=sintel"), "sintel"),
        (("SET", "SET", "predictions=MAPS"), "several pictures are called s0"),
    ],
)
def test_unusable_requests_are_one_line(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "SET": str(samples(tmp_path / "set")),
        "EMPTY": str(tmp_path / "empty"),
        "MAPS": str(predicted(tmp_path / "maps")),
    }
    for name, place in places.items():
        words = tuple(word.replace(name, place) for word in words)
    assert main(["depth", "evaluate", *words, "-o", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert not (tmp_path / "out" / "scores.json").exists()


def test_scores_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, maps = samples(tmp_path / "set"), predicted(tmp_path / "maps")
    words = ["depth", "evaluate", str(folder), f"predictions={maps}", "-o", str(tmp_path), "pictures=false"]
    assert main(words) == 0
    assert main(words) == 2
    assert "overwrite=true" in capsys.readouterr().err


def test_perfect_network_with_the_published_range_is_exact_only_in_log_depth() -> None:
    """Section 5.10: y spans [-1, 1] whatever the scene; the truth is that of drawn scenes."""
    errors: dict[str, list[float]] = {"affine": [], "log_affine": []}
    _, depths = draw(5, range(8), 48)
    for depth in depths:
        inside = depth.isfinite() & (depth < 80)
        y = log_depth(depth.where(inside, 0.0)[None])[0, 0].numpy()
        truth, valid = depth[0].numpy().astype(np.float64), inside[0].numpy()
        if not valid.any():
            continue
        for name, found in errors.items():
            made = align(Estimate(y, "log_depth"), truth, valid, name, (1e-3, 80.0))  # type: ignore[arg-type]
            found.append(score(made.depth, truth, valid).abs_rel)
    assert len(errors["affine"]) >= 6
    assert np.mean(errors["log_affine"]) <= 0.01
    assert np.mean(errors["affine"]) > 3 * np.mean(errors["log_affine"])


def test_ramp_is_far_at_the_top() -> None:
    case = Case(
        "a", np.zeros((5, 4, 3), np.uint8), np.ones((5, 4), np.float32), np.ones((5, 4), bool), (0, 9)
    )
    values = ramp(case).estimate.values
    assert values[:, 0].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert (values == values[:, :1]).all()
