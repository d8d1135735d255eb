"""Encoders of pictures and of clips."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.encoders.base import Contract, Encoder, Features, full
from diffusion_suite.core.errors import ConfigError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of the channels of ImageNet's pictures in [0, 1]."""

FITS = ("squash", "crop", "keep")
STRIDES = (32, 16, 14, 8, 4)


class ImageEncoder(Encoder):
    """An encoder of pictures over a network of ``transformers``, or any that gives ``last_hidden_state``.

    Inputs are (batch, 3 or 1, height, width): floating-point in [0, 1], or uint8. They are brought to the
    contract's size (bicubic, antialiased) and normalised inside, differentiably.

    Args:
        network: maps normalised pictures to tokens (batch, [class, registers,] tokens, width) or to a map
            (batch, width, height, width).
        name: a short name that results carry.
        width: values of a token.
        contract: size, patch, mean and deviation.
        pooling: ``cls``, ``mean`` or ``model``.
        layer: see :class:`Encoder`.
        fit: how pictures that are not square meet the size: ``squash`` both sides to it, ``crop`` the middle,
            or ``keep`` the aspect, the shorter side becoming the size (the longer the nearest multiple of the
            patch).
        size: another size in pixels than the network's own.
        arguments: further arguments of the network's ``forward``.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        width: int,
        contract: Contract,
        pooling: str = "mean",
        layer: int | None = None,
        fit: str = "squash",
        size: int | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        if fit not in FITS:
            raise ConfigError(f"fit={fit!r} is unknown", f"give one of {', '.join(FITS)}")
        patch = max(1, contract.patch)
        if size is not None and (size < patch or size % patch):
            raise ConfigError(
                f"size={size} is no multiple of the patch of {patch} pixels",
                f"give size={max(1, round(size / patch)) * patch}",
            )
        contract = contract if size is None else replace(contract, size=size)
        super().__init__(network, "image", name, width, contract, pooling, layer)
        self.fit, self.arguments = fit, arguments or {}

    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "fit": self.fit}

    @override
    def prepare(self, inputs: Tensor) -> Tensor:
        """Normalised pictures of the network's size.

        Args:
            inputs: (batch, 3 or 1, height, width), floating-point in [0, 1] or uint8.

        Raises:
            ValueError: for another shape or type, or (looked at on the CPU alone) values far out of range.
        """
        pictures = _checked(inputs).to(next(self.network.parameters()).dtype)
        if inputs.dtype == torch.uint8:
            pictures = pictures / 255
        if pictures.shape[1] == 1:
            pictures = pictures.expand(-1, 3, -1, -1)
        return normalised(fitted(pictures, self.contract, self.fit), self.contract)

    @override
    def run(self, prepared: Tensor) -> Features:
        states, output = self.hidden(pixel_values=prepared, **self._arguments(prepared))
        height, width = prepared.shape[-2:]
        if states.ndim == 4:
            grid = (states.shape[2], states.shape[3])
            tokens, first = states.flatten(2).transpose(1, 2), None
        else:
            grid = _grid(states.shape[1], height, width, self.contract.patch, self.name)
            extra = states.shape[1] - grid[0] * grid[1]
            tokens, first = states[:, extra:], states[:, 0] if extra else None
        own = getattr(output, "pooler_output", None) if self.layer is None else None
        own = None if own is None else own.flatten(1)
        return Features(full(tokens), full(self.pool(tokens, first, own, None)), grid)

    def _arguments(self, prepared: Tensor) -> dict[str, Any]:
        if "noise" not in self.arguments:
            return self.arguments
        # A masked autoencoder shuffles the patches by this noise; rising noise leaves their order.
        count = math.prod(side // self.contract.patch for side in prepared.shape[-2:])
        noise = torch.arange(count, device=prepared.device).expand(len(prepared), -1)
        return {**self.arguments, "noise": noise}


class VideoEncoder(Encoder):
    """An encoder of clips over a network of ``transformers`` (VideoMAE, V-JEPA 2).

    Inputs are (batch, frames, 3 or 1, height, width), floating-point in [0, 1] or uint8. Evenly spaced frames
    are taken, as many as the contract says; a shorter clip shows its frames several times.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        width: int,
        contract: Contract,
        pooling: str = "mean",
        layer: int | None = None,
        tubelet: int = 2,
        argument: str = "pixel_values",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(network, "video", name, width, contract, pooling, layer)
        self.tubelet, self.argument, self.arguments = tubelet, argument, arguments or {}

    @override
    def prepare(self, inputs: Tensor) -> Tensor:
        """Normalised clips of the network's size and number of frames.

        Raises:
            ValueError: for another shape or type, or values far out of range.
        """
        if inputs.ndim != 5:
            raise ValueError(f"clips are (batch, frames, channels, height, width), not {tuple(inputs.shape)}")
        count = self.contract.frames or inputs.shape[1]
        places = (torch.arange(count, dtype=torch.float64) + 0.5) * inputs.shape[1] / count
        clips = inputs[:, places.long().tolist()]
        pictures = _checked(clips.flatten(0, 1)).to(next(self.network.parameters()).dtype)
        if inputs.dtype == torch.uint8:
            pictures = pictures / 255
        if pictures.shape[1] == 1:
            pictures = pictures.expand(-1, 3, -1, -1)
        pictures = normalised(fitted(pictures, self.contract, "squash"), self.contract)
        return pictures.reshape(len(inputs), count, *pictures.shape[1:])

    @override
    def run(self, prepared: Tensor) -> Features:
        states, _ = self.hidden(**{self.argument: prepared}, **self.arguments)
        frames = prepared.shape[1] // self.tubelet
        height, width = (side // self.contract.patch for side in prepared.shape[-2:])
        extra = states.shape[1] - frames * height * width
        tokens, first = states[:, extra:], states[:, 0] if extra else None
        pooled = self.pool(tokens, first, None, None)
        return Features(full(tokens), full(pooled), (frames, height, width))


def fitted(pictures: Tensor, contract: Contract, fit: str) -> Tensor:
    """Bring (batch, channels, height, width) in [0, 1] to the contract's size; see :class:`ImageEncoder`."""
    if not contract.size:
        return pictures
    height, width = pictures.shape[-2:]
    patch = max(1, contract.patch)
    target = [contract.size, contract.size]
    if fit != "squash":
        scale = contract.size / min(height, width)
        rounded = patch if fit == "keep" else 1
        target = [max(contract.size, round(side * scale / rounded) * rounded) for side in (height, width)]
    if [height, width] != target:
        pictures = F.interpolate(pictures, target, mode="bicubic", antialias=True).clamp(0, 1)
    if fit == "crop":
        top, left = ((side - contract.size) // 2 for side in target)
        pictures = pictures[..., top : top + contract.size, left : left + contract.size]
    return pictures


def normalised(pictures: Tensor, contract: Contract) -> Tensor:
    """Take off the contract's mean and divide by its deviation, channel by channel."""
    if not contract.mean:
        return pictures
    channels = zip(pictures.unbind(1), contract.mean, contract.std, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], 1)


def _checked(pictures: Tensor) -> Tensor:
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or 0 in pictures.shape:
        raise ValueError(f"pictures are (batch, 3 or 1 channels, height, width), not {tuple(pictures.shape)}")
    if not pictures.is_floating_point() and pictures.dtype != torch.uint8:
        raise ValueError(f"pictures are floating-point in [0, 1] or uint8, not {pictures.dtype}")
    if pictures.is_floating_point() and pictures.device.type == "cpu":
        low, high = (float(value) for value in torch.aminmax(pictures.detach()))
        if not (low > -0.5 and high < 2):
            raise ValueError(f"pictures must lie in [0, 1]; these reach from {low:.3g} to {high:.3g}")
    return pictures


def _grid(count: int, height: int, width: int, patch: int, name: str) -> tuple[int, int]:
    """How tokens lie: the finest grid of patches that leaves few tokens over (class and registers)."""
    for stride in (patch, *(step for step in STRIDES[::-1] if step > patch)):
        rows, columns = height // max(1, stride), width // max(1, stride)
        if 0 <= count - rows * columns <= 16:
            return rows, columns
    raise ConfigError(f"{name} gives {count} tokens that lie on no grid of {height} x {width} pixels")
