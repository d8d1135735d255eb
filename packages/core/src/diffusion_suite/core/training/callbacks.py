"""What happens around the steps of a run: checkpoints, log lines."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from typing_extensions import override

from diffusion_suite.core.errors import SuiteError
from diffusion_suite.core.progress import Progress, say

LAST = "last.ckpt"


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every so many steps, at the last step, and when the run is asked to stop.

    Only ever right after an optimiser step, and before Lightning exchanges live and averaged weights at the
    end of a run, so that any ``last.ckpt`` resumes exactly. It is written beside itself and renamed: a kill
    leaves the old one.

    Args:
        folder: the run folder.
        every: optimiser steps between checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = folder / LAST, every
        self.saved_step = -1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        after_update = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not after_update or step == self.saved_step:
            return
        stopping = trainer.should_stop or trainer.received_sigterm or step >= trainer.max_steps
        if stopping or step % self.every == 0:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint of the present step.

        Raises:
            SuiteError: when the loss is no longer a number; the checkpoint before is kept.
        """
        check_finite(trainer)
        part = self.path.with_name(f".{LAST}.part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.path)
        trainer.strategy.barrier("last.ckpt")
        self.saved_step = trainer.global_step


class Report(Callback):
    """A progress bar on a terminal, one line every so many steps elsewhere.

    Args:
        every: optimiser steps between lines.
        bar: draw a bar; None draws it on a terminal.
    """

    def __init__(self, every: int, bar: bool | None = None) -> None:
        self.every = every
        self.progress = Progress("training", visible=bar)
        self.step, self.clock, self.clock_step = 0, 0.0, 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = self.clock_step = trainer.global_step
        self.clock = time.monotonic()
        self.progress.total, self.progress.done = trainer.max_steps, trainer.global_step
        if trainer.is_global_zero:
            self.progress.__enter__()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        speaks = self.step % self.every == 0 or self.step == trainer.max_steps
        if speaks:
            check_finite(trainer)
        if trainer.is_global_zero:
            line = self._line(trainer) if speaks else None
            self.progress.advance(1, line)
            if line and not self.progress.visible:
                say(f"step {self.step}/{trainer.max_steps}  {line}")

    def _line(self, trainer: Trainer) -> str:
        now = time.monotonic()
        rate = (self.step - self.clock_step) / max(now - self.clock, 1e-9)
        self.clock, self.clock_step = now, self.step
        return f"loss {float(trainer.callback_metrics['loss']):.4g}  {rate:.3g} it/s"

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and "validation_loss" in trainer.callback_metrics:
            loss = float(trainer.callback_metrics["validation_loss"])
            say(f"step {trainer.global_step}  validation loss {loss:.4g}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress.__exit__(None, None, None)
        if trainer.is_global_zero and trainer.global_step < trainer.max_steps:
            say(f"stopped at step {trainer.global_step} of {trainer.max_steps} (trainer.max_time)")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.progress.__exit__(None, None, None)
        if trainer.is_global_zero and isinstance(exception, (KeyboardInterrupt, SystemExit)):
            say(f"stopped at step {trainer.global_step}; the same command goes on from the last checkpoint")


def check_finite(trainer: Trainer) -> None:
    """Stop a run whose loss is no longer a number.

    Raises:
        SuiteError: when the last logged loss is NaN or infinite.
    """
    loss = trainer.callback_metrics.get("loss")
    if loss is not None and not bool(torch.isfinite(loss)):
        raise SuiteError(
            f"the loss is {float(loss)} at step {trainer.global_step}",
            "lower learning_rate or give trainer.gradient_clip_val=1, and run again: the checkpoint is kept",
        )
