"""What every solver checks before it starts, and the closed form that solvers are tested against."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.inverse.mixing import matrix_of
from diffusion_suite.core.inverse.operators import LinearOperator, SpectralOperator
from diffusion_suite.core.schedulers import Mixture

Operator = TypeVar("Operator", bound=LinearOperator)


def prepared(operator: Operator, y: Tensor, x: Tensor, sigma_y: float) -> tuple[Operator, Tensor]:
    """Operator and data in the type and on the device of the state, with data for each of its items.

    Args:
        operator: y = A x + sigma_y n.
        y: (batch, *data_shape), or (1, *data_shape) for all items.
        x: state, (batch, *image_shape).
        sigma_y: standard deviation of the noise of the data, in their units.

    Raises:
        InputError: shapes that do not fit the operator, or data that are not finite.
        ConfigError: sigma_y is negative or not finite.
    """
    name = type(operator).__name__
    if not 0.0 <= sigma_y < math.inf:
        raise ConfigError(
            f"{name}: the data's noise level is {sigma_y}", "give a finite sigma_y of 0 or more"
        )
    if tuple(x.shape[1:]) != tuple(operator.image_shape):
        raise InputError(
            f"{name}: a state of shape {tuple(x.shape[1:])} given, {tuple(operator.image_shape)} needed",
            "give a state of the shape of the operator's images",
        )
    operator.check_data(y)
    if y.shape[0] not in (1, x.shape[0]):
        raise InputError(
            f"{name}: {y.shape[0]} items of data for {x.shape[0]} of the state", "give one for each, or one"
        )
    y = y.to(x.device, torch.promote_types(x.dtype, torch.float32))
    return operator.to(y.device, y.dtype), y.expand(x.shape[0], *y.shape[1:])


def spectral(operator: LinearOperator, solver: str) -> SpectralOperator:
    """The operator, if its singular values are known.

    Raises:
        InputError: they are not.
    """
    if isinstance(operator, SpectralOperator):
        return operator
    raise InputError(
        f"{type(operator).__name__}: {solver} needs singular values, which this operator does not know",
        "use the solver pigdm, or Dense.of(operator) if the image is small",
    )


def exact_posterior(prior: Mixture, operator: LinearOperator, y: Tensor, sigma_y: float) -> Mixture:
    """The distribution of x given y = A x + sigma_y n, where x is a Gaussian mixture.

    With S = A C A^T + sigma_y^2 I and the gain G = C A^T S^-1 of a component, its mean becomes
    m + G (y - A m), its covariance C - G A C, and its weight w N(y; A m, S), normalised.

    Args:
        prior: of flattened images.
        operator: of images with as many entries.
        y: data of one image, *data_shape.
        sigma_y: standard deviation of their noise, above 0 unless A C A^T is invertible.
    """
    dtype = prior.means.dtype
    matrix = matrix_of(operator, dtype)
    y = y.to(dtype).flatten()
    noise = sigma_y**2 * torch.eye(len(y), dtype=dtype)
    seen = Mixture(prior.weights, prior.means @ matrix.T, matrix @ prior.covariances @ matrix.T + noise)
    gain = torch.linalg.solve(seen.covariances, matrix @ prior.covariances).mT
    means = prior.means + torch.einsum("kij,kj->ki", gain, y - seen.means)
    covariances = prior.covariances - gain @ matrix @ prior.covariances
    return Mixture(seen.responsibilities(y[None])[0], means, 0.5 * (covariances + covariances.mT))
