"""Compressive measurements by a Walsh-Hadamard transform of shuffled pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.inverse.operators import SpectralOperator


class Compressive(SpectralOperator):
    """The first `count` Walsh-Hadamard coefficients of the shuffled pixels of every channel.

    The transform is orthonormal, so all singular values are 1; the first coefficient is the channel's mean
    times sqrt(pixels). All channels are shuffled alike, by a permutation that depends on the seed and the
    number of pixels alone.

    Args:
        count: measurements a channel, from 1 to the number of its pixels.
        shape: of an image: (channels, height, width), (channels, length), or (length,) for one channel.
        seed: of the permutation.

    Raises:
        InputError: the pixels of a channel are not a power of two, or `count` does not fit them.
    """

    def __init__(self, count: int, shape: tuple[int, ...], seed: int = 0) -> None:
        pixels = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
        if pixels & (pixels - 1) or pixels < 1:
            raise InputError(
                f"Compressive: {pixels} pixels a channel are not a power of two",
                f"crop or pad the image to {2 ** max(pixels - 1, 0).bit_length()} pixels, such as sides of "
                "32, 64 or 128",
            )
        if not 1 <= count <= pixels:
            raise InputError(
                f"Compressive: {count} measurements of {pixels} pixels a channel",
                f"give a count from 1 to {pixels}",
            )
        self.image_shape = shape
        self.data_shape = (shape[0], count) if len(shape) > 1 else (count,)
        self.shuffle = torch.randperm(pixels, generator=seeding.generator("compressive", seed, pixels))
        self.unshuffle = self.shuffle.argsort()
        measured = torch.arange(pixels) < count
        self.measured = measured.reshape(1, *shape[1:]) if len(shape) > 1 else measured
        self.spectrum = self.measured.to(torch.float32)

    @override
    def to_spectral(self, x: Tensor) -> Tensor:
        return walsh_hadamard(self._channels(x)[..., self.shuffle]).reshape(x.shape)

    @override
    def from_spectral(self, z: Tensor) -> Tensor:
        return walsh_hadamard(self._channels(z))[..., self.unshuffle].reshape(z.shape)

    @override
    def data_to_spectral(self, y: Tensor) -> Tensor:
        padding = y.new_zeros(*y.shape[:-1], len(self.shuffle) - y.shape[-1])
        return torch.cat([y, padding], -1).reshape(-1, *self.image_shape)

    @override
    def data_from_spectral(self, u: Tensor) -> Tensor:
        return self._channels(u)[..., : self.data_shape[-1]].reshape(-1, *self.data_shape)

    @override
    def spectral_order(self) -> Tensor:
        """Places in the flattened spectral layout, the measured ones of all channels first."""
        measured = self.measured.expand(self.image_shape).flatten()
        places = torch.arange(len(measured), device=measured.device)
        return torch.cat([places[measured], places[~measured]])

    def _channels(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, len(self.shuffle))


def walsh_hadamard(x: Tensor) -> Tensor:
    """Orthonormal Walsh-Hadamard transform (natural order) along the last axis; it is its own inverse.

    Args:
        x: (..., n) with n a power of two.
    """
    size, width = x.shape[-1], 1
    while width < size:
        pairs = x.reshape(*x.shape[:-1], size // (2 * width), 2, width)
        first, second = pairs.unbind(-2)
        x = torch.stack([first + second, first - second], -2).reshape(x.shape)
        width *= 2
    scaled: Tensor = x / size**0.5
    return scaled
