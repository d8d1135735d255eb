"""The training objective: one line of a domain's training step.

loss = denoising_loss(denoiser, x0, t, generator, MinSNR(5.0), class_labels=labels)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion_suite.core.schedulers.denoiser import Denoiser, PredictionType, target
from diffusion_suite.core.schedulers.noise import Noise, standard_normal
from diffusion_suite.core.schedulers.paths import Path, Time
from diffusion_suite.core.schedulers.weights import Weight, check_prediction, on_prediction


def denoising_errors(
    denoiser: Denoiser,
    x0: Tensor,
    t: Time,
    noise: Noise,
    weight: Weight | None = None,
    *,
    where: Tensor | None = None,
    **cond: Any,
) -> Tensor:
    """Weighted mean squared error of each item in what the network predicts.

    Args:
        denoiser: the network on its path.
        x0: clean data (batch, ...).
        t: times (batch,), or one for all; see `training_times.py`.
        noise: generator(s), or the noise itself in the shape of `x0`.
        weight: a weight on the x0 error, see `weights.py`; None leaves the network's own error unweighted.
        where: which values count, of a shape that broadcasts to that of `x0`; at least one an item.
        cond: conditions for the model.

    Returns:
        (batch,), at least float32.

    Raises:
        ConfigError: the network predicts `eps` or `score` on a table with zero terminal SNR.
    """
    eps = standard_normal(noise, x0)
    kind, path = denoiser.prediction_type, denoiser.path
    predicted = denoiser.predict(path.add_noise(x0, eps, t), t, **cond)
    return prediction_errors(predicted, target(x0, eps, t, path, kind), t, path, kind, weight, where)


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: Time,
    noise: Noise,
    weight: Weight | None = None,
    *,
    where: Tensor | None = None,
    **cond: Any,
) -> Tensor:
    """Mean of `denoising_errors` over the batch."""
    return denoising_errors(denoiser, x0, t, noise, weight, where=where, **cond).mean()


def prediction_errors(
    predicted: Tensor,
    wanted: Tensor,
    t: Time,
    path: Path,
    kind: PredictionType,
    weight: Weight | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """Weighted mean squared error of each item between predictions of one kind, as `denoising_errors`."""
    check_prediction(path, kind)
    errors = (predicted - wanted).square().flatten(1)
    if where is None:
        losses = errors.mean(1)
    else:
        counted = where.to(errors.dtype).expand(predicted.shape).flatten(1)
        losses = (errors * counted).sum(1) / counted.sum(1)
    if weight is None:
        return losses
    return losses * on_prediction(weight, t, path, kind).to(losses.device, losses.dtype)
