"""Weights that others published: read safely, renamed by a table, refused when a key is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.serialization import safe_globals

from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.core.files import atomic_path

WRAPPERS = ("state_dict", "model_state_dict", "model", "params_ema", "params", "weights")


def load_published(path: str | Path, inside: str | None = None) -> dict[str, Tensor]:
    """Read a published weight file to the CPU without running any code in it.

    Args:
        path: ``.safetensors``, or a file of ``torch.save`` (read with ``weights_only=True``).
        inside: key under which the weights lie; None looks for the usual ones (``state_dict``, ``model``,
            ...).

    Returns:
        The tensors by their published names; entries that are no tensors are left out.

    Raises:
        CheckpointError: when the file is missing, unreadable, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}", "check the path")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is no safetensors file ({error})", "fetch it again") from error
    return _tensors(read_pickled(path), inside, path)


def read_pickled(path: str | Path, allowed: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The content of a file of ``torch.save``, on the CPU, read with ``weights_only=True``.

    Args:
        path: the file.
        allowed: what the file may hold besides tensors and plain values: the name of a class or function in
            the file, such as ``"numpy.ndarray"``, to what is called in its place.

    Raises:
        CheckpointError: when the file is missing, unreadable, or holds anything else (it is named).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}", "check the path")
    try:
        with safe_globals([(call, name) for name, call in allowed.items()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:
        foreign = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        if foreign:
            raise CheckpointError(
                f"{path} cannot be read safely: it holds an object of {foreign[1]}",
                "save it again, where it was made, as tensors, numbers, text, lists and dicts",
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read safely ({reason[:200]})",
            "fetch it again; a file that holds pickled objects must be converted where it was made",
        ) from error


def save_pickled(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a file of ``torch.save``, whole or not at all, for programs that read nothing else.

    Args:
        path: the file; its folder is made when missing.
        content: tensors, numbers, text, lists and dicts of these.

    Raises:
        OutputError: when the folder cannot be written in.
    """
    with atomic_path(Path(path)) as part:
        torch.save(dict(content), part)


def _tensors(content: object, inside: str | None, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        if inside is not None and inside not in content:
            raise CheckpointError(f"{path} has no entry {inside!r}", f"it has {shorten(map(str, content))}")
        if inside is None and not any(isinstance(value, Tensor) for value in content.values()):
            inside = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        inner = content if inside is None else content[inside]
        if isinstance(inner, Mapping):
            found = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
            if found:
                return found
        raise CheckpointError(f"{path} holds no weights", f"it has {shorten(map(str, content))}")
    raise CheckpointError(f"{path} holds a {type(content).__name__}, not weights", "give a file of weights")


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str = "the file") -> None:
    """Put weights into a network, strictly.

    Args:
        module: the network.
        state: one tensor for each of its weights and buffers, by our names.
        source: what to call the file in an error.

    Raises:
        CheckpointError: naming the keys that miss, are left over, or have another shape.
    """
    compare_keys(state, module.state_dict(), source)
    module.load_state_dict(state)


def save_weights(
    path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights as safetensors, whole or not at all.

    Args:
        path: the file; its folder is made when missing.
        state: tensors by name.
        metadata: text kept in the file's header.

    Raises:
        OutputError: when the folder cannot be written in.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(Path(path)) as part:
        part.touch()
        mode = part.stat().st_mode
        save_file(tensors, part, metadata={"format": "pt", **(metadata or {})})
        part.chmod(mode)  # safetensors lets nobody but the owner read


def match_keys(
    state: Mapping[str, Tensor],
    table: Mapping[str, str] | Callable[[str], str | None],
    expected: Mapping[str, Tensor],
    source: str = "the file",
) -> dict[str, Tensor]:
    """Rename published weights to ours, strictly: all there, none left over, each of its shape.

    Args:
        state: tensors by published name.
        table: published name to ours, as a mapping or a function that gives None for weights that are not
            used.
        expected: our network's ``state_dict()``.
        source: what to call the file in an error.

    Returns:
        Tensors by our names, ready for ``load_state_dict``.

    Raises:
        CheckpointError: naming the keys that miss, are left over, or have another shape.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in state.items():
        ours = table(name) if callable(table) else table.get(name, "")
        if ours == "":
            unknown.append(name)
        elif ours is not None:
            renamed[ours] = tensor
    compare_keys(renamed, expected, source, unknown)
    return renamed


def compare_keys(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, unknown: Iterable[str] = ()
) -> None:
    """Refuse weights whose names or shapes are not those expected.

    Raises:
        CheckpointError: naming the first of each kind and how many there are.
    """
    missing = [name for name in expected if name not in state]
    extra = [*unknown, *(name for name in state if name not in expected)]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    parts = [
        f"{label} {shorten(names)}"
        for label, names in (("missing", missing), ("unexpected", extra), ("other shape:", shapes))
        if names
    ]
    if parts:
        raise CheckpointError(
            f"{source} is not for this network: {'; '.join(parts)}",
            "give the file that belongs to these settings",
        )


def shorten(names: Iterable[str], most: int = 4) -> str:
    """The first few names and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
