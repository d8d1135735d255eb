"""One view of every network: clean data, noise, score and velocity, whatever it predicts on whatever path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.paths import Path, Time

PredictionType = Literal["eps", "x0", "v", "velocity", "score"]
Model = Callable[..., Tensor]


class Denoiser:
    """A model together with its path and the meaning of its output.

    With p the output at x_t: `eps` is the noise, `x0` the data, `v` = alpha eps - sigma x0, `velocity` =
    alpha' x0 + sigma' eps, `score` = -eps / sigma. Every method evaluates the model once, in the type of
    `x_t`.

    Args:
        model: callable (x_t, t, **cond) -> tensor of x_t's shape. A time that is given as a number reaches it
            as a tensor (batch,) on x_t's device, whole numbers as int64, others in x_t's type (at least
            float32); a tensor reaches it as it is.
        path: the path on which the model was trained.
        prediction_type: what the model returns.

    Raises:
        ConfigError: unknown prediction type.
    """

    def __init__(self, model: Model, path: Path, prediction_type: PredictionType) -> None:
        if prediction_type not in get_args(PredictionType):
            known = ", ".join(get_args(PredictionType))
            raise ConfigError(f"unknown prediction type {prediction_type!r}", f"use one of {known}")
        self.model = model
        self.path = path
        self.prediction_type: PredictionType = prediction_type

    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """The model's own output, at least in float32."""
        output = self.model(x_t, times(t, x_t), **cond)
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        """The denoiser for one step of a sampler: itself, unless a guidance acts in some steps only.

        Samplers ask once a step, so that all evaluations of the step are guided alike.

        Args:
            t: time at the start of the step.
            index: of the step, from 0.
            count: number of steps.
        """
        return self

    def x0(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """Estimate of the clean data."""
        return to_x0(self.predict(x_t, t, **cond), x_t, t, self.path, self.prediction_type)

    def eps(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """Estimate of the noise."""
        return to_eps(self.predict(x_t, t, **cond), x_t, t, self.path, self.prediction_type)

    def both(self, x_t: Tensor, t: Time, **cond: Any) -> tuple[Tensor, Tensor]:
        """(x0, eps) from one evaluation."""
        output = self.predict(x_t, t, **cond)
        arguments = (output, x_t, t, self.path, self.prediction_type)
        return to_x0(*arguments), to_eps(*arguments)

    def v(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """The mixture alpha eps - sigma x0."""
        if self.prediction_type == "v":
            return self.predict(x_t, t, **cond)
        x0, eps = self.both(x_t, t, **cond)
        return target(x0, eps, t, self.path, "v")

    def score(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """Gradient of the log-density of x_t."""
        if self.prediction_type == "score":
            return self.predict(x_t, t, **cond)
        _, sigma = self.path.at(t, x_t)
        return -self.eps(x_t, t, **cond) / sigma

    def velocity(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """Rate of change dx/dt along the path."""
        if self.prediction_type == "velocity":
            return self.predict(x_t, t, **cond)
        x0, eps = self.both(x_t, t, **cond)
        return target(x0, eps, t, self.path, "velocity")


def times(t: Time, x_t: Tensor) -> Tensor:
    """A time as a network takes it: a tensor (batch,) on the device of `x_t`, made without copying to it."""
    if isinstance(t, Tensor):
        return t
    dtype = torch.int64 if isinstance(t, int) else torch.promote_types(x_t.dtype, torch.float32)
    return torch.full((x_t.shape[0],), t, dtype=dtype, device=x_t.device)


def target(x0: Tensor, eps: Tensor, t: Time, path: Path, kind: PredictionType) -> Tensor:
    """What a model of this kind should return for data `x0` and noise `eps` at time `t`."""
    match kind:
        case "x0":
            return x0
        case "eps":
            return eps
        case "velocity":
            d_alpha, d_sigma = path.derivative_at(t, x0)
            return d_alpha * x0 + d_sigma * eps
    alpha, sigma = path.at(t, x0)
    return alpha * eps - sigma * x0 if kind == "v" else -eps / sigma


def to_x0(output: Tensor, x_t: Tensor, t: Time, path: Path, kind: PredictionType) -> Tensor:
    """Clean data implied by an output of this kind."""
    if kind == "x0":
        return output
    alpha, sigma = path.at(t, x_t)
    match kind:
        case "eps":
            return (x_t - sigma * output) / alpha
        case "v":
            return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
        case "score":
            return (x_t + sigma**2 * output) / alpha
    d_alpha, d_sigma = path.derivative_at(t, x_t)
    return (sigma * output - d_sigma * x_t) / (d_alpha * sigma - alpha * d_sigma)


def to_eps(output: Tensor, x_t: Tensor, t: Time, path: Path, kind: PredictionType) -> Tensor:
    """Noise implied by an output of this kind."""
    if kind == "eps":
        return output
    alpha, sigma = path.at(t, x_t)
    match kind:
        case "x0":
            return (x_t - alpha * output) / sigma
        case "v":
            return (sigma * x_t + alpha * output) / (alpha**2 + sigma**2)
        case "score":
            return -sigma * output
    d_alpha, d_sigma = path.derivative_at(t, x_t)
    return (d_alpha * x_t - alpha * output) / (d_alpha * sigma - alpha * d_sigma)
