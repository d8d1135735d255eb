"""Features kept on disk, found again by what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from diffusion_suite.core.checkpoints.published import load_published, save_weights
from diffusion_suite.core.encoders.base import Encoder
from diffusion_suite.core.encoders.pictures import read_picture
from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.core.progress import track

Item = Path | Tensor | str


class FeatureCache:
    """Features by content: of the input, of the encoder and of what is done to the input before.

    An input that changed, other weights, another layer or another transform have another key, so that stale
    features are never found. Each entry is a safetensors file of its own, written whole or not at all, so
    that several processes may share a folder.

    Args:
        folder: where entries lie; made when missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def key(self, item: Item, identity: str, transform: str = "") -> str:
        """The key of an input.

        Args:
            item: a file (its bytes count, not its name or time), a tensor or a text.
            identity: ``encoder.identity``.
            transform: what is done to the input before the encoder, in words of one's own.
        """
        digest = hashlib.blake2b(json.dumps([identity, transform]).encode(), digest_size=20)
        if isinstance(item, Path):
            with item.open("rb") as file:
                digest.update(b"file" + hashlib.file_digest(file, hashlib.blake2b).digest())
        elif isinstance(item, str):
            digest.update(b"text" + item.encode("utf-8", "surrogatepass"))
        else:
            values = item.detach().cpu().contiguous()
            digest.update(f"tensor {values.dtype} {tuple(values.shape)};".encode())
            digest.update(values.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry of a key, or None when there is none that can be read."""
        try:
            return load_published(self._path(key))
        except (CheckpointError, SafetensorError):
            return None

    def put(self, key: str, features: Mapping[str, Tensor]) -> None:
        """Write an entry.

        Raises:
            OutputError: when the folder cannot be written in.
        """
        save_weights(self._path(key), features)

    def pooled(
        self,
        encoder: Encoder,
        items: Sequence[Item],
        *,
        read: Callable[[Path], Tensor] = read_picture,
        transform: str = "",
        batch_size: int = 32,
        sample_rate: int | None = None,
    ) -> Tensor:
        """One vector an item, worked out where it is not yet known.

        Args:
            encoder: the encoder.
            items: files, tensors without batch axis ((3, height, width) of a picture, (samples,) of speech)
                or texts.
            read: turns a file into such a tensor.
            transform: says what ``read``, or whatever made the tensors, does; needed with a ``read`` of one's
                own, as a change of it could not be noticed otherwise.
            batch_size: items of one shape that pass the encoder together.
            sample_rate: of speech.

        Returns:
            (items, width) on the CPU, in the items' order.

        Raises:
            ValueError: for a ``read`` of one's own without ``transform``.
        """
        if read is not read_picture and not transform:
            raise ValueError("name in transform what read does")
        options: dict[str, Any] = {} if sample_rate is None else {"sample_rate": sample_rate}
        identity = encoder.identity
        how = json.dumps([transform, options, "pooled"])
        keys = [self.key(item, identity, how) for item in items]
        found: dict[str, Tensor] = {}
        missing: dict[str, Item] = {}
        for key, item in zip(keys, items, strict=True):
            entry = None if key in found else self.get(key)
            if entry is not None and "pooled" in entry:
                found[key] = entry["pooled"]
            elif key not in found:
                missing[key] = item
        progress = track(missing.items(), "encoding", len(missing))
        for batch in _batches(progress, read, batch_size):
            for (key, _), vector in zip(batch, _encoded(encoder, batch, options), strict=True):
                found[key] = vector.clone()
                self.put(key, {"pooled": found[key]})
        return torch.stack([found[key] for key in keys])

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _encoded(encoder: Encoder, batch: list[tuple[str, Tensor | str]], options: dict[str, Any]) -> Tensor:
    device = next(encoder.parameters()).device
    tensors = [value.to(device) for _, value in batch if isinstance(value, Tensor)]
    inputs = torch.stack(tensors) if tensors else [value for _, value in batch]
    return encoder.pooled(inputs, **options).cpu()


def _batches(
    items: Iterator[tuple[str, Item]], read: Callable[[Path], Tensor], size: int
) -> Iterator[list[tuple[str, Tensor | str]]]:
    """Neighbours of one shape together; texts pass one by one, so that none is padded."""
    batch: list[tuple[str, Tensor | str]] = []
    for key, item in items:
        value = read(item) if isinstance(item, Path) else item
        if batch and not _alike(batch[-1][1], value):
            yield batch
            batch = []
        batch.append((key, value))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _alike(first: Tensor | str, second: Tensor | str) -> bool:
    return isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape
