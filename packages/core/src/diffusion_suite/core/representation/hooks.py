"""Reading what goes on inside a network, by hooks that are always taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError

Layer = str | int

_LISTS = ("blocks", "transformer_blocks", "layers")


def blocks_of(network: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a network in the order in which they are passed, by their module names.

    A transformer's blocks are its list `blocks`, `transformer_blocks` or `layers`; those of a U-Net are
    `down_blocks`, `mid_block` and `up_blocks`. A wrapper with one child is looked into.

    Raises:
        ConfigError: the network has none of these.
    """
    found: dict[str, nn.Module] = {}
    for name in (*_LISTS, "down_blocks", "mid_block", "up_blocks"):
        part = getattr(network, name, None)
        if isinstance(part, nn.ModuleList):
            found |= {f"{name}.{index}": block for index, block in enumerate(part)}
        elif isinstance(part, nn.Module):
            found[name] = part
    children = list(network.named_children())
    if not found and len(children) == 1:
        inside = blocks_of(children[0][1])
        return {f"{children[0][0]}.{name}": block for name, block in inside.items()}
    if not found:
        raise ConfigError(
            f"{type(network).__name__} has no list of blocks", "give layers by their module names"
        )
    return found


def layer_name(network: nn.Module, layer: Layer) -> str:
    """The module name of a layer.

    Args:
        network: the network it belongs to.
        layer: a module name, or the index of a block (see `blocks_of`), negative from the end.

    Raises:
        ConfigError: no such layer.
    """
    if isinstance(layer, str):
        if layer not in dict(network.named_modules()):
            raise ConfigError(f"{type(network).__name__} has no layer {layer!r}", "give a module name")
        return layer
    names = list(blocks_of(network))
    if not -len(names) <= layer < len(names):
        raise ConfigError(
            f"{type(network).__name__} has {len(names)} blocks", f"give a layer below {len(names)}"
        )
    return names[layer]


@contextmanager
def reading(network: nn.Module, layers: Sequence[Layer]) -> Iterator[Mapping[str, Tensor]]:
    """Within the block, each pass of the network leaves the outputs of some layers in a dict, by their names.

    Nothing is copied; the outputs carry gradients if the pass does. A layer that is passed twice leaves its
    last output; of an output with several parts the first tensor is taken.

        with reading(network, [1, "norm"]) as found:
            network(x_t, t)
        found["blocks.1"], found["norm"]

    Raises:
        ConfigError: no such layer.
    """
    names = [layer_name(network, layer) for layer in layers]
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found[name] = first_tensor(output)

        return hook

    with ExitStack() as stack:
        for name in names:
            handle = network.get_submodule(name).register_forward_hook(keep(name))
            stack.callback(handle.remove)
        yield found


@dataclass
class Call:
    """The arguments of one pass of a network."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@contextmanager
def watching(network: nn.Module, change: Callable[[Call], Call] | None = None) -> Iterator[list[Call]]:
    """Within the block, write down the arguments of each pass of a network, as they were given.

    Args:
        network: what is called.
        change: replaces the arguments before they enter.
    """
    calls: list[Call] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls.append(Call(args, kwargs))
        if change is None:
            return None
        changed = change(calls[-1])
        return changed.args, changed.kwargs

    handle = network.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def first_tensor(output: Any) -> Tensor:
    """The tensor of a layer's output, or the first of its parts that is one.

    Raises:
        TypeError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    for part in parts if isinstance(parts, (tuple, list)) or isinstance(output, Mapping) else ():
        if isinstance(part, Tensor):
            return part
    raise TypeError(f"the layer gives a {type(output).__name__} without a tensor")
