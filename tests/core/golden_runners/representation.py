"""Recorded cases of the representation room: alignment losses, and the classifier made of a denoiser."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core.representation import (
    Decay,
    classify,
    contrastive_loss,
    masked_losses,
    repa_loss,
    sra_loss,
    teacher_times,
)
from diffusion_suite.core.schedulers import Denoiser, DiscreteVP, RectifiedFlow, prediction_errors, target
from diffusion_suite.core.testing import Case

DISTANCES = {"cos_tokens": "cosine", "sml1": "smooth_l1", "l1": "l1", "l2": "l2"}
SIZES = {"base": 1.0, "large": 3.0, "xlarge": 6.0}


def close(found: Tensor, expected: Tensor, case: Case, dtype: torch.dtype) -> None:
    tolerance = case.config["tolerance"]
    bound = tolerance["float64"] if dtype == torch.float64 else tolerance.get("float32", 1e-4)
    assert_close(found.double().reshape(expected.shape), expected, rtol=0.0, atol=bound)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def losses(case: Case, dtype: torch.dtype) -> None:
    given = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in case.tensors.items()
    }

    def check(name: str, found: Tensor) -> None:
        checked.add(name)
        close(found, case.tensors[name], case, dtype)

    checked: set[str] = set()
    student = given["student"].clone().requires_grad_()
    alignment = repa_loss(student, given["target"])
    check("repa.alignment", alignment.detach())
    check("repa.alignment_grad", torch.autograd.grad(alignment, student)[0])
    images, noise, t = given["images"], given["noise"], given["t"]
    wanted = target(images, noise, t, RectifiedFlow(), "velocity")
    errors = prediction_errors(given["prediction"], wanted, t, RectifiedFlow(), "velocity")
    check("repa.denoising_loss", errors)

    for name, distance in DISTANCES.items():
        if f"sra.{name}" in given:
            check(f"sra.{name}", sra_loss(given["sra.student"], given["sra.teacher"], distance))  # type: ignore[arg-type]
    _, warmup, *_ = erw = numbers(case.config["config"]["erw"].partition("/")[2])
    for size, first in SIZES.items():
        name = f"erw.coefficient.{size}"
        if name in given:
            decay = Decay(first, warmup=int(warmup), half=erw[0])
            check(name, torch.tensor([decay(int(step)) for step in given["erw.steps"]]))
    masked = masked_losses(given["umd.pred_x0"], given["umd.pred_eps"], images, noise, given["umd.mask"])
    for part in ("eps", "x0", "noisy", "clean"):
        check(f"umd.{part}_loss", getattr(masked, part))
    for name in given:
        if name.startswith("sra.teacher_t.tmax"):
            check(name, teacher_times(t, given["sra.u"], float(name.removeprefix("sra.teacher_t.tmax"))))
        if name.startswith("nce.symmetric.tau"):
            temperature = float(name.removeprefix("nce.symmetric.tau"))
            check(name, contrastive_loss(given["nce.a"], given["nce.b"], temperature))
    inputs = {"student", "target", "images", "noise", "prediction", "t", "erw.steps", "nce.a", "nce.b"}
    inputs |= {"sra.student", "sra.teacher", "sra.u", "umd.mask", "umd.pred_eps", "umd.pred_x0"}
    assert checked == set(given) - inputs


def classifier(case: Case, dtype: torch.dtype) -> None:
    config: dict[str, Any] = case.config["config"]
    recorded = case.tensors
    table, means = recorded["alphas_cumprod"], recorded["class_means"].to(dtype)
    before = torch.cat([torch.ones(1, dtype=table.dtype), table[:-1]])
    path = DiscreteVP(1.0 - table / before)

    def model(x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """The noise of an isotropic Gaussian around the mean of a class."""
        alpha, sigma = path.at(t, x_t)
        gain = sigma / (alpha**2 * config["class_variance"] + sigma**2)
        return gain * (x_t - alpha * means[label])

    found = classify(
        Denoiser(model, path, "eps"),
        recorded["x0"].to(dtype)[None],
        torch.arange(len(means)),
        noise=recorded["noise"].to(dtype)[:, None],
        budgets=config["n_samples"],
        keep=config["to_keep"],
        trials=config["n_trials"],
        error=config["loss"],
    )
    assert int(found.labels) == int(recorded["predicted"])
    for label in range(len(means)):
        evaluated = found.errors[0, label].isfinite()
        assert torch.equal(found.times[evaluated].long(), recorded[f"class{label}.t"])
        close(found.errors[0, label][evaluated], recorded[f"class{label}.errors"], case, dtype)
    assert found.scores.shape == (1, len(means))


RUNNERS = {"representation_losses": losses, "diffusion_classifier": classifier}
