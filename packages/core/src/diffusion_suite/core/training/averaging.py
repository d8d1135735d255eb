r"""Averaged weights: an exponential moving average whose decay grows in.

After ``n`` updates the decay is :math:`\min(d, (1 + n) / (10 + n))`. With a fixed ``d``, a run shorter than
some ``1 / (1 - d)`` steps would keep little but its random start.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from typing_extensions import override

Network = TypeVar("Network", bound=nn.Module)


def grown_decay(decay: float, updates: int) -> float:
    """The decay after a number of updates."""
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def follow(averaged: list[Tensor], current: list[Tensor], decay: float) -> None:
    """Replace averaged weights by ``decay * averaged + (1 - decay) * current``, in place, in their type."""
    same = [new.to(old.dtype) for old, new in zip(averaged, current, strict=True)]
    torch._foreach_lerp_(averaged, same, 1.0 - decay)


def averaging(decay: float) -> WeightAveraging:
    """Lightning's weight averaging with a growing decay; buffers are copied, not averaged.

    Args:
        decay: the decay in the long run, in (0, 1).
    """
    return Averaging(use_buffers=False, multi_avg_fn=_growing(decay))


class Averaging(WeightAveraging):
    """Lightning's, whose copy is made before the module is moved: here on the device where that will be."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the copy where training begins."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


def _growing(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        follow(averaged, current, grown_decay(decay, int(count)))

    return update


class MovingAverage(Generic[Network]):
    """The averaged copy of a network that is fitted outside a Trainer, e.g. to one scene.

    Args:
        network: what is fitted; the copy starts from its weights.
        decay: the decay in the long run, in [0, 1).

    Attributes:
        network: the copy, in evaluation mode.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.decay, self.updates = decay, 0
        self._source = network
        self._best = copy.deepcopy(self.network.state_dict())

    def update(self) -> None:
        """Take in the network's present weights; buffers are copied."""
        self.updates += 1
        averaged = [weight.detach() for weight in self.network.parameters()]
        current = [weight.detach() for weight in self._source.parameters()]
        if averaged:
            follow(averaged, current, grown_decay(self.decay, self.updates))
        for kept, new in zip(self.network.buffers(), self._source.buffers(), strict=True):
            kept.copy_(new)

    def keep(self) -> None:
        """Remember the present average as the best so far."""
        self._best = copy.deepcopy(self.network.state_dict())

    def best(self) -> Network:
        """The copy with the weights of the last :meth:`keep`, or those of the start."""
        self.network.load_state_dict(self._best)
        return self.network
