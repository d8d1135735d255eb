"""Settings that every ``train`` command shares. Imports no torch, so that ``--help`` stays fast.

A domain adds its own keys by inheriting::

    @dataclass
    class TrainPrior(TrainConfig):
        data: str = opt("", "folder of GeoTIFFs to train on")
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from diffusion_suite.core.config import opt
from diffusion_suite.core.config_schema import suggest
from diffusion_suite.core.errors import ConfigError

PRECISIONS = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "bf16-true": "bf16-true",
    "64": "64-true",
}

SCHEDULES = ("cosine", "constant")

LOGGERS = ("csv", "tensorboard", "wandb", "false")

# What `core.representation` can add to a training run.
ADD_ONS = ("representation_alignment", "self_alignment", "condition_perturbation")

TRAINER_KEYS = frozenset(
    {
        "accelerator",
        "benchmark",
        "detect_anomaly",
        "deterministic",
        "devices",
        "enable_model_summary",
        "enable_progress_bar",
        "gradient_clip_algorithm",
        "gradient_clip_val",
        "limit_val_batches",
        "logger",
        "max_time",
        "num_nodes",
        "profiler",
        "strategy",
        "sync_batchnorm",
    }
)

# Arguments of Lightning's Trainer that have a key of their own here.
OWN_KEYS = {
    "accumulate_grad_batches": "accumulate",
    "default_root_dir": "-o",
    "log_every_n_steps": "log_every",
    "max_steps": "steps",
    "precision": "precision",
    "val_check_interval": "validate_every",
}

# What a run may not change half-way: the order of the data, the noise, or the state of the optimiser hang on
# it.
FIXED_KEYS = (
    "seed",
    "batch_size",
    "accumulate",
    "learning_rate",
    "warmup_steps",
    "schedule",
    "weight_decay",
    "ema_decay",
    "add_ons",
)


@dataclass
class TrainConfig:
    """Training settings common to all systems; :meth:`check` is called by ``config.load`` and by ``fit``."""

    seed: int = opt(0, "seed of the data order, the noise and the dropout", ge=0)
    steps: int = opt(10_000, "optimiser steps in all, those of a resumed run among them", ge=1)
    batch_size: int = opt(16, "items a device and micro-batch", ge=1)
    accumulate: int = opt(1, "micro-batches an optimiser step", ge=1)
    workers: int = opt(2, "processes that load data; 0 loads in the training process", ge=0)
    learning_rate: float = opt(1e-4, "peak learning rate of AdamW", gt=0)
    warmup_steps: int = opt(500, "steps of linear warm-up of the learning rate", ge=0)
    schedule: str = opt(
        "cosine", "after warm-up: cosine to 1 % of the peak at the last step, or constant", choices=SCHEDULES
    )
    weight_decay: float = opt(0.01, "weight decay of AdamW, on matrices and kernels only", ge=0)
    ema_decay: float = opt(
        0.999, "decay of the averaged weights, which are saved and used; 0 keeps none", ge=0, lt=1
    )
    precision: str = opt("32", "arithmetic; bf16 and 16 are mixed with 32", choices=tuple(PRECISIONS))
    compile: bool = opt(False, "compile the networks with torch.compile")
    checkpoint_every: int = opt(1000, "steps between checkpoints", ge=1)
    log_every: int = opt(50, "steps between log lines", ge=1)
    validate_every: int = opt(1000, "steps between validations, where there are validation data", ge=1)
    resume: str | None = opt("last", "last (go on from the run folder's checkpoint), a .ckpt file, or null")
    init: str | None = opt(
        None, "weights to start from: starter, a folder, a hub id or a .ckpt file; null for none"
    )
    add_ons: dict[str, Any] = opt(
        {}, f"additions to the loss by name, each with its settings: {', '.join(ADD_ONS)}", keys=ADD_ONS
    )
    trainer: dict[str, Any] = opt(
        {}, "more arguments of Lightning's Trainer: devices, strategy, gradient_clip_val, logger, ..."
    )

    def check(self) -> None:
        """Check what no single key shows.

        Raises:
            ConfigError: for an unknown name in ``trainer`` (with a suggestion), for one that has its own key,
                for an unknown logger, and for averaged weights together with a strategy that shards the
                model.
        """
        for name in self.trainer:
            if name in OWN_KEYS:
                raise ConfigError(
                    f"trainer.{name} has a key of its own", f"give {OWN_KEYS[name]} instead", "trainer"
                )
            if name not in TRAINER_KEYS:
                raise ConfigError(
                    f"no setting 'trainer.{name}'", suggest(name, sorted(TRAINER_KEYS)), "trainer"
                )
        if self.logger_name not in LOGGERS:
            remedy = f"give one of {', '.join(LOGGERS)}"
            raise ConfigError(f"trainer.logger is {self.logger_name!r}", remedy, "trainer")
        strategy = str(self.trainer.get("strategy", "auto"))
        if self.ema_decay and any(word in strategy for word in ("fsdp", "deepspeed", "model_parallel")):
            raise ConfigError(
                f"averaged weights (ema_decay={self.ema_decay}) need the whole model on each device, and "
                f"trainer.strategy={strategy} keeps only a part of it there",
                "give ema_decay=0, or trainer.strategy=ddp",
                "trainer",
            )

    @property
    def logger_name(self) -> str:
        """``trainer.logger`` as one of :data:`LOGGERS`."""
        value = self.trainer.get("logger")
        return "csv" if value is None or value is True else str(value).lower()


def rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to 1 %, or constant.

    Args:
        step: optimiser steps done, 0 at the start.
        config: gives ``warmup_steps``, ``steps`` and ``schedule``.

    Returns:
        A factor in (0, 1].
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
