"""The weights in the package: there, small enough, and as good as their card says."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_suite.core.cli import main
from diffusion_suite.depth.alignment import Estimate, align
from diffusion_suite.depth.config import EvaluateConfig, PredictConfig
from diffusion_suite.depth.demo import samples
from diffusion_suite.depth.io.maps import resized
from diffusion_suite.depth.measure import measured, ramp
from diffusion_suite.depth.metrics import score
from diffusion_suite.depth.predictor import Predictor
from diffusion_suite.depth.sources import drawn_cases, network_guess

LARGEST = 16_000_000


@pytest.fixture(scope="module")
def starter() -> Predictor:
    return Predictor.load(PredictConfig(device="cpu"))


def test_files_are_small_and_have_a_card() -> None:
    folder = files("diffusion_suite.depth").joinpath("starter/depth_fm")
    sizes = {place.name: len(place.read_bytes()) for place in folder.iterdir()}
    assert {"README.md", "config.json"} <= sizes.keys()
    assert max(sizes.values()) <= LARGEST


def test_number_of_weights(starter: Predictor) -> None:
    assert 8e6 <= sum(tensor.numel() for tensor in starter.model.parameters()) <= 28e6


def test_photograph_with_true_depth(starter: Predictor) -> None:
    """scikit-image's motorcycle, which no training has seen."""
    photographs, truth = samples()
    valid = np.isfinite(truth)
    seen = starter.predict([photographs["motorcycle"]])[0]
    y = resized(seen.y, (truth.shape[1], truth.shape[0]))
    found = score(align(Estimate(y, "log_depth"), truth, valid, "affine").depth, truth, valid)
    assert found.abs_rel < 0.18
    assert found.delta1 > 0.68


def test_drawn_pictures_of_other_seeds(starter: Predictor, tmp_path: Path) -> None:
    """Better than a ramp by far, and unsure rather where it errs."""
    config = EvaluateConfig(drawn=12, device="cpu")
    rows = []
    for case in drawn_cases(config):
        guesses = {"starter": network_guess(case, starter, tmp_path), "ramp": ramp(case)}
        rows += measured(case, guesses, ["log_affine"])
    errors = {
        name: np.mean([row.as_dict()["abs_rel"] for row in rows if row.method == name])
        for name in ("starter", "ramp")
    }
    assert errors["starter"] < 0.7 * errors["ramp"]
    ranks = [row.as_dict()["rank_correlation"] for row in rows if row.method == "starter"]
    assert np.mean(ranks) > 0.1


def test_day_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No weights named, no network, a photograph."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    photographs, _ = samples()
    Image.fromarray(photographs["astronaut"]).save(tmp_path / "astronaut.jpg")
    monkeypatch.chdir(tmp_path)
    assert main(["depth", "predict", "astronaut.jpg"]) == 0, capsys.readouterr().err
    depth = np.load("depths/astronaut_depth.npy")
    assert depth.shape == (512, 512)
    assert np.isfinite(depth).all()
    assert depth.max() > depth.min()
