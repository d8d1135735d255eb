"""Where each token of a text looks: cross-attention maps of U-Nets and transformers.

Queries and keys are read by hooks where the network computes them, so that its attention processors
(fused, sliced, with adapters) stay as they are and its output does not change by a bit.

    sums = AttentionSum()
    with reading_attention(unet, sums, size=latents.shape[-2:]):
        for t in times:
            unet(noised(latents, t), t, encoder_hidden_states=text)
    maps = sums.mean((64, 64))  # (batch, tokens, 64, 64)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation.pooling import token_grid
from diffusion_suite.core.schedulers import Denoiser, Noise, step_noise

Sink = Callable[[str, Tensor], None]
Enlarging = Literal["nearest", "bilinear"]


class AttentionSum:
    """A sink that adds up maps layer by layer, at the resolution of each.

    Attributes:
        layers: sums (batch, tokens, rows, columns) by layer name, in the order in which they are passed.
        passes: how many maps each layer has given.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Tensor] = {}
        self.passes: dict[str, int] = {}

    def __call__(self, layer: str, maps: Tensor) -> None:
        """Take the maps of one layer in one pass, (batch, tokens, rows, columns)."""
        self.layers[layer] = self.layers[layer] + maps if layer in self.layers else maps
        self.passes[layer] = self.passes.get(layer, 0) + 1

    def mean(self, size: tuple[int, int] | None = None, mode: Enlarging = "nearest") -> Tensor:
        """Mean over passes and layers, each layer alike: (batch, tokens, height, width).

        Args:
            size: height and width; None takes those of the largest layer.
            mode: how smaller maps are enlarged.

        Raises:
            ConfigError: no map has been taken.
        """
        if not self.layers:
            raise ConfigError("no attention was read", "run the network inside reading_attention")
        means = [maps / self.passes[layer] for layer, maps in self.layers.items()]
        if size is None:
            largest = max(means, key=lambda maps: maps.shape[-2] * maps.shape[-1])
            size = (largest.shape[-2], largest.shape[-1])
        return torch.stack([_resized(maps, size, mode) for maps in means]).mean(0)


def cross_attention_maps(
    denoiser: Denoiser,
    x0: Tensor,
    times: Sequence[float],
    *,
    noise: Noise,
    tokens: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    mode: Enlarging = "nearest",
    network: nn.Module | None = None,
    **cond: Any,
) -> Tensor:
    """Attention of every token on noised data, averaged over heads, layers and times.

    Args:
        denoiser: a model of data and text; it is passed once a time.
        x0: data, or latents, (batch, channels, height, width).
        times: at which the data are noised, each anew.
        noise: generator(s), or values (times, *x0.shape).
        tokens: places of the tokens whose maps are wanted; None for all.
        layers: module names; None for all cross-attention layers.
        size: height and width of the maps; None for those of the largest layer.
        mode: how smaller maps are enlarged.
        network: the module that holds the layers; None takes the denoiser's model.
        cond: conditions for the model, the text among them.

    Returns:
        (batch, tokens, height, width), at least float32; over all tokens the values of a place sum to 1.

    Raises:
        ConfigError: the network has no cross-attention, or a layer is unknown.
    """
    inside = network if network is not None else denoiser.model
    if not isinstance(inside, nn.Module):
        raise ConfigError("the denoiser's model is no module", "pass network=, the module it calls")
    sums = AttentionSum()
    with reading_attention(inside, sums, size=(x0.shape[-2], x0.shape[-1]), tokens=tokens, layers=layers):
        for index, t in enumerate(times):
            x_t = denoiser.path.add_noise(x0, step_noise(noise, index, x0), t)
            denoiser.predict(x_t, t, **cond)
    return sums.mean(size, mode)


@contextmanager
def reading_attention(
    network: nn.Module,
    sink: Sink,
    *,
    size: tuple[int, int],
    tokens: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
) -> Iterator[None]:
    """Within the block, hand the cross-attention of every pass to a sink.

    Args:
        network: with attention modules as those of diffusers: `to_q`, `to_k` and `heads`.
        sink: called with a layer's name and its maps softmax(q k / sqrt(d)), the mean over heads, (batch,
            tokens, rows, columns).
        size: height and width of the network's input, which tell how queries lie in rows and columns.
        tokens: places of the tokens that are handed on; None for all.
        layers: module names; None for all cross-attention layers.

    Raises:
        ConfigError: the network has no cross-attention, or a layer is unknown.
    """
    known = {
        name: part
        for name, part in network.named_modules()
        if hasattr(part, "to_q") and hasattr(part, "to_k")
    }
    crossing = [name for name, part in known.items() if getattr(part, "is_cross_attention", False)]
    names = crossing if layers is None else list(layers)
    if not names or set(names) - set(known):
        problem = f"{type(network).__name__} has no cross-attention layers {sorted(set(names) - set(known))}"
        raise ConfigError(problem, f"it has {', '.join(crossing) or 'none at all'}")
    with ExitStack() as stack:
        for name in names:
            for handle in _read(name, known[name], sink, size, tokens):
                stack.callback(handle.remove)
        yield


def _read(
    name: str, layer: nn.Module, sink: Sink, size: tuple[int, int], tokens: Sequence[int] | None
) -> Iterator[Any]:
    """Place the hooks on one layer: its queries and keys, its mask, and the end of its pass."""
    seen: dict[str, Tensor | None] = {}

    def keep(part: str) -> Any:
        return lambda _module, _inputs, output: seen.update({part: output})

    def begin(_module: nn.Module, _inputs: Any, named: dict[str, Any]) -> None:
        seen["mask"] = named.get("attention_mask")

    def end(module: nn.Module, _inputs: Any, _output: Any) -> None:
        query, key = (_by_head(seen.pop(part), int(module.heads)) for part in ("query", "key"))  # type: ignore[arg-type]
        maps = _weights(
            query, key, float(getattr(module, "scale", query.shape[-1] ** -0.5)), seen["mask"]
        ).mean(1)
        chosen = maps if tokens is None else maps[:, :, list(tokens)]
        grid = token_grid(chosen.shape[1], *size)
        sink(name, chosen.transpose(1, 2).reshape(chosen.shape[0], -1, *grid))

    yield layer.register_forward_pre_hook(begin, with_kwargs=True)
    yield layer.register_forward_hook(end)
    for part, linear, norm in (("query", "to_q", "norm_q"), ("key", "to_k", "norm_k")):
        yield getattr(layer, linear).register_forward_hook(keep(part))
        if isinstance(getattr(layer, norm, None), nn.Module):
            yield getattr(layer, norm).register_forward_hook(keep(part))


def _by_head(values: Tensor, heads: int) -> Tensor:
    """Queries or keys as (batch, heads, places, width)."""
    if values.ndim == 3:
        return values.reshape(*values.shape[:2], heads, -1).transpose(1, 2)
    return values if values.shape[1] == heads else values.transpose(1, 2)


def _weights(query: Tensor, key: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(dtype) @ key.to(dtype).transpose(-1, -2) * scale
    if mask is not None:
        while mask.ndim < 4:
            mask = mask.unsqueeze(1)
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(dtype)
        )
    return torch.softmax(scores, -1)


def _resized(maps: Tensor, size: tuple[int, int], mode: Enlarging) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    if mode == "nearest":
        return F.interpolate(maps, size, mode="nearest-exact")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
