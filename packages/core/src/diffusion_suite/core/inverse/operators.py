"""Linear measurements y = A x, with what the solvers of inverse problems ask of them.

`x` is an image (batch, channels, height, width), or data of any other shape (batch, ...) such as vectors and
sequences; "image" stands for all of them. A `SpectralOperator` knows its decomposition A = U S V^T
and works in a spectral layout of its own, chosen so that neither direction permutes memory in a hot loop:
coefficients have the shape of an image, `spectrum` holds the singular values there (0 where nothing is
measured) and `measured` says which coefficients the data touch. The flat vectors of the literature, singular
values first, are available through `V, Vt, U, Ut, singulars`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import InputError


class LinearOperator(ABC):
    """A linear map from images to data.

    Attributes:
        image_shape: shape of one image, (channels, height, width) or any other.
        data_shape: shape of the data of one image.
    """

    image_shape: tuple[int, ...]
    data_shape: tuple[int, ...]

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Data of images: (batch, *image_shape) -> (batch, *data_shape)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Transpose of `A`: (batch, *data_shape) -> (batch, *image_shape)."""

    def pinv(self, y: Tensor) -> Tensor:
        """Image of least norm among those that fit the data best (conjugate gradients unless overridden)."""
        return conjugate_gradients(lambda x: self.adjoint(self.A(x)), self.adjoint(y))

    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """The minimiser (A^T A + rho)^-1 (A^T y + rho z) of |A x - y|^2 + rho |x - z|^2, rho > 0."""
        return conjugate_gradients(lambda x: self.adjoint(self.A(x)) + rho * x, self.adjoint(y) + rho * z)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator with its tensors on a device and, if they are real numbers, in a type."""
        moved = object.__new__(type(self))
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                value = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            elif isinstance(value, LinearOperator):
                value = value.to(device, dtype)
            setattr(moved, name, value)
        return moved

    def check_data(self, y: Tensor) -> None:
        """Refuse data of another shape or with values that are not finite.

        Raises:
            InputError: names the operator and what is wrong.
        """
        if tuple(y.shape[1:]) != tuple(self.data_shape):
            given, needed = tuple(y.shape[1:]), tuple(self.data_shape)
            raise InputError(
                f"{type(self).__name__}: data of shape {given} given, {needed} needed",
                "give data made by this operator",
            )
        if not bool(torch.isfinite(y).all()):
            raise InputError(
                f"{type(self).__name__}: the data hold NaN or infinite values",
                "mark such entries as missing with a mask and set them to 0",
            )


class SpectralOperator(LinearOperator):
    """An operator with its singular value decomposition.

    Attributes:
        spectrum: singular values in the spectral layout, broadcastable to `image_shape`; 0 where not
            measured.
        measured: boolean, same layout: coefficients that correspond to an entry of the data.
    """

    spectrum: Tensor
    measured: Tensor

    @abstractmethod
    def to_spectral(self, x: Tensor) -> Tensor:
        """V^T x in the spectral layout, (batch, *image_shape)."""

    @abstractmethod
    def from_spectral(self, z: Tensor) -> Tensor:
        """V z, the image of spectral coefficients."""

    @abstractmethod
    def data_to_spectral(self, y: Tensor) -> Tensor:
        """U^T y in the spectral layout, 0 where not measured."""

    @abstractmethod
    def data_from_spectral(self, u: Tensor) -> Tensor:
        """U u, the data of the measured coefficients."""

    @abstractmethod
    def spectral_order(self) -> Tensor:
        """Places in the flattened spectral layout of the entries of a flat vector, measured ones first."""

    def flatten_data(self, y: Tensor) -> Tensor:
        """Data as flat vectors (batch, number of measurements)."""
        return y.flatten(1)

    def unflatten_data(self, y: Tensor) -> Tensor:
        """Inverse of `flatten_data`."""
        return y.reshape(-1, *self.data_shape)

    @override
    def A(self, x: Tensor) -> Tensor:
        return self.data_from_spectral(self.spectrum * self.to_spectral(x))

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self.from_spectral(self.spectrum * self.data_to_spectral(y))

    @override
    def pinv(self, y: Tensor) -> Tensor:
        return self.from_spectral(divide(self.data_to_spectral(y), self.spectrum))

    @override
    def prox(self, z: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        weighted = self.spectrum * self.data_to_spectral(y) + rho * self.to_spectral(z)
        return self.from_spectral(weighted / (self.spectrum**2 + rho))

    @property
    def singulars(self) -> Tensor:
        """Singular values of the measured coefficients, shape (number of measurements,)."""
        order = self.spectral_order()[: self._count()]
        return self.spectrum.expand(self.image_shape).reshape(-1)[order]

    def Vt(self, x: Tensor) -> Tensor:
        """Flat spectral vectors (batch, pixels) of images, flattened or not."""
        return self.order(self.to_spectral(x.reshape(-1, *self.image_shape)))

    def V(self, v: Tensor) -> Tensor:
        """Flat images (batch, pixels) of flat spectral vectors."""
        return self.from_spectral(self.arrange(v)).flatten(1)

    def Ut(self, y: Tensor) -> Tensor:
        """Flat measured coefficients of flat data."""
        return self.order(self.data_to_spectral(self.unflatten_data(y)))[:, : self._count()]

    def U(self, u: Tensor) -> Tensor:
        """Flat data of flat measured coefficients."""
        padding = u.new_zeros(u.shape[0], self.spectral_order().numel() - u.shape[1])
        return self.flatten_data(self.data_from_spectral(self.arrange(torch.cat([u, padding], 1))))

    def order(self, z: Tensor) -> Tensor:
        """Flat vectors of coefficients in the spectral layout."""
        return z.flatten(1)[:, self.spectral_order()]

    def arrange(self, v: Tensor) -> Tensor:
        """Spectral layout of flat vectors of coefficients: inverse of `order`."""
        z = torch.empty_like(v)
        z[:, self.spectral_order()] = v
        return z.reshape(-1, *self.image_shape)

    def _count(self) -> int:
        return int(self.measured.expand(self.image_shape).sum())


class Identity(SpectralOperator):
    """Every entry measured as it is (denoising); flat vectors in the order of memory.

    Args:
        shape: of an image, such as (channels, height, width), or the length of a vector.
    """

    def __init__(self, *shape: int) -> None:
        self.image_shape = self.data_shape = shape
        self.spectrum = torch.ones((1,) * len(shape))
        self.measured = torch.ones((1,) * len(shape), dtype=torch.bool)

    @override
    def to_spectral(self, x: Tensor) -> Tensor:
        return x

    @override
    def from_spectral(self, z: Tensor) -> Tensor:
        return z

    @override
    def data_to_spectral(self, y: Tensor) -> Tensor:
        return y

    @override
    def data_from_spectral(self, u: Tensor) -> Tensor:
        return u

    @override
    def spectral_order(self) -> Tensor:
        return torch.arange(math.prod(self.image_shape), device=self.spectrum.device)


class Inpainting(SpectralOperator):
    """Some entries measured (completion); data are images with 0 at missing entries.

    Flat data hold the observed entries alone, channels fastest; flat spectral vectors have the observed
    entries first and then the missing ones, each in that order.

    Args:
        mask: 1 or True = measured; shape (channels, height, width), or (height, width) for all `channels`, or
            any shape that broadcasts to `shape`.
        channels: number of channels of a two-dimensional mask.
        shape: of an image, where it is not (channels, height, width): (length,), (channels, length), ...

    Raises:
        InputError: the mask does not fit.
    """

    def __init__(
        self, mask: Tensor, channels: int | None = None, shape: tuple[int, ...] | None = None
    ) -> None:
        if mask.ndim == 2 and channels is not None:
            mask = mask.expand(channels, *mask.shape)
        if shape is None and (mask.ndim != 3 or channels not in (None, mask.shape[0])):
            raise InputError(
                f"Inpainting: a mask of shape {tuple(mask.shape)} does not fit {channels or 'the'} channels",
                "give a mask (channels, height, width), or (height, width) and the number of channels",
            )
        if shape is not None:
            if not _broadcasts(mask.shape, shape):
                raise InputError(
                    f"Inpainting: a mask of shape {tuple(mask.shape)} does not fit data of shape {shape}",
                    "give a mask that broadcasts to that shape",
                )
            mask = mask.expand(shape)
        self.image_shape = self.data_shape = tuple(mask.shape)
        self.measured = mask != 0
        self.spectrum = self.measured.to(torch.float32)

    @override
    def to_spectral(self, x: Tensor) -> Tensor:
        return x

    @override
    def from_spectral(self, z: Tensor) -> Tensor:
        return z

    @override
    def data_to_spectral(self, y: Tensor) -> Tensor:
        return torch.where(self.measured, y, torch.zeros((), dtype=y.dtype, device=y.device))

    @override
    def data_from_spectral(self, u: Tensor) -> Tensor:
        return self.data_to_spectral(u)

    @override
    def spectral_order(self) -> Tensor:
        places = torch.arange(self.measured.numel(), device=self.measured.device)
        places = places.reshape(self.image_shape).movedim(0, -1).flatten()
        observed = self.measured.movedim(0, -1).flatten()
        return torch.cat([places[observed], places[~observed]])

    @override
    def flatten_data(self, y: Tensor) -> Tensor:
        return y.movedim(1, -1)[:, self.measured.movedim(0, -1)]

    @override
    def unflatten_data(self, y: Tensor) -> Tensor:
        observed = self.measured.movedim(0, -1)
        image = y.new_zeros(y.shape[0], *observed.shape)
        image[:, observed] = y
        return image.movedim(-1, 1)


def _broadcasts(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    paired = zip(reversed(given), reversed(shape), strict=False)
    return len(given) <= len(shape) and all(size in (1, full) for size, full in paired)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0 where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 100) -> Tensor:
    """Solution of a symmetric positive semi-definite system, one an item of the batch, started at 0.

    The number of iterations is fixed, so nothing waits for the device; items that have converged stand still.

    Args:
        apply: the matrix, acting on each item of (batch, ...) by itself.
        b: right-hand sides (batch, ...), in the range of the matrix.
        iterations: number of matrix products.
    """

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).flatten(1).sum(1).reshape(-1, *(1,) * (b.ndim - 1))

    x, residual, direction = torch.zeros_like(b), b, b
    size = first = dot(b, b)
    floor = first * torch.finfo(b.dtype).eps ** 2
    for _ in range(iterations):
        image = apply(direction)
        step = torch.where(size > floor, divide(size, dot(direction, image)), 0.0)
        x = x + step * direction
        residual = residual - step * image
        fresh = dot(residual, residual)
        direction = residual + divide(fresh, size) * direction
        size = fresh
    return x
