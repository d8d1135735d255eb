"""Distillation as a training module that any domain can use.

A domain says which network is distilled and what its batches hold:

    class DigitStudent(DistillationModule):
        def __init__(self, settings: Distillation, width: int = 64) -> None:
            super().__init__(settings)
            self.adopt(TinyTransformer(width=width), RectifiedFlow(), "velocity")

        def prepare(self, batch):
            return Prepared(batch["image"], {"label": batch["label"]}, {"label": 10})

    module = DigitStudent(settings)
    fit(module, data, TrainConfig(steps=settings.total, init="runs/teacher/last.ckpt"), folder)
    ddim(module.denoiser, noise, module.times(), label=label, guidance=scale)
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.checkpoints import Pretrained, load_weights
from diffusion_suite.core.distillation.config import Distillation
from diffusion_suite.core.distillation.guidance import WithGuidance, guidance_loss
from diffusion_suite.core.distillation.progressive import check_start, progressive_loss
from diffusion_suite.core.errors import CheckpointError, ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    Denoiser,
    DiscreteVP,
    Path,
    PredictionType,
    even_times,
    index_times,
    karras_times,
    standard_normal,
    uniforms,
)
from diffusion_suite.core.training.config import rate_factor
from diffusion_suite.core.training.module import SuiteModule, read_checkpoint


class Prepared(NamedTuple):
    """A batch as distillation takes it.

    Attributes:
        x0: clean data, (batch, ...).
        cond: conditions of the network by name.
        null: what stands for no condition, as in `guidance.ClassifierFree`; may be empty without guidance.
    """

    x0: Tensor
    cond: dict[str, Any]
    null: dict[str, Any]


class DistillationModule(SuiteModule):
    """A student that learns guidance, then to make half as many steps, again and again, in one run.

    At the start of each stage the teacher becomes a frozen copy of the student. The learning rate warms up
    and falls in each stage. Checkpoints hold the student's averaged weights and the teacher: a killed
    run resumes exactly.

    Args:
        settings: what is distilled, or the same as a mapping.
    """

    def __init__(self, settings: Distillation | Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = settings if isinstance(settings, Distillation) else Distillation(**settings)
        self.settings.check()

    def adopt(
        self,
        network: nn.Module,
        path: Path,
        prediction_type: PredictionType,
        times: Sequence[float] | None = None,
    ) -> None:
        """Take a network as the first teacher and as the student's start.

        Args:
            network: (x_t, t, **cond) -> tensor; with guidance also the keyword `guidance`, see
                `WithGuidance`. Its weights may still come from the key `init`.
            path: on which it was trained.
            prediction_type: what it returns.
            times: those of the first teacher's steps, `first` + 1 from the start to the clean end; by default
                even; the indices of a table; the noise levels of Karras for EDM.

        Raises:
            ConfigError: the times do not fit, or the network predicts noise where there is nothing else.
        """
        first = self.settings.first
        if times is None:
            times = _default_times(path, first)
        if len(times) != first + 1:
            raise ConfigError(f"{len(times)} times for {first} steps", f"give {first + 1}")
        check_start(path, prediction_type, times[0])
        self.student, self.path = network, path
        self.prediction_type: PredictionType = prediction_type
        self._times = list(times)
        self._teacher = _Apart(copy.deepcopy(network).requires_grad_(False).eval())

    def prepare(self, batch: Any) -> Prepared:
        """Clean data and conditions of a batch of the data module; to be written by each domain."""
        raise TypeError(f"{type(self).__name__} has no prepare(batch); write one")

    @property
    def denoiser(self) -> Denoiser:
        """The student as samplers take it."""
        return Denoiser(self.student, self.path, self.prediction_type)

    def times(self, steps: int | None = None) -> list[float]:
        """The times of a sampler with a number of steps; the last student's by default.

        Raises:
            ConfigError: no student or teacher makes so many steps.
        """
        steps = self.settings.last if steps is None else steps
        if steps < 1 or self.settings.first % steps:
            raise ConfigError(
                f"{steps} steps are no part of the first teacher's {self.settings.first}",
                "give a divisor of it",
            )
        return self._times[:: self.settings.first // steps]

    @override
    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        """The loss of the stage of this step, at a random one of the student's times."""
        stage = self.settings.stage(self.global_step)
        x0, cond, null = self.prepare(batch)
        eps = standard_normal(generator, x0)
        steps = (uniforms(len(x0), generator) * stage.steps).long().to(x0.device)
        scale = self._scales(len(x0), generator).to(x0.device)
        teacher = Denoiser(self._teacher.network, self.path, self.prediction_type)
        if stage.guided:
            t = self._at(stage.steps, x0)[steps]
            x_t = self.path.add_noise(x0, eps, t)
            return guidance_loss(self.denoiser, teacher, null, x_t, t, scale, **cond)
        if self.settings.guidance:
            cond = {**cond, "guidance": scale}
        fine = self._at(2 * stage.steps, x0)
        times = [fine[2 * steps + part] for part in range(3)]
        z = self.path.add_noise(x0, eps, times[0])
        return progressive_loss(self.denoiser, teacher, z, times, **cond)

    def on_fit_start(self) -> None:
        """Bring the teacher to the device.

        Raises:
            ConfigError: the training is not as long as the stages.
        """
        if self.config.steps != self.settings.total:
            raise ConfigError(
                f"steps={self.config.steps}, but the stages of this distillation take {self.settings.total}",
                f"give steps={self.settings.total}",
                "steps",
            )
        self._teacher.network.to(self.device, next(self.student.parameters()).dtype)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """At the start of a stage make the student the teacher."""
        if self.global_step == self.settings.stage(self.global_step).start:
            self._teacher.network.load_state_dict(self.student.state_dict())

    @override
    def configure_optimizers(self) -> Any:
        """As `SuiteModule`, with the warm-up and fall of the learning rate in each stage."""
        made = super().configure_optimizers()
        made["lr_scheduler"]["scheduler"] = torch.optim.lr_scheduler.LambdaLR(made["optimizer"], self._rate)
        return made

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the teacher in the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher"] = self._teacher.network.state_dict()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the teacher from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self._teacher.network.load_state_dict(checkpoint["teacher"])

    @override
    def start_from(self, source: str) -> None:
        """Start from a trained network.

        Args:
            source: a `.ckpt` of any module that holds the network's weights under some prefix (of this class,
                or the one that trained the network), or what its `from_pretrained` takes.

        Raises:
            CheckpointError: when nothing is there, or it is of another network.
        """
        network = self.student.network if isinstance(self.student, WithGuidance) else self.student
        if source.endswith(".ckpt"):
            state = read_checkpoint(FilePath(source))["state_dict"]
            for part in (self.student, network):
                found = _below(state, part.state_dict())
                if found is not None:
                    load_weights(part, found, source)
                    return
            raise CheckpointError(
                f"{source} holds no {type(network).__name__} of this size",
                "give the checkpoint of its training",
            )
        if not isinstance(network, Pretrained):
            raise CheckpointError(f"{type(self).__name__} cannot start from {source!r}", "give a .ckpt file")
        load_weights(network, type(network).from_pretrained(source).state_dict(), source)

    def _scales(self, count: int, generator: torch.Generator) -> Tensor:
        low, high = self.settings.guidance or (1.0, 1.0)
        return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)

    def _at(self, steps: int, like: Tensor) -> Tensor:
        times = torch.tensor(self.times(steps), device=like.device, dtype=torch.float64)
        whole = all(isinstance(time, int) for time in self._times)
        return times.long() if whole else times.to(torch.promote_types(like.dtype, torch.float32))

    def _rate(self, step: int) -> float:
        stage = self.settings.stage(step)
        return rate_factor(step - stage.start, dataclasses.replace(self.config, steps=stage.length))


def _default_times(path: Path, steps: int) -> Sequence[float]:
    if isinstance(path, DiscreteVP):
        return index_times(len(path), steps)
    return karras_times(steps) if isinstance(path, EDM) else even_times(steps)


class _Apart:
    """A network that is no part of the module that holds it: not trained, averaged, wrapped or copied."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _below(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The weights of a network of which a state holds all, of the same shapes, below one prefix."""
    first = next(iter(wanted))
    for prefix in sorted(key.removesuffix(first) for key in state if key.endswith(first)):
        found = {name: state.get(prefix + name) for name in wanted}
        if all(value is not None and value.shape == wanted[name].shape for name, value in found.items()):
            return {name: value for name, value in found.items() if value is not None}
    return None
