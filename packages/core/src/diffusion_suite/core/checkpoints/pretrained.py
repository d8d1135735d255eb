"""``save_pretrained`` and ``from_pretrained``: safetensors, ``config.json`` and a card in one folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from diffusion_suite.core._version import __version__
from diffusion_suite.core.checkpoints.card import Card
from diffusion_suite.core.checkpoints.published import load_weights
from diffusion_suite.core.checkpoints.shards import PATTERNS, load_folder, save_folder
from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.core.files import atomic_path

CONFIG = "config.json"
CARD = "README.md"


class Pretrained:
    """Mixin of networks that are saved to and loaded from a folder.

    The network keeps the arguments of its constructor, plain, in ``self.config``::

        class Prior(nn.Module, Pretrained):
            starter = "diffusion_suite.geo:starter/prior"

            def __init__(self, channels: int = 8) -> None:
                super().__init__()
                self.config = {"channels": channels}

        Prior.from_pretrained("starter")
        Prior.from_pretrained("runs/prior/export")

    Attributes:
        starter: ``"package:folder"`` of the weights that come with the package; empty for none.
        config: arguments of the constructor: numbers, text, lists and dicts of these.
    """

    starter: ClassVar[str] = ""
    config: dict[str, Any]

    def save_pretrained(
        self,
        folder: str | Path,
        card: Card | None = None,
        *,
        dtype: torch.dtype | None = None,
        file_size: int | None = None,
    ) -> Path:
        """Write weights, configuration and card.

        Args:
            folder: made when missing; files in it of the same names are replaced, each at once.
            card: what a user must know; left out when None.
            dtype: in which floating-point weights are kept, such as `torch.float16`; None as they are. They
                are read back in the network's own.
            file_size: most bytes of weights in one file; None for one file of them all.

        Raises:
            OutputError: when the folder cannot be written in.
        """
        folder = Path(folder)
        content = {"_class": type(self).__name__, "_version": __version__, **self.config}
        state = _as_module(self).state_dict()
        if dtype is not None:
            state = {name: v.to(dtype) if v.is_floating_point() else v for name, v in state.items()}
        save_folder(folder, state, file_size)
        with atomic_path(folder / CONFIG) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            with atomic_path(folder / CARD) as path:
                path.write_text(card.to_markdown(), encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        local_files_only: bool = True,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Make the network with its weights, in evaluation mode.

        Args:
            source: ``"starter"`` (the weights in the package), a folder, or a hub id such as
                ``"owner/name"``.
            local_files_only: take a hub id from the local cache only; False lets it be downloaded.
            revision: branch, tag or commit of a hub id.
            device: where the weights go.

        Raises:
            CheckpointError: when nothing is there, when the folder holds another class, or when names or
                shapes of weights differ (the names are listed).
        """
        if str(source) == "starter":
            return cls._from_starter().to(device)  # type: ignore[attr-defined, no-any-return]
        folder = Path(source)
        if not folder.is_dir():
            folder = hub_folder(str(source), revision, local_files_only)
        return cls._from_folder(folder).to(device)  # type: ignore[attr-defined, no-any-return]

    @classmethod
    def _from_starter(cls) -> Self:
        package, _, inner = cls.starter.partition(":")
        if not inner:
            raise CheckpointError(f"{cls.__name__} has no starter weights", "give a folder or a hub id")
        resource = files(package).joinpath(inner)
        if not resource.joinpath(CONFIG).is_file():
            raise CheckpointError(
                f"the starter weights of {cls.__name__} are not installed",
                f"give a folder or a hub id, or install a release of {_distribution(package)} that has them",
            )
        with as_file(resource) as folder:
            return cls._from_folder(folder)

    @classmethod
    def _from_folder(cls, folder: Path) -> Self:
        values = read_config(folder)
        name = values.pop("_class", cls.__name__)
        values.pop("_version", None)
        if name != cls.__name__:
            raise CheckpointError(f"{folder} holds a {name}, not a {cls.__name__}", f"load it with {name}")
        try:
            network = cls(**values)
        except TypeError as error:
            raise CheckpointError(f"{folder / CONFIG} does not fit {cls.__name__} ({error})") from error
        module = _as_module(network)
        load_weights(module, load_folder(folder), str(folder))
        module.eval()
        return network


def read_config(folder: str | Path) -> dict[str, Any]:
    """The content of a folder's ``config.json``; ``_class`` and ``_version`` say what wrote it.

    Raises:
        CheckpointError: when the folder holds none, or it cannot be read.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG}", "give a folder written by save_pretrained")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error})", "fetch the folder again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no settings", "fetch the folder again")
    return content


def hub_folder(
    name: str,
    revision: str | None,
    local_files_only: bool,
    patterns: Sequence[str] = (*PATTERNS, CONFIG, CARD),
) -> Path:
    """The folder of a model of the hub, from the local cache or downloaded.

    Args:
        name: ``"owner/name"``.
        revision: branch, tag or commit.
        local_files_only: look in the local cache alone.
        patterns: names of the files that are wanted.

    Raises:
        CheckpointError: when there is no such model, or none in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(
            name, revision=revision, local_files_only=local_files_only, allow_patterns=list(patterns)
        )
    except HFValidationError as error:
        raise CheckpointError(f"no folder at {name}", "check the path") from error
    except Exception as error:
        remedy = f"check the name, or run: hf download {name}"
        where = "in the local cache" if local_files_only else "on the hub"
        raise CheckpointError(f"no folder at {name}, and no model of that name {where}", remedy) from error
    return Path(folder)


def _distribution(package: str) -> str:
    return "-".join(package.split(".")[:2]).replace("_", "-")


def _as_module(network: object) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise TypeError(f"{type(network).__name__} must be an nn.Module to use Pretrained")
    return network
