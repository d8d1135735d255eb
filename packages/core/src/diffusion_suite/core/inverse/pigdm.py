"""Pseudo-inverse guidance: posterior samples for any linear operator, by any sampler (Song et al. 2023).

Given the state x_t, the clean image is taken to be Gaussian around the prediction x0 with a covariance C, so
the data are too, and their likelihood has the score

    g = J^T A^T (A C A^T + sigma_y^2 I)^-1 (y - A x0),   J = dx0/dx_t

which `guidance.ScoreGuided` adds to the denoiser. What is taken for C decides how good the samples are:

- `isotropic`: sigma^2/(alpha^2 + sigma^2) I, the published choice. Exact for N(0, I) only; where pixels
  depend on each other it trusts the prediction too little, and the samples spread too widely.
- `denoiser`: the covariance that the denoiser itself implies, C = sigma^2/alpha J (Tweedie's formula of
  second order; Boys et al. 2023, Rozet et al. 2024). Exact for every Gaussian. A product with C costs one
  vector-Jacobian product; the system is solved by a few conjugate residuals, preconditioned by the isotropic
  solution, whose first direction is the solution of the step before.
- `point`: 0, the likelihood of the point x0 (Chung et al. 2023, for Gaussian noise).
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.guidance import ScoreGuided
from diffusion_suite.core.inverse.operators import (
    LinearOperator,
    SpectralOperator,
    conjugate_gradients,
    divide,
)
from diffusion_suite.core.inverse.problem import prepared
from diffusion_suite.core.schedulers import Callback, Denoiser, Grid, Noise, Path, Time, dpm_solver_pp

Covariance = Literal["denoiser", "isotropic", "point"]
Solution = tuple[Tensor, Tensor]
ISOTROPIC_ITERATIONS = 20


class MeasurementScore:
    """The likelihood score of data under a linear operator, for `guidance.ScoreGuided`.

    Args:
        path: of the denoiser.
        operator: y = A x + sigma_y n.
        y: data, (batch, *operator.data_shape), in the type of the state.
        sigma_y: standard deviation of their noise, in their units.
        covariance: of the clean image given the state, see the module.
        iterations: vector-Jacobian products an evaluation for `denoiser`; the others need one.
    """

    def __init__(
        self,
        path: Path,
        operator: LinearOperator,
        y: Tensor,
        sigma_y: float,
        covariance: Covariance = "denoiser",
        iterations: int = 8,
    ) -> None:
        if covariance not in get_args(Covariance):
            known = ", ".join(get_args(Covariance))
            raise ConfigError(f"unknown covariance {covariance!r}", f"use one of {known}")
        if iterations < 1:
            raise ConfigError(f"{iterations} iterations", "give 1 or more")
        if covariance == "point" and sigma_y == 0.0:
            raise ConfigError("noise-free data have no point likelihood", "give sigma_y, or use `denoiser`")
        self.path, self.operator, self.y, self.sigma_y = path, operator, y, sigma_y
        self.covariance, self.iterations = covariance, iterations

    def __call__(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The score; see `guidance.LikelihoodScore`."""
        return self.solved(x_t, x0, t)[0]

    def solved(self, x_t: Tensor, x0: Tensor, t: Time, start: Tensor | None = None) -> Solution:
        """The score, and the solution v of (A C A^T + sigma_y^2 I) v = y - A x0 that it is made of.

        Args:
            x_t: state, a leaf that requires a gradient.
            x0: clean data predicted there, which depends on it.
            t: the time.
            start: a solution to start from, of a similar state.
        """
        alpha, sigma = self.path.at(t, x0)
        pull = functools.partial(self._pull, x_t, x0)
        residual = self.y - self.operator.A(x0.detach())
        variance = sigma**2 / (alpha**2 + sigma**2)
        if self.covariance == "denoiser":
            factor = torch.where(alpha > 0, sigma**2 / alpha, 0.0)
            return self._own_covariance(residual, variance, factor, pull, torch.zeros_like(x_t), start)
        if self.covariance == "isotropic":
            v = self._isotropic(residual, variance, start)
        else:
            v = residual / self.sigma_y**2
        return pull(v), v

    def _pull(self, x_t: Tensor, x0: Tensor, v: Tensor) -> Tensor:
        """J^T A^T v."""
        if not x0.requires_grad:
            return torch.zeros_like(x_t)
        image = self.operator.adjoint(v).to(x0)
        return torch.autograd.grad(x0, x_t, image, retain_graph=True, materialize_grads=True)[0]

    def _own_covariance(
        self,
        residual: Tensor,
        variance: Tensor,
        factor: Tensor,
        pull: Callable[[Tensor], Tensor],
        score: Tensor,
        start: Tensor | None,
    ) -> Solution:
        """Generalised conjugate residuals with C = factor J; the score grows with the solution.

        A network's Jacobian is not quite symmetric, let alone positive, and conjugate gradients may then run
        away; here no direction can make the residual larger.
        """
        v, kept = torch.zeros_like(residual), list[tuple[Tensor, Tensor, Tensor]]()
        for index in range(self.iterations):
            given = start if index == 0 else None
            direction = self._precondition(residual, variance) if given is None else given
            pulled = pull(direction)
            image = self.operator.A(factor * pulled) + self.sigma_y**2 * direction
            least = torch.finfo(image.dtype).eps * _dot(image, image)
            for direction_, pulled_, image_ in kept:
                share = divide(_dot(image, image_), _dot(image_, image_))
                direction = direction - _fit(share, direction) * direction_
                pulled, image = pulled - _fit(share, pulled) * pulled_, image - _fit(share, image) * image_
            # What is left of a direction among those before is rounding; an item that has converged rests.
            fresh = _fit(_dot(image, image) > least, image)
            image = torch.where(fresh, image, 0.0)
            kept.append((direction, pulled, image))
            step = divide(_dot(image, residual), _dot(image, image))
            v, score = v + _fit(step, v) * direction, score + _fit(step, score) * pulled
            residual = residual - _fit(step, residual) * image
        return score, v

    def _precondition(self, residual: Tensor, variance: Tensor) -> Tensor:
        """The isotropic solution where singular values are known."""
        if not isinstance(self.operator, SpectralOperator):
            return residual
        scale = variance * self.operator.spectrum**2 + self.sigma_y**2
        largest = variance * self.operator.spectrum.amax() ** 2 + self.sigma_y**2
        scale = torch.maximum(scale, torch.finfo(scale.dtype).eps * largest)
        return self.operator.data_from_spectral(divide(self.operator.data_to_spectral(residual), scale))

    def _isotropic(self, residual: Tensor, variance: Tensor, start: Tensor | None) -> Tensor:
        """(variance A A^T + sigma_y^2)^-1 residual."""
        if isinstance(self.operator, SpectralOperator):
            return self._precondition(residual, variance)

        def applied(v: Tensor) -> Tensor:
            return self.operator.A(variance * self.operator.adjoint(v)) + self.sigma_y**2 * v

        if start is None:
            return conjugate_gradients(applied, residual, ISOTROPIC_ITERATIONS)
        return start + conjugate_gradients(applied, residual - applied(start), ISOTROPIC_ITERATIONS)


class MeasurementGuided(ScoreGuided):
    """A denoiser told of data: a guidance by `MeasurementScore`, for any sampler.

    Within a sampler every step starts at the solution of the step before.

    Args:
        denoiser: the network, or a guidance.
        score: of the data.
    """

    def __init__(self, denoiser: Denoiser, score: MeasurementScore) -> None:
        super().__init__(denoiser, score)
        self.measurement = score
        self._solutions: list[Tensor] | None = None

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        if index == 0 or self._solutions is None:
            self._solutions = []
        stepped = copy.copy(self)
        stepped.denoiser = self.denoiser.at_step(t, index, count)
        return stepped

    @override
    def guide(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        before = self._solutions[-1] if self._solutions else None
        score, solution = self.measurement.solved(x_t, x0, t, before)
        # Where no data are left the state tells nothing, and the solution would mislead the next step.
        if self._solutions is not None and (isinstance(t, Tensor) or float(self.path.alpha(t)) > 0.0):
            self._solutions[:] = [solution.detach()]
        return score


def pigdm(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    x: Tensor,
    times: Grid,
    *,
    sigma_y: float,
    noise: Noise | None = None,
    covariance: Covariance = "denoiser",
    iterations: int = 8,
    sampler: Callable[..., Tensor] = dpm_solver_pp,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Posterior samples by pseudo-inverse guidance; the default solver.

    Any linear operator, any path, any noise level. A step costs one evaluation and `iterations`
    vector-Jacobian products (one for the other covariances).

    Args:
        denoiser: of the prior; the network must be differentiable.
        operator: y = A x + sigma_y n.
        y: data, (batch, *operator.data_shape), or (1, ...) for all items.
        x: state at the first time, pure noise, (batch, *operator.image_shape).
        times: N + 1 descending times; 50 steps are enough for `dpm_solver_pp`.
        sigma_y: standard deviation of the noise of the data, in their units.
        noise: generator(s) or values for samplers that add noise; others do not use it.
        covariance: of the clean image given the state, see the module.
        iterations: vector-Jacobian products a step for the covariance `denoiser`.
        sampler: any of `schedulers`; with `ddim` it is the published method.
        callback: called at every step; x0 is the prediction with the data.
        cond: passed on to the denoiser.

    Returns:
        Images (batch, *operator.image_shape).

    Raises:
        InputError: shapes that do not fit the operator, or data that are not finite.
        ConfigError: a setting that cannot be used.
    """
    operator, y = prepared(operator, y, x, sigma_y)
    score = MeasurementScore(denoiser.path, operator, y, sigma_y, covariance, iterations)
    taken = {"noise": noise} if "noise" in inspect.signature(sampler).parameters else {}
    return sampler(MeasurementGuided(denoiser, score), x, times, callback=callback, **taken, **cond)


def _dot(p: Tensor, q: Tensor) -> Tensor:
    return (p * q).flatten(1).sum(1)


def _fit(values: Tensor, like: Tensor) -> Tensor:
    """One value an item, made to multiply `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
