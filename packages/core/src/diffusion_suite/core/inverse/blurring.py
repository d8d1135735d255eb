"""Separable blur, with every border that is in use, and blur followed by subsampling."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.inverse.resampling import Factor, SeparableOperator

Border = Literal["zero", "circular", "reflect"]

RANK = 1e-14
"""Singular values of a blur below this are rounding; they count as 0."""


class Blur(SeparableOperator):
    """Every channel filtered by the same kernel along rows and columns, and every `factor`-th pixel kept.

    y_i = sum_k kernel_k x_(i + k - taps//2), all taps of the kernel included, as a deep-learning convolution
    counts them. Its singular values are products of those of the two directions, each with its own pair of
    singular vectors; they are the same in all channels.

    Args:
        kernel: (taps,), an odd number of them, for both directions.
        height: rows of the image.
        width: columns of the image.
        channels: number of channels.
        border: what lies beyond the edge: `zero`; `circular`, the opposite side; `reflect`, the mirror image
            about the centre of the border pixel.
        factor: 1 for a blur; f keeps the rows and columns 0, f, 2f, ...
        column_kernel: another kernel for the filter along the width.
        smallest: singular values of one direction below it count as 0. Noise-free solvers divide by them:
            raise it (0.03, say) for a wide kernel.
        dtype: type of the tensors that are kept.

    Raises:
        ConfigError: unknown border.
        InputError: a kernel that is not a vector of odd length, or a factor below 1.
    """

    def __init__(
        self,
        kernel: Tensor,
        height: int,
        width: int,
        channels: int,
        border: Border = "reflect",
        factor: int = 1,
        column_kernel: Tensor | None = None,
        smallest: float = RANK,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if border not in get_args(Border):
            raise ConfigError(f"Blur: unknown border {border!r}", f"use one of {', '.join(get_args(Border))}")
        if factor < 1:
            raise InputError(f"Blur: cannot keep every {factor}-th pixel", "give a factor of 1 or more")
        columns = kernel if column_kernel is None else column_kernel
        super().__init__(
            Factor.of(blur_matrix(kernel, height, border)[::factor], smallest),
            Factor.of(blur_matrix(columns, width, border)[::factor], smallest),
            channels,
            dtype,
        )


def blur_matrix(kernel: Tensor, size: int, border: Border) -> Tensor:
    """The (size, size) matrix, float64, of a filter along one direction.

    Raises:
        InputError: the kernel is not a vector of odd length.
    """
    if kernel.ndim != 1 or len(kernel) % 2 == 0:
        raise InputError(
            f"Blur: a kernel of shape {tuple(kernel.shape)} has no centre",
            "give a vector with an odd number of taps",
        )
    rows = torch.arange(size)[:, None]
    places = rows + torch.arange(len(kernel)) - len(kernel) // 2
    taps = kernel.detach().to("cpu", torch.float64).expand(size, -1)
    if border == "zero":
        taps = torch.where((places >= 0) & (places < size), taps, 0.0)
    elif border == "reflect":
        period = max(2 * (size - 1), 1)
        places = (places % period).minimum(-places % period)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.index_put_((rows.expand_as(places), places % size), taps, accumulate=True)
