"""What every encoder is: tokens and one vector an input, from frozen weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError

POOLINGS = ("cls", "mean", "model")


@dataclass(frozen=True)
class Contract:
    """What an encoder takes; zeros and empty tuples where a value has no meaning for its kind.

    Attributes:
        channels: channels of a picture.
        size: side in pixels to which pictures are brought.
        patch: side of a patch in pixels; sides are multiples of it.
        mean: mean of each channel in [0, 1] that is taken off.
        std: deviation of each channel in [0, 1] by which is divided.
        frames: frames of a clip.
        sample_rate: samples a second of speech.
        stride: samples a token of speech.
        normalise: whether each utterance is brought to mean 0 and variance 1.
        min_length: fewest samples of an utterance.
        max_length: most samples of an utterance or pieces of a text; 0 for no limit.
    """

    channels: int = 0
    size: int = 0
    patch: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    frames: int = 0
    sample_rate: int = 0
    stride: int = 0
    normalise: bool = False
    min_length: int = 0
    max_length: int = 0


@dataclass(frozen=True)
class Features:
    """What an encoder says of a batch.

    Attributes:
        tokens: (batch, tokens, width), without class and register tokens, row by row.
        pooled: (batch, width).
        grid: how the tokens lie: (height, width) of pictures, (frames, height, width) of clips, (tokens,) of
            speech and text.
        mask: (batch, tokens), True where a token stands for input; None where all do.
        spans: of text, for each token of each input where it starts and ends in it, in characters; special
            tokens and padding have (0, 0).
    """

    tokens: Tensor
    pooled: Tensor
    grid: tuple[int, ...]
    mask: Tensor | None = None
    spans: list[list[tuple[int, int]]] | None = None


class Encoder(nn.Module):
    """A frozen network that turns inputs into tokens and into one vector each.

    It stays in evaluation mode whatever ``train()`` is called on around it, its weights need no gradient, and
    no graph is kept, unless asked: ``gradient=True`` lets gradients flow to the input, ``requires_grad_()``
    to the weights.

    Args:
        network: the network; its weights are frozen.
        kind: ``image``, ``speech``, ``text`` or ``video``.
        name: a short name that results carry, e.g. ``dinov2``.
        width: values of a token.
        contract: what the network takes.
        pooling: ``cls`` (first token), ``mean`` (of the tokens) or ``model`` (the network's own pooler).
        layer: layers passed before tokens are taken, before any final norm; 0 is what enters the first,
            negative counts from the end; None takes the network's output.
    """

    def __init__(
        self,
        network: nn.Module,
        kind: str,
        name: str,
        width: int,
        contract: Contract,
        pooling: str = "mean",
        layer: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling={pooling!r} is unknown", f"give one of {', '.join(POOLINGS)}")
        self.network = network.eval().requires_grad_(False)
        self.kind, self.name, self.width = kind, name, width
        self.contract, self.pooling = contract, pooling
        self.layer = layer
        self._layers: nn.ModuleList | None = None
        self._identity: tuple[int, str] | None = None
        if layer is not None:
            self._cut(layer)

    def encode(self, inputs: Any, *, gradient: bool | None = None, **options: Any) -> Features:
        """Tokens, pooled vectors and the grid of a batch, in one pass.

        Args:
            inputs: a batch as the subclass describes it.
            gradient: keep the graph; None keeps it only while the weights themselves are trained.
            options: what the kind needs besides, such as ``sample_rate`` of speech.

        Raises:
            ValueError: for inputs of another shape, type or range.
        """
        if gradient is None:
            gradient = any(weight.requires_grad for weight in self.network.parameters())
        with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            prepare: Any = self.prepare
            return self.run(prepare(inputs, **options))

    def tokens(self, inputs: Any, *, gradient: bool | None = None, **options: Any) -> Tensor:
        """Tokens of a batch, (batch, tokens, width); see :meth:`encode`."""
        return self.encode(inputs, gradient=gradient, **options).tokens

    def pooled(self, inputs: Any, *, gradient: bool | None = None, **options: Any) -> Tensor:
        """One vector an input, (batch, width); see :meth:`encode`."""
        return self.encode(inputs, gradient=gradient, **options).pooled

    @override
    def forward(self, inputs: Any, **options: Any) -> Features:
        return self.encode(inputs, **options)

    def prepare(self, inputs: Any) -> Any:
        """Bring inputs into the form that the network takes; differentiable for pictures and speech."""
        raise TypeError(f"{type(self).__name__} has no prepare(inputs); write one")

    def run(self, prepared: Any) -> Features:
        """Pass prepared inputs through the network."""
        raise TypeError(f"{type(self).__name__} has no run(prepared); write one")

    @override
    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen encoder inside a network that trains has no dropout."""
        return super().train(False)

    @property
    def identity(self) -> str:
        """32 hexadecimal digits of all that features depend on: weights, settings, input contract.

        Worked out from the weights themselves, so that it follows them when they are trained.
        """
        state = [*self.network.named_parameters(), *self.network.named_buffers()]
        trained = any(tensor.requires_grad for _, tensor in state)
        version = sum(tensor._version for _, tensor in state)
        if self._identity is None or trained or self._identity[0] != version:
            self._identity = version, _digest(dict(state))
        return hashlib.blake2b(
            (self._identity[1] + json.dumps(self.settings(), sort_keys=True, default=str)).encode(),
            digest_size=16,
        ).hexdigest()

    def settings(self) -> dict[str, Any]:
        """What features depend on besides the weights, as plain values."""
        config = getattr(self.network, "config", None)
        network = {} if config is None else config.to_dict()
        for name in ("_name_or_path", "transformers_version", "_attn_implementation"):
            network.pop(name, None)
        return {
            "class": f"{type(self).__name__} of {type(self.network).__name__}",
            "network": network,
            "contract": asdict(self.contract),
            "pooling": self.pooling,
            "layer": self.layer,
        }

    def hidden(self, **prepared: Any) -> tuple[Tensor, Any]:
        """Pass the network and return what ``layer`` asks for, and the network's whole output."""
        if self._layers is None:
            output = self.network(**prepared)
            return output.last_hidden_state, output
        caught: list[Any] = []
        if self.layer == 0:
            handle = self._layers[0].register_forward_pre_hook(
                lambda _, args, kwargs: caught.append((*args, *kwargs.values())), with_kwargs=True
            )
        else:
            handle = self._layers[-1].register_forward_hook(lambda _, args, out: caught.append(out))
        try:
            output = self.network(**prepared)
        finally:
            handle.remove()
        states = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
        return states, output

    def pool(self, tokens: Tensor, first: Tensor | None, own: Tensor | None, mask: Tensor | None) -> Tensor:
        """One vector an input, by the encoder's ``pooling``.

        Args:
            tokens: (batch, tokens, width).
            first: the class token, (batch, width), or None.
            own: the network's own pooled vector, or None.
            mask: (batch, tokens), or None.
        """
        if self.pooling == "mean":
            if mask is None:
                return tokens.mean(1)
            weight = mask.to(tokens.dtype)[..., None]
            return (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)
        vector = first if self.pooling == "cls" else own
        if vector is None:
            what = "class token" if self.pooling == "cls" else "pooler of its own"
            raise ConfigError(f"{self.name} has no {what}", "give pooling=mean")
        return vector

    def _cut(self, layer: int) -> None:
        """Find the layers, and drop those behind the one asked for: they are never needed."""
        layers = _layers_of(self.network)
        depth = len(layers)
        if not -depth - 1 <= layer <= depth:
            raise ConfigError(f"{self.name} has {depth} layers, not {layer}", f"give layer=0 to {depth}")
        self.layer = layer if layer >= 0 else depth + 1 + layer
        del layers[max(1, self.layer) :]
        self._layers = layers


def full(values: Tensor) -> Tensor:
    """Values in float32 at least."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _layers_of(network: nn.Module) -> nn.ModuleList:
    config = getattr(network, "config", None)
    names = ("num_hidden_layers", "encoder_layers", "encoder_num_hidden_layers", "num_layers")
    depths = {getattr(config, name, None) for name in names}
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList) and len(part)]
    fitting = [part for part in lists if len(part) in depths] or lists
    if not fitting:
        raise ConfigError(f"{type(network).__name__} has no list of layers", "leave layer out")
    return max(fitting, key=lambda part: sum(weight.numel() for weight in part.parameters()))


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
