"""Latents of training pictures kept on disk, so that a frozen autoencoder sees each picture once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion_suite.core.devices import pick_device
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.kept import Arrays, Kinds, kept_arrays
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.module import encoded


class KeptLatents(Dataset[dict[str, Tensor]]):
    """Latents of pictures and of their depth, plain and mirrored; item i depends on (seed, i) alone.

    Keys: `latent` and `target` (channels, h, w), half precision; `cells` (1, h, w), False where a cell holds
    an unmeasured pixel.

    Args:
        folder: where they are, or are written to.
        pictures: map-style, with a length; items with `rgb` and `depth`.
        model: whose codec encodes.
        seed: of the order.
        identity: what the pictures are, for the name of the folder.
        device: that encodes.
    """

    endless = True

    def __init__(
        self,
        folder: Path,
        pictures: Dataset[dict[str, Tensor]],
        model: DepthFM,
        seed: int,
        identity: Sequence[Any],
        device: str = "auto",
    ) -> None:
        self.seed = seed
        self.arrays = kept_latents(folder, pictures, model, identity, pick_device(device))

    def __len__(self) -> int:
        return len(self.arrays["latent"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = int(numpy_generator(self.seed, "latent", index).integers(len(self)))
        return {name: torch.from_numpy(array[place].copy()) for name, array in self.arrays.items()}


@torch.no_grad()
def kept_latents(
    folder: Path,
    pictures: Dataset[dict[str, Tensor]],
    model: DepthFM,
    identity: Sequence[Any],
    device: torch.device,
) -> Mapping[str, np.ndarray]:
    """Arrays (2 n, ...) on disk: pictures 0 .. n - 1, then the same mirrored.

    Those of the same pictures and codec are read; an encoding that was interrupted goes on.
    """
    count = len(pictures)  # type: ignore[arg-type]
    like = pictures[0]["rgb"]
    rows, columns = (length // model.codec.factor for length in like.shape[-2:])
    shape = (2 * count, model.codec.channels, rows, columns)
    kinds: Kinds = {
        "latent": (shape, np.float16),
        "target": (shape, np.float16),
        "cells": ((2 * count, 1, rows, columns), np.bool_),
    }

    def compute(arrays: Arrays, chosen: range) -> None:
        items = [pictures[index] for index in chosen]
        rgb, depth = (torch.stack([item[name] for item in items]).to(device) for name in ("rgb", "depth"))
        for start, flip in ((chosen.start, False), (count + chosen.start, True)):
            pair = (rgb.flip(-1), depth.flip(-1)) if flip else (rgb, depth)
            for name, values in zip(kinds, encoded(model, *pair), strict=True):
                arrays[name][start : start + len(items)] = values.cpu().numpy()

    home = next(model.parameters()).device
    model.to(device)
    place = folder / f"latents-{_digest(model, identity)}"
    arrays = kept_arrays(place, kinds, count, "encoding pictures", compute)
    model.to(home)
    return arrays


def _digest(model: DepthFM, identity: Sequence[Any]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for part in (*identity, sorted(str(model.config[name]) for name in ("autoencoder", "scale_factor"))):
        digest.update(str(part).encode() + b"\0")
    codec = model.codec
    if isinstance(codec, torch.nn.Module):
        for name, tensor in codec.state_dict().items():
            digest.update(f"{name}{float(tensor.double().sum()):.9g}".encode())
    return digest.hexdigest()
