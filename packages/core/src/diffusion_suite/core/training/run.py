"""One call that trains, ``fit(module, data, config, folder)``; the same call again goes on."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from diffusion_suite.core.config import to_yaml
from diffusion_suite.core.errors import CheckpointError, ConfigError, OutputError
from diffusion_suite.core.files import atomic_path, check_folder
from diffusion_suite.core.progress import say
from diffusion_suite.core.training.averaging import averaging
from diffusion_suite.core.training.callbacks import LAST, LastCheckpoint, Report
from diffusion_suite.core.training.config import FIXED_KEYS, PRECISIONS, TrainConfig
from diffusion_suite.core.training.data import SuiteDataModule
from diffusion_suite.core.training.logger import MetricsFile, main_process
from diffusion_suite.core.training.module import SuiteModule, add_on_names, read_checkpoint


def fit(
    module: SuiteModule,
    data: LightningDataModule,
    config: TrainConfig,
    folder: Path,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train, or go on training, and return the checkpoint.

    The run folder holds ``last.ckpt`` (averaged weights under ``state_dict``), ``config.yaml``,
    ``versions.json`` and ``metrics.csv``. Make the module inside ``seeding.seeded(config.seed, "weights")``,
    so that the start is the same each time.

    Args:
        module: what is trained; it holds the averaged weights afterwards.
        data: a :class:`SuiteDataModule` for exact resume, or any LightningDataModule.
        config: the settings.
        folder: the run folder, made when missing.
        callbacks: more callbacks, such as add-ons of ``core.representation``; those that the setting
            ``add_ons`` names come behind them.

    Returns:
        The path of ``last.ckpt``.

    Raises:
        ConfigError: for settings that contradict each other, or those of the run that is to be resumed.
        CheckpointError: for a checkpoint that is missing, unreadable or of another network.
        OutputError: for a folder that cannot be written in, or that holds a run while ``resume`` is null.
    """
    config.check()
    folder = Path(folder)
    check_folder(folder)
    module.config = config
    if config.precision == "64":
        module.double()  # Lightning does so only after the average is made and the checkpoint is read
    if isinstance(data, SuiteDataModule):
        data.config = config
    callbacks = [*callbacks, *_add_ons(config)]
    resume = find_checkpoint(config.resume, folder)
    step = 0
    if resume is not None:
        checkpoint = read_checkpoint(resume)
        step = _check_resumable(checkpoint, config, resume, add_on_names(callbacks))
        _check_network(checkpoint, module, resume)
        if step >= config.steps:
            module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"])
            _say(f"already trained: {resume} is at step {step} of {config.steps}; give more steps to go on")
            return resume
        _say(f"going on from {resume}, step {step} of {config.steps}")
    elif config.init is not None:
        module.start_from(config.init)
        _say(f"starting from the weights of {config.init}")
    if config.compile and add_on_names(callbacks):
        raise ConfigError("add-ons look inside networks, which compile=true hides", "give compile=false")
    if config.compile:
        for part in module.compiled_parts():
            part.compile()
    _write_records(config, folder)
    with quiet():
        trainer = make_trainer(config, folder, step, callbacks)
        _say(_summary(module, config, trainer, folder))
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        except SystemExit as error:
            if trainer.received_sigterm:
                raise
            # Lightning leaves the process at Ctrl-C and makes it deaf to the next.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from error
    return folder / LAST


def find_checkpoint(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run.

    Args:
        resume: ``last``, a path, or None.
        folder: the run folder, where ``last`` means the newest ``.ckpt`` file.

    Raises:
        CheckpointError: when a path is given and no file is there.
        OutputError: when ``resume`` is None and the folder holds a run.
    """
    present = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    present = [path for path in present if not path.name.startswith(".")]
    if resume is None:
        if present:
            raise OutputError(
                f"{folder} holds a run already ({present[-1].name})", "give resume=last or another folder"
            )
        return None
    if resume == "last":
        return present[-1] if present else None
    if not Path(resume).is_file():
        raise CheckpointError(f"no checkpoint at {resume}", "give resume=last or the path of a .ckpt file")
    return Path(resume)


def make_trainer(
    config: TrainConfig, folder: Path, resumed_step: int = 0, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Lightning's Trainer as :func:`fit` uses it: endless epochs, averaged weights, one checkpoint."""
    extra = {
        name: value for name, value in config.trainer.items() if name not in ("logger", "enable_progress_bar")
    }
    bar = None if config.trainer.get("enable_progress_bar", True) else False
    every: list[Callback] = [
        Report(config.log_every, bar),
        LastCheckpoint(folder, config.checkpoint_every),
    ]
    if config.ema_decay:
        every.insert(0, averaging(config.ema_decay))
    return Trainer(
        max_epochs=-1,
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulate,
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        use_distributed_sampler=False,
        log_every_n_steps=config.log_every,
        val_check_interval=config.validate_every * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        logger=make_logger(config, folder, resumed_step),
        callbacks=[*callbacks, *every],
        enable_progress_bar=False,
        **{"enable_model_summary": False} | extra,
    )


def make_logger(config: TrainConfig, folder: Path, resumed_step: int = 0) -> Logger | bool:
    """The logger that ``trainer.logger`` names.

    Raises:
        ConfigError: when its package is not installed.
    """
    name = config.logger_name
    if name == "false":
        return False
    if name == "csv":
        return MetricsFile(folder, resumed_step)
    try:
        if name == "wandb":
            from lightning.pytorch.loggers import WandbLogger

            return WandbLogger(project="diffusion-suite", name=folder.name, save_dir=folder)
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="", version="tensorboard")
    except ImportError as error:
        raise ConfigError(
            f"trainer.logger={name} needs a package that is missing", f"pip install {name}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's notes on devices and loaders, which say nothing that a user could act on here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message="Total length of .list. across ranks is zero.*")
            warnings.filterwarnings("ignore", message=".*infer the `batch_size`.*")
            # Frozen parts, such as autoencoders, are meant to be in evaluation mode.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _add_ons(config: TrainConfig) -> list[Callback]:
    """The add-ons that the settings name."""
    if not config.add_ons:
        return []
    from diffusion_suite.core.representation.switches import switched_on

    return [*switched_on(config.add_ons)]


def _check_resumable(
    checkpoint: dict[str, Any], config: TrainConfig, path: Path, add_ons: Sequence[str]
) -> int:
    """The step of a checkpoint, after a look at whether the settings allow an exact continuation."""
    old = checkpoint.get("train_config", {})
    now = {key: getattr(config, key) for key in FIXED_KEYS}
    changed = [
        f"{key} was {old[key]}, now {now[key]}" for key in FIXED_KEYS if key in old and old[key] != now[key]
    ]
    before = checkpoint.get("add_ons", [])
    if sorted(before) != sorted(add_ons):
        changed.append(f"add-ons were {', '.join(before) or 'none'}, now {', '.join(add_ons) or 'none'}")
    if changed:
        raise ConfigError(
            f"{path} was trained with other settings ({', '.join(changed)})",
            f"give the old ones, or another run folder with init={path}",
        )
    return int(checkpoint.get("global_step", 0))


def _check_network(checkpoint: dict[str, Any], module: SuiteModule, path: Path) -> None:
    """Refuse to go on with a network of other sizes; parts that add-ons brought are theirs to check."""
    state, own = checkpoint["state_dict"], module.state_dict()
    if all(name in state and state[name].shape == tensor.shape for name, tensor in own.items()):
        return
    old = checkpoint.get("hyper_parameters", {})
    values = [(key, old[key], module.hparams.get(key)) for key in old]
    changed = ", ".join(f"{key} was {was}, now {now}" for key, was, now in values if was != now)
    raise CheckpointError(
        f"{path} holds another network ({changed or type(module).__name__})",
        "give the settings it was trained with, or another run folder",
    )


def _write_records(config: TrainConfig, folder: Path) -> None:
    if not main_process():
        return
    with atomic_path(folder / "config.yaml") as path:
        path.write_text(to_yaml(config), encoding="utf-8")
    with atomic_path(folder / "versions.json") as path:
        path.write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, Any]:
    """What a run depended on: command line, Python, platform, device, package versions."""
    packages = {}
    for name in ("diffusion-suite-core", "torch", "lightning", "numpy", "diffusers", "transformers"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "packages": packages,
    }


def _summary(module: SuiteModule, config: TrainConfig, trainer: Trainer, folder: Path) -> str:
    million = sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6
    items = config.batch_size * config.accumulate * trainer.world_size
    where = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    return (
        f"training {type(module).__name__}, {million:.3g} M weights, on {where} ({config.precision}): "
        f"{config.steps} steps of {items} items, run folder {folder}"
    )


def _say(message: str) -> None:
    if main_process():
        say(message)
