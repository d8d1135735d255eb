"""Self-conditioning on an own intermediate block (DDAE++; Xiang et al. 2025): about 1 % more work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation.hooks import Layer, blocks_of, first_tensor, layer_name
from diffusion_suite.core.representation.pooling import pool


class SelfConditioned(nn.Module):
    """A network whose later blocks are conditioned on what one of its blocks has made of the input.

    The mean over the places of that block's output passes a linear map, zero at the start, and is added to
    the condition vector of all blocks behind it. It is called as the network is, trains with it and is saved
    with it. The pooled vector of the last pass is kept as `bottleneck`, e.g. for a contrastive loss.

    Args:
        network: any with blocks that take a condition vector (batch, condition width).
        block: the bottleneck, about half-way.
        width: of its output.
        condition_width: of the condition vector.
        later: the blocks behind it; None takes all later ones of the network's list of blocks.
        argument: the blocks' condition: the position of the argument, or its name.

    Raises:
        ConfigError: no such layer, or no block behind the bottleneck.
    """

    def __init__(
        self,
        network: nn.Module,
        block: Layer,
        width: int,
        condition_width: int,
        later: Sequence[Layer] | None = None,
        argument: int | str = 1,
    ) -> None:
        super().__init__()
        self.network, self.argument = network, argument
        self.map = nn.Linear(width, condition_width)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.bottleneck: Tensor | None = None
        source = layer_name(network, block)
        names = list(blocks_of(network)) if later is None else [layer_name(network, one) for one in later]
        behind = names[names.index(source) + 1 :] if later is None else names
        if not behind:
            raise ConfigError(f"no block comes after {source}", "take an earlier block")
        network.get_submodule(source).register_forward_hook(self._keep)
        for name in behind:
            network.get_submodule(name).register_forward_pre_hook(self._add, with_kwargs=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output for the network's arguments."""
        return self.network(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # What a pass left behind belongs to its graph, and cannot be copied.
        return {**self.__dict__, "bottleneck": None}

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        values = first_tensor(output)
        self.bottleneck = pool(values, "mean", values)

    def _add(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self.bottleneck is not None
        own = self.map(self.bottleneck)
        if isinstance(self.argument, str):
            return args, kwargs | {self.argument: kwargs[self.argument] + own}
        changed = list(args)
        changed[self.argument] = changed[self.argument] + own
        return tuple(changed), kwargs
