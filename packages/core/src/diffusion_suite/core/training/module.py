"""The base of every LightningModule of the suite: optimiser, keyed noise, plain hyper-parameters.

A system writes its network and its loss, nothing else:

    class PriorModule(SuiteModule):
        def __init__(self, channels: int = 64) -> None:
            super().__init__()
            self.network = Prior(channels)

        def loss(self, batch, generator):
            noise = torch.randn(batch.shape, generator=generator, device=batch.device)
            return (self.network(batch + noise) - batch).square().mean()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core import seeding
from diffusion_suite.core.checkpoints import Pretrained, load_weights
from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.core.representation.add_on import AddOn, Noised
from diffusion_suite.core.training.config import TrainConfig, rate_factor

ADD_ONS = "add_ons."


class SuiteModule(LightningModule):
    """A LightningModule whose steps are functions of ``(seed, step, rank)``: a killed run resumes exactly.

    The arguments of a subclass's ``__init__`` become its hyper-parameters. They must be plain (numbers, text,
    lists, dicts; dataclasses and paths are turned into those), so that its checkpoints load with
    ``weights_only=True``.
    """

    add_ons: nn.ModuleDict
    """Weights of add-ons (see `core.representation.add_on`), only there while a run with them lasts."""

    noised: Noised | None = None
    """What `loss` noised, for add-ons that ask; a loss that sets it works with all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.config = TrainConfig()
        self.add_ons = nn.ModuleDict()
        self.save_hyperparameters(logger=False)
        for name, value in list(self.hparams.items()):
            self.hparams[name] = plain(value, name)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """The module with the averaged weights of a checkpoint, in evaluation mode, on the CPU.

        As ``load_from_checkpoint``, with errors that a user can read.

        Raises:
            CheckpointError: when the file is missing, unreadable, or of another module.
        """
        content = read_checkpoint(Path(path))
        try:
            module = cls(**content.get("hyper_parameters", {}))
        except TypeError as error:
            raise CheckpointError(
                f"{path} is not for {cls.__name__} ({error})", "give another checkpoint"
            ) from error
        load_weights(module, module._without_add_ons(content["state_dict"]), str(path))
        return module.eval()

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor | dict[str, Tensor]:
        """The training loss of one batch.

        Args:
            batch: what the data module's loader gives, already on the device.
            generator: the only source of random numbers, on the module's device, keyed by (seed, step, rank).

        Returns:
            A scalar, or a dict with the scalar under ``"loss"`` and parts to be logged under other names.
        """
        raise TypeError(f"{type(self).__name__} has no loss(batch, generator); write one")

    def validation_loss(self, batch: Any, generator: torch.Generator) -> Tensor | dict[str, Tensor]:
        """The validation loss of one batch; the same as :meth:`loss` unless overridden.

        The generator is keyed by the batch's place alone, so every validation of a run draws the same noise.
        """
        return self.loss(batch, generator)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        part = batch_idx % self.trainer.accumulate_grad_batches
        place = (self.config.seed, "step", self.global_step, "rank", self.global_rank, "part", part)
        seeding.seed_global("dropout", *place)
        values = self._losses(batch, place)
        self.log_dict({name: value.detach() for name, value in values.items()})
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return values["loss"]

    def _losses(self, batch: Any, place: tuple[int | str, ...]) -> dict[str, Tensor]:
        """The losses of a training step, with those of the add-ons among the trainer's callbacks."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        add_ons = {
            one: seeding.generator(one.name, *place, device=self.device)
            for one in callbacks
            if isinstance(one, AddOn)
        }
        self.noised = None
        with ExitStack() as around:
            for one, draws in add_ons.items():
                around.enter_context(one.watch(self, draws))
            values = _as_dict(self.loss(batch, seeding.generator("noise", *place, device=self.device)))
        for one, draws in add_ons.items():
            values = one.amend(self, batch, values, draws)
        self.noised = None
        return values

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        place = (self.config.seed, "validation", batch_idx, "rank", self.global_rank)
        values = _as_dict(self.validation_loss(batch, seeding.generator(*place, device=self.device)))
        self.log_dict({f"validation_{name}": value for name, value in values.items()}, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with decay on matrices and kernels only; warm-up and cosine counted in optimiser steps."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.config.learning_rate
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, self.config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the training settings in the checkpoint, so that a resumed run can be checked against them."""
        checkpoint["train_config"] = plain(self.config, "config")
        checkpoint["add_ons"] = add_on_names(self.trainer.callbacks)  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out the weights of add-ons that are not there: only a run with them places them."""
        checkpoint["state_dict"] = self._without_add_ons(checkpoint["state_dict"])

    def _without_add_ons(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        own = self.state_dict().keys()
        return {name: value for name, value in state.items() if name in own or not name.startswith(ADD_ONS)}

    def compiled_parts(self) -> Iterable[nn.Module]:
        """The modules that ``compile=true`` compiles: the direct children that hold trained weights."""
        own = (child for child in self.children() if child is not self.add_ons)
        return (m for m in own if any(p.requires_grad for p in m.parameters()))

    def start_from(self, source: str) -> None:
        """Start from other weights than random ones (the key ``init``).

        Args:
            source: a Lightning ``.ckpt`` of this class (its averaged weights are taken), or what
                ``from_pretrained`` of its :class:`Pretrained` network takes: ``starter``, a folder, a hub id.

        Raises:
            CheckpointError: when the file is missing, unreadable, or for another network.
        """
        if source.endswith(".ckpt"):
            state = self._without_add_ons(read_checkpoint(Path(source))["state_dict"])
            load_weights(self, state, source)
            return
        networks = [part for part in self.children() if isinstance(part, Pretrained)]
        if len(networks) != 1:
            raise CheckpointError(f"{type(self).__name__} cannot start from {source!r}", "give a .ckpt file")
        network = networks[0]
        assert isinstance(network, nn.Module)
        load_weights(network, type(network).from_pretrained(source).state_dict(), source)


def add_on_names(callbacks: Iterable[object]) -> list[str]:
    """The names of the add-ons among callbacks, in order."""
    return [one.name for one in callbacks if isinstance(one, AddOn)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint to the CPU, tensors and plain values only.

    Raises:
        CheckpointError: when it is missing or cannot be read so.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}", "check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({_first_line(error)})",
            "give another one, or remove the file",
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(
            f"{path} is no Lightning checkpoint", "give a .ckpt written by the train command"
        )
    return content


def plain(value: Any, name: str) -> Any:
    """Turn dataclasses and paths into dicts, lists, numbers and text.

    Raises:
        TypeError: for anything that ``torch.load(weights_only=True)`` would not read back.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name), f"{name}.{field.name}")
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, name) for item in value]
    raise TypeError(
        f"hyper-parameter {name} is a {type(value).__name__}; pass plain values and build objects from them"
    )


def _as_dict(value: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return value if isinstance(value, dict) else {"loss": value}


def _first_line(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), type(error).__name__).strip()
    return text if len(text) <= 300 else text[:297] + "..."
