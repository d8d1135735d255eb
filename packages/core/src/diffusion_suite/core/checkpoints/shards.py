"""Weights in a folder: one safetensors file, or several small ones with an index, as on model hubs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from diffusion_suite.core.checkpoints.published import save_weights
from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.core.files import atomic_path

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PATTERNS = ("model*.safetensors", INDEX)


def save_folder(folder: Path, state: Mapping[str, Tensor], file_size: int | None = None) -> None:
    """Write weights into a folder, each file whole or not at all, and take away those of an earlier writing.

    Args:
        folder: made when missing.
        state: tensors by name.
        file_size: most bytes of tensors in a file, but a larger tensor is in one of its own; None for one
            file.

    Raises:
        OutputError: when the folder cannot be written in.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    total = sum(tensor.nbytes for tensor in state.values())
    plan = split_torch_state_dict_into_shards(dict(state), max_shard_size=file_size or max(total, 1))
    for name, keys in plan.filename_to_tensors.items():
        save_weights(folder / name, {key: state[key] for key in keys})
    if plan.is_sharded:
        content = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        with atomic_path(folder / INDEX) as path:
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for old in folder.glob(PATTERNS[0]):
        if old.name not in plan.filename_to_tensors:
            old.unlink()


def load_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, on the CPU.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    index = folder / INDEX
    names = [WEIGHTS]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is no index of weights", "fetch the folder again") from error
    state: dict[str, Tensor] = {}
    for name in names:
        path = folder / Path(name).name
        try:
            state |= load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read ({error})", "fetch the folder again") from error
    return state
