"""Training pictures from several places, each met by its share: folders of one's own, drawn pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.data import as_item, changed, cropped
from diffusion_suite.depth.pairs import Pair
from diffusion_suite.depth.renderer import Scenes


class FolderPictures(Dataset[dict[str, Tensor]]):
    """Square crops of pictures with depth.

    Item i depends on (seed, i) alone. Keys: `rgb` (3, side, side) in [0, 1], `depth` (1, side, side), NaN
    where nothing was measured, infinite in the sky.

    Args:
        pairs: where they are.
        side: of the crops in pixels.
        seed: of choice, crop and colours.
        changed: crop, mirror and recolour at random, without end; off takes the middle of each picture.
    """

    def __init__(self, pairs: Sequence[Pair], side: int, seed: int, changed: bool = True) -> None:
        if not pairs:
            raise InputError("a training folder holds no pictures with depth", "leave it out")
        self.pairs, self.side, self.seed, self.endless = pairs, side, seed, changed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not self.endless:
            return self.middle(index)
        rng = numpy_generator(self.seed, "folder", index)
        pair = self.pairs[int(rng.integers(len(self.pairs)))]
        found = pair.read()
        return as_item(*changed(found.rgb, found.depth, self.side, rng))

    def middle(self, index: int) -> dict[str, Tensor]:
        """The middle of a picture, as it is."""
        found = self.pairs[index].read()
        height, width = found.depth.shape
        short = min(height, width)
        window = ((height - short) // 2, (width - short) // 2, short)
        return as_item(*cropped(found.rgb, found.depth, window, self.side))


class Mixture(Dataset[Any]):
    """Endless data sets met by shares; which one item i comes from depends on (seed, i) alone.

    Args:
        parts: data sets without end.
        shares: of each, not all 0; they need not sum to 1.
        seed: of the choice.
    """

    endless = True

    def __init__(self, parts: Sequence[Dataset[Any]], shares: Sequence[float], seed: int) -> None:
        if len(parts) != len(shares):
            raise ValueError(f"{len(shares)} shares for {len(parts)} data sets")
        self.parts, self.seed = parts, seed
        self.bounds = np.cumsum(np.array(shares, np.float64) / sum(shares))

    def __getitem__(self, index: int) -> Any:
        place = numpy_generator(self.seed, "share", index).random()
        return self.parts[int(np.searchsorted(self.bounds, place, side="right"))][index]


def together(items: Sequence[Any]) -> dict[str, Any]:
    """A batch of items of any kinds: scenes, pictures and latents, each kind on its own."""
    batch: dict[str, Any] = {}
    scenes = [item for item in items if isinstance(item, Scenes)]
    if scenes:
        batch["scenes"] = Scenes.stack(scenes)
    for name in ("rgb", "latent"):
        chosen = [item for item in items if isinstance(item, dict) and name in item]
        if chosen:
            batch |= default_collate(chosen)
    return batch
