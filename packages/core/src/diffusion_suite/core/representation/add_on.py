"""What is added to the training of a SuiteModule from outside: a callback with weights and a loss of its own.

`fit(module, data, config, folder, callbacks=[SelfAlignment(...)])` switches an add-on on, and so does the
setting `add_ons` of every `train` command. The module need not know of it; those add-ons that look at the
network again at another time want to be told what was noised, in one line of the module's `loss`:

    self.noised = Noised(x0, eps, t, self.path)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import Path

if TYPE_CHECKING:
    from diffusion_suite.core.training.module import SuiteModule


@dataclass(frozen=True)
class Noised:
    """Data and noise of a training batch on their path.

    Attributes:
        x0: data (batch, ...).
        eps: noise of the same shape.
        t: times (batch,).
        path: on which they meet.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    path: Path

    @property
    def x_t(self) -> Tensor:
        """The state that the network sees."""
        return self.path.add_noise(self.x0, self.eps, self.t)


class AddOn(Callback):
    """Base of what is added to training; a subclass overrides `weights`, `watch` and `amend` as it needs.

    Its weights lie in the module (`module.add_ons[name]`) while it trains: they are optimised, averaged,
    checkpointed and resumed with the others, and dropped when a checkpoint is loaded for use.

    Attributes:
        name: under which its weights and its loss are found; one add-on of a name in a run.
    """

    name: ClassVar[str] = "add_on"

    def weights(self) -> nn.Module | None:
        """Its own trained weights, freshly made; None for none."""
        return None

    @contextmanager
    def watch(self, module: SuiteModule, generator: torch.Generator) -> Iterator[None]:
        """Surrounds the computation of the module's loss in a training step, e.g. with hooks.

        Args:
            module: that trains.
            generator: keyed by (seed, step, rank) and by the add-on's name; `amend` gets the same.
        """
        yield

    def amend(
        self, module: SuiteModule, batch: Any, values: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses of a step with the add-on's part.

        Args:
            module: that trains.
            batch: of the step.
            values: the scalar under `"loss"`, and parts that are logged.
            generator: as for `watch`.
        """
        return values

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Place the weights in the module, before the averaging copies it.

        Raises:
            ConfigError: the module is no SuiteModule, or a callback that averages weights comes before.
        """
        if stage != "fit":
            return
        places = getattr(pl_module, "add_ons", None)
        if not isinstance(places, nn.ModuleDict):
            raise ConfigError(f"{type(pl_module).__name__} takes no add-ons", "derive it from SuiteModule")
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, WeightAveraging) for callback in callbacks[: callbacks.index(self)]):
            raise ConfigError(f"{self.name} comes after weight averaging", "give add-ons before it")
        config: Any = pl_module.config
        with seeding.seeded(config.seed, "add-on", self.name):
            made = self.weights()
        if made is not None:
            places[self.name] = made

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        places = getattr(pl_module, "add_ons", None)
        if stage == "fit" and isinstance(places, nn.ModuleDict) and self.name in places:
            del places[self.name]

    def noised(self, module: SuiteModule) -> Noised:
        """What the module noised in this step.

        Raises:
            ConfigError: the module does not tell.
        """
        if module.noised is None:
            raise ConfigError(
                f"{type(module).__name__} does not tell what it noises, which {self.name} needs",
                "leave the add-on out, or set self.noised in its loss",
            )
        return module.noised


def averaged(trainer: Trainer) -> nn.Module:
    """The averaged copy of the module that a trainer keeps.

    Raises:
        ConfigError: it keeps none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            return callback._average_model.module
    raise ConfigError("the run keeps no averaged weights", "give ema_decay=0.999 or so")
