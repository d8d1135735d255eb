"""Recorded cases of the evaluation: alignment, metrics, boundary scores, normalisations."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core.testing import Case
from diffusion_suite.depth.alignment import Estimate, align
from diffusion_suite.depth.boundaries import boundaries, boundary_f1, boundary_recall
from diffusion_suite.depth.metrics import score
from diffusion_suite.depth.normalise import between_quantiles, log_depth

NAMES = {
    "abs_relative_difference": "abs_rel",
    "squared_relative_difference": "sq_rel",
    "rmse_linear": "rmse",
    "rmse_log": "rmse_log",
    "log10": "log10",
    "delta1_acc": "delta1",
    "delta2_acc": "delta2",
    "delta3_acc": "delta3",
    "i_rmse": "i_rmse",
    "silog_rmse": "silog",
}
TENSORS = {
    "aligned", "alpha", "disparity_aligned_depth", "gt", "inverse_pred", "linear_norm_2_98", "log_norm_2_98",
    "pred", "scale", "shift", "valid",
}  # fmt: skip


def evaluation(case: Case) -> None:
    assert case.tensors.keys() <= TENSORS
    given = {name: tensor.numpy() for name, tensor in case.tensors.items()}
    truth, valid, tolerance = given["gt"], given["valid"] > 0, case.config["tolerance"]
    bounds = (case.config["config"]["min_depth"], case.config["config"]["max_depth"])
    relative = float(tolerance["metrics"].split()[0])

    found = align(Estimate(given["pred"]), truth, valid, "affine", bounds)
    assert found.scale == pytest.approx(float(given["scale"].item()), rel=relative)
    assert found.shift == pytest.approx(float(given["shift"].item()), rel=relative)
    np.testing.assert_allclose(found.depth, given["aligned"], rtol=0, atol=tolerance["aligned"])
    inverse = align(Estimate(given["inverse_pred"], "disparity"), truth, valid, "disparity", bounds)
    np.testing.assert_allclose(inverse.depth, given["disparity_aligned_depth"], rtol=relative, atol=0)

    figures = {"": score(found.depth, truth, valid), "disparity_aligned.": score(inverse.depth, truth, valid)}
    for name, expected in case.config["metrics"].items():
        prefix, _, last = name.rpartition(".")
        made = getattr(figures[f"{prefix}." if prefix else ""], NAMES[last])
        assert made == pytest.approx(expected, rel=relative), name
    for name, expected in case.config["boundary"].items():
        made = boundary(name, given["aligned"], truth, given.get("alpha"))
        assert made == pytest.approx(expected, abs=float(tolerance["boundary"].split()[0])), name
    normalisations(case)


def boundary(name: str, aligned: np.ndarray, truth: np.ndarray, matte: np.ndarray | None) -> float:
    maps = {"aligned": aligned, "gt": truth}
    if called := re.fullmatch(r"SI_boundary_F1\((\w+), (\w+)\)", name):
        return boundary_f1(maps[called[1]], maps[called[2]])
    if called := re.fullmatch(r"SI_boundary_Recall\((\w+), alpha\)", name):
        assert matte is not None
        return boundary_recall(maps[called[1]], matte)
    part, threshold = name.split("@")
    return float(getattr(boundaries(aligned, truth, float(threshold)), part))


def normalisations(case: Case) -> None:
    truth, valid = case.tensors["gt"][None, None], case.tensors["valid"][None, None] > 0
    linear = between_quantiles(truth, valid).clamp(-1, 1)[0, 0]
    inside = valid[0, 0]
    assert_close(linear[inside], case.tensors["linear_norm_2_98"][inside], rtol=0, atol=1e-5)
    logs = log_depth(torch.where(valid, truth, 0.0))[0, 0]
    assert_close(logs[inside], case.tensors["log_norm_2_98"][inside], rtol=0, atol=1e-5)


RUNNERS = {"evaluation": evaluation}
