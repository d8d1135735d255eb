"""Pictures into features: their pixels, or what an encoder says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics.config import EvaluateConfig
from diffusion_suite.core.progress import track

if TYPE_CHECKING:
    from diffusion_suite.core.metrics.sources import Source


def from_pixels(sources: Mapping[str, Source]) -> dict[str, Tensor]:
    """Pixels of all pictures, (n, c h w): one channel when all are grey, else three.

    Raises:
        InputError: pictures of different sizes.
    """
    found = {role: list(_tracked(source)) for role, source in sources.items()}
    everything = [item for pictures in found.values() for item in pictures]
    first, picture = everything[0]
    for name, other in everything:
        if other.shape[1:] != picture.shape[1:]:
            sizes = [" x ".join(map(str, one.shape[1:])) for one in (picture, other)]
            raise InputError(
                f"{first} is {sizes[0]} pixels but {name} is {sizes[1]}",
                "resize them, or give an encoder that takes any size",
            )
    channels = max(len(other) for _, other in everything)
    return {
        role: torch.stack([picture.expand(channels, -1, -1) for _, picture in pictures]).flatten(1)
        for role, pictures in found.items()
    }


def from_encoder(
    sources: Mapping[str, Source], name: str, config: EvaluateConfig, device: torch.device
) -> tuple[dict[str, Tensor], str]:
    """Pooled features of all pictures, (n, width), and the encoder's own name.

    Args:
        sources: the sets.
        name: what `load_encoder` takes.
        config: batch size, cache, whether weights may be downloaded.
        device: where the encoder works.

    Raises:
        CheckpointError: no such encoder, or none of pictures.
        InputError: a picture that cannot be read.
    """
    from diffusion_suite.core.encoders import FeatureCache, load_encoder

    encoder = load_encoder(name, "image", local_files_only=not config.download, device=device)
    found = {}
    for role, source in sources.items():
        if config.cache is not None:
            cache = FeatureCache(config.cache)
            found[role] = cache.pooled(encoder, source.items(), batch_size=config.batch_size).float()
            continue
        parts = []
        for batch in _batches(_tracked(source), config.batch_size):
            prepared = [encoder.prepare(picture.expand(3, -1, -1)[None].to(device)) for _, picture in batch]
            parts.append(encoder.run(torch.cat(prepared)).pooled.detach().float().cpu())
        found[role] = torch.cat(parts)
    return found, encoder.name


def _tracked(source: Source) -> Iterator[tuple[str, Tensor]]:
    return track(source.pictures(), source.name, total=len(source))


def _batches(items: Iterator[tuple[str, Tensor]], size: int) -> Iterator[list[tuple[str, Tensor]]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
