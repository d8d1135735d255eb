"""VS2M, the low-rank spatio-spectral network of DDS2M (Miao et al., ICCV 2023).

A cube is a sum over ranks of an image times a spectrum, E[b, h, w] = sum_r A_r[h, w] C_r[b]. Each image comes
from an encoder-decoder of its own and each spectrum from a perceptron of its own, all fed with fixed noise.
The networks of all ranks run as one: grouped convolutions, statistics over rank x channel, batched matrix
products.

Activations of the spatial networks have shape (1, ranks * channels, rows, columns), a rank's channels side by
side, in channels-last memory, the layout in which grouped convolutions are fastest. Only float64 keeps the
plain layout, and with it the rounding of a loop over ranks: the mean of a freshly normalised channel is 0 up
to rounding, and the sign of that rounding decides whether the first gradient passes the attention's ReLU.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.geo.restoration.levels import Levels, levels_for

HIDDEN = (128, 256, 256, 128)


def _layout(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.dtype == torch.float64 else torch.channels_last


def _per_rank(x: Tensor, ranks: int) -> Tensor:
    return x.view(1, ranks, -1, *x.shape[2:])


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    bound = 1.0 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


class Convolutions(nn.Module):
    """One convolution a rank; `shared` when all ranks read the same input channels.

    Weight (ranks, out, in, k, k), bias (ranks, out); the input is mirrored at the border.
    """

    def __init__(
        self,
        ranks: int,
        inside: int,
        outside: int,
        kernel: int,
        generator: torch.Generator,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.groups = 1 if shared else ranks
        self.margin = kernel // 2
        fan_in = inside * kernel**2
        self.weight = _uniform((ranks, outside, inside, kernel, kernel), fan_in, generator)
        self.bias = _uniform((ranks, outside), fan_in, generator)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.margin:
            x = functional.pad(x, (self.margin,) * 4, mode="reflect")
        weight = self.weight.flatten(0, 1).contiguous(memory_format=_layout(x))
        return functional.conv2d(x, weight, self.bias.flatten(), groups=self.groups)


class Norms(nn.Module):
    """Batch normalisation of every channel by the statistics of the one image at hand."""

    def __init__(self, ranks: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(ranks, channels))
        self.bias = nn.Parameter(torch.zeros(ranks, channels))

    @override
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.flatten(), self.bias.flatten()
        return functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)


class Attentions(nn.Module):
    """Channel attention, then spatial attention, around an identity (convolutional block attention)."""

    def __init__(self, ranks: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        hidden, kernel = max(channels // 16, 1), 49
        self.ranks = ranks
        self.squeeze = _uniform((ranks, hidden, channels), channels, generator)
        self.expand = _uniform((ranks, channels, hidden), hidden, generator)
        self.weight = _uniform((ranks, 1, 2, kernel, kernel), 2 * kernel**2, generator)
        self.bias = _uniform((ranks, 1), 2 * kernel**2, generator)

    @override
    def forward(self, x: Tensor) -> Tensor:
        per_rank = _per_rank(x, self.ranks)
        pooled = torch.stack([per_rank.amax((0, 3, 4)), per_rank.mean((0, 3, 4))], -1)
        channel = torch.sigmoid((self.expand @ torch.relu(self.squeeze @ pooled)).sum(-1))
        weighted = per_rank * channel[None, :, :, None, None]
        summary = torch.stack([weighted.amax(2), weighted.mean(2)], 2).flatten(1, 2)
        place = functional.conv2d(
            summary, self.weight.flatten(0, 1), self.bias.flatten(), padding=24, groups=self.ranks
        )
        return torch.addcmul(per_rank, weighted, torch.sigmoid(place).unsqueeze(2)).flatten(1, 2)


def _activate(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def _centre(x: Tensor, rows: int, columns: int) -> Tensor:
    top, left = (x.shape[2] - rows) // 2, (x.shape[3] - columns) // 2
    return x[:, :, top : top + rows, left : left + columns]


class Level(nn.Module):
    """One level of the encoder-decoders: halves the image on the way down, doubles it on the way up."""

    def __init__(self, ranks: int, levels: Levels, index: int, generator: torch.Generator) -> None:
        super().__init__()
        inside = levels.down[index - 1] if index else 1
        down, up, skip = levels.down[index], levels.up[index], levels.skip[index]
        below = levels.up[index + 1] if index + 1 < len(levels) else down
        kernel, shared = levels.kernel_down[index], index == 0
        self.ranks = ranks
        self.down = Convolutions(ranks, inside, down, kernel, generator, shared)
        self.down_norm = Norms(ranks, down)
        self.second = Convolutions(ranks, down, down, kernel, generator)
        self.second_norm = Norms(ranks, down)
        self.skip = Convolutions(ranks, inside, skip, 1, generator, shared) if skip else None
        self.skip_norm = Norms(ranks, skip) if skip else None
        self.joint_norm = Norms(ranks, skip + below)
        self.attention = Attentions(ranks, skip + below, generator) if levels.attends(index) else None
        self.up = Convolutions(ranks, skip + below, up, levels.kernel_up[index], generator)
        self.up_norm = Norms(ranks, up)
        self.mix = Convolutions(ranks, up, up, 1, generator)
        self.mix_norm = Norms(ranks, up)

    def encode(self, x: Tensor) -> Tensor:
        """Features of the next coarser level, half as wide and high."""
        x = _activate(self.down_norm(functional.avg_pool2d(self.down(x), 2)))
        return _activate(self.second_norm(self.second(x)))

    def decode(self, finer: Tensor, x: Tensor) -> Tensor:
        """Features of this level from its input on the way down and the result of the coarser levels."""
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        if self.skip is not None and self.skip_norm is not None:
            bridge = _activate(self.skip_norm(self.skip(finer)))
            rows, columns = min(x.shape[2], bridge.shape[2]), min(x.shape[3], bridge.shape[3])
            x = self._join(_centre(bridge, rows, columns), _centre(x, rows, columns))
        x = self.joint_norm(x)
        if self.attention is not None:
            x = self.attention(x)
        x = _activate(self.up_norm(self.up(x)))
        return _activate(self.mix_norm(self.mix(x)))

    def _join(self, first: Tensor, second: Tensor) -> Tensor:
        if _layout(first) is torch.contiguous_format:
            return torch.cat([_per_rank(x, self.ranks) for x in (first, second)], 2).flatten(1, 2)
        pair = [_per_rank(x, self.ranks).permute(0, 3, 4, 1, 2) for x in (first, second)]
        return torch.cat(pair, 4).flatten(3).permute(0, 3, 1, 2)


class SpatialNetworks(nn.Module):
    """The encoder-decoders of all ranks: noise (1, 1, rows, columns) -> images (ranks, rows, columns).

    Sides that 2^levels does not divide come back smaller; `Levels.valid_side` gives those that do not.

    Args:
        ranks: number of networks.
        levels: their sizes.
        generator: source of the initial weights, uniform on +-1/sqrt(fan-in).
    """

    def __init__(self, ranks: int, levels: Levels, generator: torch.Generator) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(ranks, levels, index, generator) for index in range(len(levels)))
        self.output = Convolutions(ranks, levels.up[0], 1, 1, generator)

    @override
    def forward(self, noise: Tensor) -> Tensor:
        features = [noise.contiguous(memory_format=_layout(noise))]
        for level in self.levels:
            features.append(level.encode(features[-1]))  # type: ignore[operator]
        x = features.pop()
        for level in reversed(self.levels):
            x = level.decode(features.pop(), x)  # type: ignore[operator]
        images: Tensor = self.output(x)[0]
        return images


class SpectralNetworks(nn.Module):
    """The perceptrons of all ranks: noise (bands,) -> spectra (ranks, bands)."""

    def __init__(self, ranks: int, bands: int, hidden: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        sizes = (bands, *hidden, bands)
        self.weights = nn.ParameterList(
            _uniform((ranks, outside, inside), inside, generator) for inside, outside in pairwise(sizes)
        )
        self.biases = nn.ParameterList(
            _uniform((ranks, outside, 1), inside, generator) for inside, outside in pairwise(sizes)
        )

    @override
    def forward(self, noise: Tensor) -> Tensor:
        x = noise.reshape(1, -1, 1).expand(self.weights[0].shape[0], -1, 1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, weight, x)
            if index < last:
                x = functional.relu6(x) if index == 0 else torch.relu(x)
        return x.squeeze(2)


def mirrored(size: int, target: int) -> Tensor:
    """Indices that extend `size` pixels to `target`, centred and mirrored at the edges as often as needed."""
    period = max(2 * size - 2, 1)
    places = (torch.arange(target) - (target - size) // 2) % period
    return torch.minimum(places, period - places) if size > 1 else torch.zeros(target, dtype=torch.long)


class VS2M(nn.Module):
    """The untrained network that is fitted to one cube.

    It works on the transposed plane (width, height) of the published code, extended to a side that the
    spatial networks accept; the result is cut back, so any size is possible.

    Args:
        rank: number of image-spectrum pairs.
        height: rows of the cube.
        width: columns.
        bands: bands.
        levels: sizes of the spatial networks; chosen by `levels_for` when None.
        hidden: widths of the spectral networks' hidden layers.
        seed: key of the initial weights and of the input noise, both independent of any global generator.
        plane: input noise (width, height) of the spatial networks, instead of a draw from U(-1/2, 1/2).
        spectrum: input noise (bands,) of the spectral networks, likewise.

    Raises:
        ConfigError: a size is not positive, or given noise has another shape.
    """

    plane: Tensor
    spectrum: Tensor

    def __init__(
        self,
        rank: int,
        height: int,
        width: int,
        bands: int,
        *,
        levels: Levels | None = None,
        hidden: tuple[int, ...] = HIDDEN,
        seed: int = 0,
        plane: Tensor | None = None,
        spectrum: Tensor | None = None,
    ) -> None:
        super().__init__()
        if min(rank, height, width, bands) < 1:
            raise ConfigError(
                f"a network of rank {rank} for {height} x {width} x {bands} is empty", "give sizes >= 1"
            )
        self.levels = levels or levels_for(height, width)
        self.rank, self.height, self.width, self.bands = rank, height, width, bands
        generator = seeding.generator("dds2m", "weights", seed)
        self.spatial = SpatialNetworks(rank, self.levels, generator)
        self.spectral = SpectralNetworks(rank, bands, hidden, generator)

        draws = seeding.generator("dds2m", "input", seed)
        rows, columns = self.levels.valid_side(width), self.levels.valid_side(height)
        if plane is None:
            plane = torch.rand(rows, columns, generator=draws) - 0.5
        elif tuple(plane.shape) == (width, height):
            plane = plane[mirrored(width, rows)][:, mirrored(height, columns)]
        else:
            raise ConfigError(
                f"input noise of shape {tuple(plane.shape)} given for a plane of {(width, height)}",
                "give noise of shape (width, height)",
            )
        if spectrum is None:
            spectrum = torch.rand(bands, generator=draws) - 0.5
        elif spectrum.numel() != bands:
            raise ConfigError(
                f"{spectrum.numel()} noise values given for {bands} bands", "give one value a band"
            )
        self.register_buffer("plane", plane[None, None].clone())
        self.register_buffer("spectrum", spectrum.flatten().clone())
        self._top, self._left = (rows - width) // 2, (columns - height) // 2

    def factors(self) -> tuple[Tensor, Tensor]:
        """Images (rank, height, width) and spectra (rank, bands)."""
        planes = self.spatial(self.plane)
        planes = planes[:, self._top : self._top + self.width, self._left : self._left + self.height]
        return planes.transpose(1, 2), self.spectral(self.spectrum)

    @override
    def forward(self) -> Tensor:
        """The cube E (bands, height, width), nominally in [0, 1] but not bounded."""
        return self.combine(*self.factors())

    def combine(self, images: Tensor, spectra: Tensor) -> Tensor:
        """The cube of images (rank, height, width) and spectra (rank, bands)."""
        return (spectra.T @ images.flatten(1)).reshape(self.bands, self.height, self.width)
