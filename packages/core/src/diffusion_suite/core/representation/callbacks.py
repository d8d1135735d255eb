"""Add-ons to training that shape the representation: REPA and ERW, SRA, CEP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation.add_on import AddOn, averaged
from diffusion_suite.core.representation.alignment import (
    Decay,
    Distance,
    Head,
    Projector,
    repa_loss,
    sra_loss,
    teacher_times,
)
from diffusion_suite.core.representation.hooks import Call, Layer, layer_name, reading, watching
from diffusion_suite.core.representation.perturbation import Spread, perturb, spread_values
from diffusion_suite.core.representation.pooling import resize_tokens, token_grid

if TYPE_CHECKING:
    from diffusion_suite.core.training.module import SuiteModule

Teacher = Callable[[Any], Tensor]


class RepresentationAlignment(AddOn):
    """REPA: hidden tokens of one block predict those of a frozen teacher that sees the clean data.

    With `clean_warmup` it is ERW: while the weight's warm-up lasts, the network sees clean data at time 0
    and the alignment is the only loss, so that the blocks up to `block` train alone; then the denoising
    loss joins, and the weight falls. (Under DDP the warm-up needs `ddp_find_unused_parameters_true`.)

    Args:
        block: whose output is aligned, a quarter to a third of the way through the network.
        teacher: called with the batch under `no_grad`, as it comes from the loader: tokens (batch, tokens,
            width) in rows over the data, or maps (batch, width, rows, columns). It may look features up that
            were made before. A module is moved to the device and to evaluation mode.
        width: of the block's tokens.
        teacher_width: of the teacher's.
        hidden: width of the projector.
        weight: of the loss, over the optimiser steps.
        clean_warmup: see above; needs a module that sets `noised`.
        network: name of the network in the module, called with (x_t, t, ...).
    """

    name: ClassVar[str] = "representation_alignment"

    def __init__(
        self,
        block: Layer,
        teacher: Teacher,
        *,
        width: int,
        teacher_width: int,
        hidden: int = 2048,
        weight: Decay | None = None,
        clean_warmup: bool = False,
        network: str = "network",
    ) -> None:
        self.block, self.teacher, self.network = block, teacher, network
        self.widths = (width, teacher_width, hidden)
        self.weight = Decay() if weight is None else weight
        self.clean_warmup = clean_warmup
        self._tokens: Tensor | None = None
        self._call: Call | None = None

    @override
    def weights(self) -> nn.Module:
        return Projector(*self.widths)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(self.teacher, nn.Module):
            self.teacher.to(pl_module.device).eval()

    @override
    @contextmanager
    def watch(self, module: SuiteModule, generator: torch.Generator) -> Iterator[None]:
        network = module.get_submodule(self.network)
        name = layer_name(network, self.block)

        def cleaned(call: Call) -> Call:
            noised = self.noised(module)
            return _replaced(call, noised.x0, torch.zeros_like(noised.t), self.name)

        with (
            watching(network, cleaned if self._warming(module) else None) as calls,
            reading(network, [name]) as seen,
        ):
            yield
        self._tokens, self._call = _once(seen, name, calls, self.name)

    @override
    def amend(
        self, module: SuiteModule, batch: Any, values: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        tokens, call = self._tokens, self._call
        self._tokens = self._call = None
        assert tokens is not None
        assert call is not None
        with torch.no_grad():
            teacher = self.teacher(batch)
        tokens, teacher = _matched(tokens, teacher, call.args[0])
        projected = module.add_ons[self.name](tokens)
        loss = repa_loss(projected, teacher)
        values = values | {self.name: loss.detach()}
        added = self.weight(module.global_step) * loss
        values["loss"] = added if self._warming(module) else values["loss"] + added
        return values

    def _warming(self, module: SuiteModule) -> bool:
        return self.clean_warmup and module.global_step < self.weight.warmup


class SelfAlignment(AddOn):
    """SRA: an early block on noisy data predicts a later block of the averaged network on cleaner data.

    The teacher sees the same data, noise and conditions (dropped ones too) at times max(t - back u, 0), u
    uniform, one an item. The run must keep averaged weights, and the module must set `noised`.

    Args:
        student: block whose output passes the head; about 2/7 of the way through the network.
        teacher: block of the averaged network, deeper; about 5/7 of the way.
        width: of the tokens of both.
        distance: see `sra_loss`.
        weight: of the loss, over the optimiser steps.
        back: how much cleaner the teacher's data are at most, in the path's times: 0.2 of the longest.
        network: name of the network in the module, called with (x_t, t, ...).
    """

    name: ClassVar[str] = "self_alignment"

    def __init__(
        self,
        student: Layer,
        teacher: Layer,
        *,
        width: int,
        distance: Distance = "cosine",
        weight: Decay | None = None,
        back: float = 0.2,
        network: str = "network",
    ) -> None:
        if distance not in get_args(Distance):
            raise ConfigError(f"unknown distance {distance!r}", f"use one of {', '.join(get_args(Distance))}")
        self.student, self.teacher, self.width, self.distance = student, teacher, width, distance
        self.weight = Decay() if weight is None else weight
        self.back, self.network = back, network
        self._tokens: Tensor | None = None
        self._call: Call | None = None

    @override
    def weights(self) -> nn.Module:
        return Head(self.width)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The copy is made before the module moves to its device.
        averaged(trainer).to(pl_module.device).eval()

    @override
    @contextmanager
    def watch(self, module: SuiteModule, generator: torch.Generator) -> Iterator[None]:
        network = module.get_submodule(self.network)
        name = layer_name(network, self.student)
        with watching(network) as calls, reading(network, [name]) as seen:
            yield
        self._tokens, self._call = _once(seen, name, calls, self.name)

    @override
    def amend(
        self, module: SuiteModule, batch: Any, values: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        tokens, call = self._tokens, self._call
        self._tokens = self._call = None
        assert tokens is not None
        assert call is not None
        noised = self.noised(module)
        u = torch.rand(len(noised.t), generator=generator, device=generator.device)
        t = teacher_times(noised.t.to(u), u, self.back)
        t = t if noised.t.is_floating_point() else t.round().to(noised.t)
        network = averaged(module.trainer).get_submodule(self.network)
        name = layer_name(network, self.teacher)
        with torch.no_grad(), reading(network, [name]) as seen:
            again = _replaced(call, noised.path.add_noise(noised.x0, noised.eps, t), t, self.name)
            network(*again.args, **again.kwargs)
        tokens, teacher = _matched(tokens, seen[name], call.args[0])
        loss = sra_loss(module.add_ons[self.name](tokens), teacher, self.distance)
        values = values | {self.name: loss.detach()}
        values["loss"] = values["loss"] + self.weight(module.global_step) * loss
        return values


class ConditionPerturbation(AddOn):
    """CEP: in training steps the output of an embedding is perturbed, that of the null condition is not.

    Args:
        embedding: module name of the embedding in the Lightning module, e.g. `network.label`.
        gamma: 1 for training from scratch, less for fine-tuning.
        kind: of the values, `uniform` or `normal`.
        null: number of the null class, for an embedding that is given class numbers.
    """

    name: ClassVar[str] = "condition_perturbation"

    def __init__(
        self, embedding: str, *, gamma: float = 1.0, kind: Spread = "uniform", null: int | None = None
    ) -> None:
        if kind not in get_args(Spread):
            raise ConfigError(f"unknown perturbation {kind!r}", f"use one of {', '.join(get_args(Spread))}")
        self.embedding, self.gamma, self.kind, self.null = embedding, gamma, kind, null

    @override
    @contextmanager
    def watch(self, module: SuiteModule, generator: torch.Generator) -> Iterator[None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            changed = perturb(output, spread_values(self.kind, output, generator), self.gamma)
            if self.null is None:
                return changed
            return torch.where((inputs[0] == self.null)[..., None], output, changed)

        name = layer_name(module, self.embedding)
        handle = module.get_submodule(name).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _once(seen: Any, name: str, calls: list[Call], add_on: str) -> tuple[Tensor, Call]:
    """The layer's output and the arguments of the one pass of a step."""
    if len(calls) != 1 or name not in seen:
        raise ConfigError(
            f"{add_on} wants one pass of the network through {name} in a step, and there were {len(calls)}",
            "name another network or layer",
        )
    return seen[name], calls[0]


def _replaced(call: Call, x_t: Tensor, t: Tensor, add_on: str) -> Call:
    """The call at another state and time."""
    first = call.args[0] if call.args else None
    if len(call.args) < 2 or not isinstance(first, Tensor) or first.shape != x_t.shape:
        raise ConfigError(
            f"{add_on} wants a network called with (x_t, t, ...), x_t of the shape {tuple(x_t.shape)}",
            "name another network",
        )
    return Call((x_t.to(first), t.to(call.args[1]), *call.args[2:]), call.kwargs)


def _matched(student: Tensor, teacher: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of both, (batch, tokens, width), the teacher's interpolated to the student's grid."""
    tokens, grid = _tokens(student)
    others, other = _tokens(teacher)
    if tokens.shape[1] != others.shape[1]:
        grid = token_grid(tokens.shape[1], *like.shape[-2:]) if grid is None else grid
        other = token_grid(others.shape[1], *like.shape[-2:]) if other is None else other
        others = resize_tokens(others, other, grid)
    return tokens, others


def _tokens(values: Tensor) -> tuple[Tensor, tuple[int, int] | None]:
    if values.ndim != 4:
        return values, None
    return values.flatten(2).transpose(1, 2), (values.shape[-2], values.shape[-1])
