r"""Two steps in one: a student of N steps learns from a teacher of 2N (Salimans, Ho 2022).

From z_t the teacher makes two DDIM steps, to z'' at t''. The clean data that take one DDIM step to the same
place are

.. math:: \tilde x = \frac{z'' - (\sigma''/\sigma_t) z_t}{\alpha'' - (\sigma''/\sigma_t) \alpha_t}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.distillation.guidance import TRUNCATED
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import Denoiser, Path, PredictionType, Time, Weight, prediction_errors
from diffusion_suite.core.schedulers import target as prediction_of
from diffusion_suite.core.schedulers.paths import as_time, per_item


def ddim_step(denoiser: Denoiser, z: Tensor, t: Time, s: Time, **cond: Any) -> Tensor:
    """One deterministic DDIM step from time t to s, each one or (batch,): alpha_s x0 + sigma_s eps."""
    x0, eps = denoiser.both(z, t, **cond)
    alpha, sigma = denoiser.path.at(s, z)
    return alpha * x0 + sigma * eps


def two_step_target(
    teacher: Denoiser, z: Tensor, t: Time, middle: Time, end: Time, **cond: Any
) -> tuple[Tensor, Tensor]:
    """The data that take one DDIM step from t to `end` where the teacher gets in two.

    Args:
        teacher: the denoiser that makes the two steps.
        z: states at t, (batch, ...).
        t: time, one or (batch,).
        middle: where the teacher's first step ends.
        end: where its second ends; the clean end will do.
        **cond: conditions.

    Returns:
        The target for x0, and the state z'' at `end`.
    """
    arrived = ddim_step(teacher, ddim_step(teacher, z, t, middle, **cond), middle, end, **cond)
    path = teacher.path
    ratio = path.sigma(end) / path.sigma(t)
    share = path.alpha(end) - ratio * path.alpha(t)
    return (arrived - per_item(ratio, z) * z) / per_item(share, z), arrived


def as_prediction(x0: Tensor, z: Tensor, t: Time, path: Path, kind: PredictionType) -> Tensor:
    """What a model of this kind says at z when it means the data x0; t away from the clean end."""
    if kind == "x0":
        return x0
    alpha, sigma = path.at(t, z)
    return prediction_of(x0, (z - alpha * x0) / sigma, t, path, kind)


def progressive_loss(
    student: Denoiser,
    teacher: Denoiser,
    z: Tensor,
    times: Sequence[Tensor],
    *,
    weight: Weight = TRUNCATED,
    **cond: Any,
) -> Tensor:
    """Mean weighted squared error of one student step against two teacher steps.

    Args:
        student: the denoiser that is trained.
        teacher: the frozen one, on the same path.
        z: noisy data at the first of the times, (batch, ...).
        times: start, middle and end of the step, each (batch,).
        weight: on the squared error of x0; max(SNR, 1) by default.
        **cond: conditions for both.

    Returns:
        A scalar.
    """
    t, middle, end = times
    path, kind = student.path, student.prediction_type
    with torch.no_grad():
        x0, _ = two_step_target(teacher, z, t, middle, end, **cond)
        wanted = as_prediction(x0, z, t, path, kind)
    return prediction_errors(student.predict(z, t, **cond), wanted, t, path, kind, weight).mean()


def check_start(path: Path, kind: PredictionType, start: Time) -> None:
    """Refuse a network that says nothing of the data where sampling starts.

    Raises:
        ConfigError: `eps` or `score` at a time without data (alpha = 0): x0 is 0/0 there.
    """
    if kind in ("eps", "score") and float(path.alpha(as_time(start))) <= 1e-9:
        raise ConfigError(
            f"a network that predicts {kind} cannot be distilled from time {start}, which holds no data",
            "distil one that predicts v, velocity or x0, or start at an earlier time",
        )
