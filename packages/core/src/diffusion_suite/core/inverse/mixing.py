"""Operators given by a matrix: on whole images, or on the channels of every pixel."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.inverse.operators import LinearOperator, SpectralOperator
from diffusion_suite.core.inverse.resampling import Factor


class MatrixOperator(SpectralOperator):
    """A matrix (m, n) applied along the first axis of data (batch, n, ...); the base of the others.

    In the spectral layout the first min(m, n) places of that axis are measured.
    """

    def __init__(self, matrix: Tensor, image_shape: tuple[int, ...], data_shape: tuple[int, ...]) -> None:
        name = type(self).__name__
        if matrix.ndim != 2 or not matrix.is_floating_point() or not bool(torch.isfinite(matrix).all()):
            raise InputError(
                f"{name}: a matrix of shape {tuple(matrix.shape)} and type {matrix.dtype} cannot be used",
                "give a finite matrix (measurements, inputs) of real numbers",
            )
        largest = float(torch.linalg.matrix_norm(matrix.double(), 2)) if matrix.numel() else 0.0
        factor = Factor.of(matrix, max(matrix.shape) * torch.finfo(matrix.dtype).eps * largest)
        self.image_shape, self.data_shape = image_shape, data_shape
        self.left, self.right = factor.U.to(matrix), factor.V.to(matrix)
        self.rest = matrix.shape[1] - len(factor.S)
        ones = (1,) * (len(image_shape) - 1)
        spectrum = torch.cat([factor.S, factor.S.new_zeros(self.rest)]).to(matrix)
        places = torch.arange(len(spectrum), device=matrix.device)
        self.spectrum = spectrum.reshape(-1, *ones)
        self.measured = (places < len(factor.S)).reshape(-1, *ones)

    @override
    def to_spectral(self, x: Tensor) -> Tensor:
        return _along(self.right.T, x)

    @override
    def from_spectral(self, z: Tensor) -> Tensor:
        return _along(self.right, z)

    @override
    def data_to_spectral(self, y: Tensor) -> Tensor:
        u = _along(self.left.T, y)
        return torch.cat([u, u.new_zeros(u.shape[0], self.rest, *u.shape[2:])], 1)

    @override
    def data_from_spectral(self, u: Tensor) -> Tensor:
        return _along(self.left, u[:, : self.left.shape[1]])

    @override
    def spectral_order(self) -> Tensor:
        return torch.arange(math.prod(self.image_shape), device=self.spectrum.device)


class Dense(MatrixOperator):
    """A matrix applied to the flattened image, with its singular value decomposition.

    Args:
        matrix: (m, n).
        image_shape: shape with n entries; None = a vector (n,).
        data_shape: shape with m entries; None = a vector (m,).

    Raises:
        InputError: the matrix cannot be used, or the shapes do not fit it.

    Example:
        >>> import torch
        >>> Dense(torch.tensor([[1.0, 1.0]])).pinv(torch.tensor([[4.0]])).round(decimals=4)
        tensor([[2., 2.]])
    """

    def __init__(
        self,
        matrix: Tensor,
        image_shape: tuple[int, ...] | None = None,
        data_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(matrix, (matrix.shape[-1],), (matrix.shape[0],))
        shapes = image_shape or self.image_shape, data_shape or self.data_shape
        if (math.prod(shapes[1]), math.prod(shapes[0])) != tuple(matrix.shape):
            raise InputError(
                f"Dense: a matrix {tuple(matrix.shape)} does not map {shapes[0]} to {shapes[1]}",
                "give a matrix of (entries of the data, entries of an image)",
            )
        self.image_shape, self.data_shape = shapes
        self.spectrum, self.measured = (part.reshape(shapes[0]) for part in (self.spectrum, self.measured))

    @classmethod
    def of(cls, operator: LinearOperator, dtype: torch.dtype = torch.float64) -> Self:
        """Any operator with its decomposition, for solvers that need one; for small images only."""
        return cls(matrix_of(operator, dtype), operator.image_shape, operator.data_shape)

    @override
    def to_spectral(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.right).reshape(x.shape)

    @override
    def from_spectral(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.right.T).reshape(z.shape)

    @override
    def data_to_spectral(self, y: Tensor) -> Tensor:
        return super().data_to_spectral(y.flatten(1)).reshape(-1, *self.image_shape)

    @override
    def data_from_spectral(self, u: Tensor) -> Tensor:
        return super().data_from_spectral(u.flatten(1)).reshape(-1, *self.data_shape)


class SpectralResponse(MatrixOperator):
    """Every pixel's bands combined to fewer bands, as by a sensor with broad filters.

    Args:
        matrix: (bands of the data, bands of the image).
        size: (height, width), or any other axes after the bands.

    Raises:
        InputError: the matrix cannot be used.
    """

    def __init__(self, matrix: Tensor, *size: int) -> None:
        super().__init__(matrix, (matrix.shape[-1], *size), (matrix.shape[0], *size))


class Grayscale(SpectralResponse):
    """Every pixel's channels averaged to one.

    Args:
        channels: number of channels.
        size: (height, width), or any other axes after the channels.
        weights: (channels,) of a weighted sum; None = the mean.
        dtype: type of the tensors that are kept.
    """

    def __init__(
        self, channels: int, *size: int, weights: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        row = torch.full((channels,), 1.0 / channels, dtype=torch.float64) if weights is None else weights
        if tuple(row.shape) != (channels,):
            raise InputError(
                f"Grayscale: weights of shape {tuple(row.shape)} do not fit {channels} channels",
                "give one weight a channel",
            )
        super().__init__(row.to(dtype)[None], *size)


def matrix_of(operator: LinearOperator, dtype: torch.dtype = torch.float64) -> Tensor:
    """The matrix (entries of the data, entries of an image) of an operator."""
    pixels = math.prod(operator.image_shape)
    units = torch.eye(pixels, dtype=dtype).reshape(pixels, *operator.image_shape)
    return operator.to(dtype=dtype).A(units).flatten(1).T.contiguous()


def _along(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ij,bj...->bi...", matrix, x)
