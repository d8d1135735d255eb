"""Separable operators: one small singular value decomposition for rows and one for columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.inverse.operators import SpectralOperator

SMALLEST_SINGULAR = 0.03


@dataclass(frozen=True)
class Factor:
    """Decomposition h = U diag(S) V[:, :k]^T of an (m, n) matrix, k = min(m, n).

    Attributes:
        U: (m, k).
        S: (k,) singular values, falling.
        V: (n, n), all right singular vectors.
    """

    U: Tensor
    S: Tensor
    V: Tensor

    @classmethod
    def of(cls, matrix: Tensor, smallest: float = SMALLEST_SINGULAR) -> Self:
        """Decompose an (m, n) matrix in float64; singular values below `smallest` become 0."""
        U, S, Vt = torch.linalg.svd(matrix.double(), full_matrices=True)
        return cls(U[:, : len(S)], torch.where(S.ge(smallest), S, 0.0), Vt.T.contiguous())


class SeparableOperator(SpectralOperator):
    """Y = rows X columns^T in every channel.

    The spectral layout of a channel is V_rows^T X V_columns: its first block of (m_rows, m_columns) is
    measured. Flat spectral vectors hold that block, then the rest of its rows, then the other rows, channels
    fastest.

    Args:
        rows: factor that acts along the height.
        columns: factor that acts along the width.
        channels: number of channels.
        dtype: type of the tensors that are kept.
    """

    def __init__(
        self, rows: Factor, columns: Factor, channels: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.image_shape = (channels, rows.V.shape[0], columns.V.shape[0])
        self.data_shape = (channels, rows.U.shape[0], columns.U.shape[0])
        self.row_U, self.row_V = rows.U.to(dtype), rows.V.to(dtype)
        self.column_U, self.column_V = columns.U.to(dtype), columns.V.to(dtype)
        products = rows.S[:, None] * columns.S[None, :]
        self.spectrum = self._padded(products.to(dtype)[None])
        self.measured = self._padded(torch.ones_like(products, dtype=torch.bool)[None])

    def _padded(self, block: Tensor) -> Tensor:
        _, height, width = self.image_shape
        return pad(block, (0, width - block.shape[-1], 0, height - block.shape[-2]))

    @override
    def to_spectral(self, x: Tensor) -> Tensor:
        return self.row_V.T @ x @ self.column_V

    @override
    def from_spectral(self, z: Tensor) -> Tensor:
        return self.row_V @ z @ self.column_V.T

    @override
    def data_to_spectral(self, y: Tensor) -> Tensor:
        return self._padded(self.row_U.T @ y @ self.column_U)

    @override
    def data_from_spectral(self, u: Tensor) -> Tensor:
        _, rows, columns = self.data_shape
        return self.row_U @ u[..., :rows, :columns] @ self.column_U.T

    @override
    def spectral_order(self) -> Tensor:
        channels, height, width = self.image_shape
        _, rows, columns = self.data_shape
        grid = torch.arange(height * width, device=self.spectrum.device).reshape(height, width)
        places = [grid[:rows, :columns], grid[:rows, columns:], grid[rows:]]
        order = torch.cat([block.flatten() for block in places])
        offsets = torch.arange(channels, device=order.device) * (height * width)
        return (order[:, None] + offsets).flatten()


class BicubicDownsampling(SeparableOperator):
    """Every f-th pixel of an image smoothed by the antialiasing bicubic kernel (super-resolution).

    Args:
        factor: f, a divisor of both sides.
        height: rows of the image.
        width: columns of the image.
        channels: number of channels.
        rows: recorded decomposition along the height; singular vectors are unique only up to their sign.
        columns: recorded decomposition along the width.
        dtype: type of the tensors that are kept.

    Raises:
        InputError: the factor does not divide a side.
    """

    def __init__(
        self,
        factor: int,
        height: int,
        width: int,
        channels: int,
        rows: Factor | None = None,
        columns: Factor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.factor = factor
        rows = rows or Factor.of(bicubic_matrix(factor, height))
        columns = columns or Factor.of(bicubic_matrix(factor, width))
        super().__init__(rows, columns, channels, dtype)


class AveragePooling(SeparableOperator):
    """Means of blocks of f by f pixels; the last block of a ragged side averages the pixels that are left.

    Args:
        factor: f, 1 or more.
        height: rows of the image.
        width: columns of the image.
        channels: number of channels.
        dtype: type of the tensors that are kept.

    Raises:
        InputError: the factor is below 1.
    """

    def __init__(
        self, factor: int, height: int, width: int, channels: int, dtype: torch.dtype = torch.float32
    ) -> None:
        if factor < 1:
            raise InputError(f"AveragePooling: blocks of {factor} pixels", "give a factor of 1 or more")
        rows, columns = (Factor.of(_block_means(factor, size), 0.0) for size in (height, width))
        super().__init__(rows, columns, channels, dtype)


def bicubic_kernel(factor: int) -> Tensor:
    """The 4f taps of Keys' cubic (a = -1/2) stretched by `factor`, float64, sum 1."""
    taps = 4 * factor
    distance = ((torch.arange(taps, dtype=torch.float64) - taps // 2 + 0.5) / factor).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    kernel = torch.where(distance <= 1.0, near, torch.where(distance < 2.0, far, 0.0))
    return kernel / kernel.sum()


def bicubic_matrix(factor: int, size: int) -> Tensor:
    """The (size/f, size) matrix of a bicubic reduction, mirrored about the outer edge of the border pixels.

    Raises:
        InputError: `factor` is below 1 or does not divide `size`.
    """
    if factor < 1 or size % factor:
        raise InputError(
            f"BicubicDownsampling: factor {factor} does not divide a side of {size} pixels",
            "choose a factor that divides height and width, or crop the image",
        )
    kernel = bicubic_kernel(factor)
    matrix = torch.zeros(size // factor, size, dtype=torch.float64)
    for row in range(size // factor):
        centre = row * factor + factor // 2
        columns = torch.arange(centre - 2 * factor, centre + 2 * factor) % (2 * size)
        columns = torch.minimum(columns, 2 * size - 1 - columns)
        matrix[row].index_add_(0, columns, kernel)
    return matrix


def _block_means(factor: int, size: int) -> Tensor:
    """The (ceil(size/f), size) matrix of the means of f neighbours."""
    block = torch.arange(size) // factor
    members = (torch.arange(-(-size // factor))[:, None] == block).double()
    return members / members.sum(1, keepdim=True)
