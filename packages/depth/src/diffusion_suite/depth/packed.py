"""Convolutions that keep their weights in the order in which a CPU reads them.

Otherwise oneDNN reorders the whole weight in every call, which for many channels on few pixels, as deep in a
UNet, can take as long as the convolution itself. Results are the same up to rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_REORDER = "mkldnn_reorder_conv2d_weight"


def pack(module: nn.Module) -> None:
    """Let the plain two-dimensional convolutions of a module keep reordered weights, a second copy.

    They are used on a CPU with weights laid out channels-last while no gradients are recorded, and made anew
    where a weight has changed. Where this PyTorch has no oneDNN, nothing changes.
    """
    if not (torch._C._has_mkldnn and hasattr(torch._C._nn, _REORDER)):
        return
    for part in module.modules():
        if type(part) is nn.Conv2d and part.padding_mode == "zeros" and not isinstance(part.padding, str):
            part.forward = _Packed(part)  # type: ignore[method-assign,assignment]


class _Packed:
    """The forward pass of one convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.convolution = convolution
        self.kept: Tensor | None = None
        self.state: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Reordered weights can be neither copied nor stored; they are made anew."""
        return {"convolution": self.convolution, "kept": None, "state": ()}

    def __call__(self, x: Tensor) -> Tensor:
        convolution = self.convolution
        if not _suits(x, convolution.weight):
            return nn.Conv2d.forward(convolution, x)
        numbers: tuple[Any, ...] = (convolution.padding, convolution.stride, convolution.dilation)
        shape = [list(pair) for pair in numbers]
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x.contiguous(memory_format=torch.channels_last),
            self._weight(x, shape),
            convolution.bias,
            *shape,
            convolution.groups,
            "none",
            [],
            "",
        )
        return result

    def _weight(self, x: Tensor, shape: list[list[int]]) -> Tensor:
        """The weight in the best order for the size of the first input."""
        weight = self.convolution.weight
        state = (weight.data_ptr(), weight._version, weight.dtype)
        if self.kept is None or state != self.state:
            reorder = getattr(torch._C._nn, _REORDER)
            self.kept = reorder(weight.detach().to_mkldnn(), *shape, self.convolution.groups, list(x.shape))
            self.state = state
        assert self.kept is not None
        return self.kept


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _has_bf16()))
        and x.ndim == 4
        and x.numel() > 0
        and weight.is_contiguous(memory_format=torch.channels_last)
    )


@cache
def _has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
