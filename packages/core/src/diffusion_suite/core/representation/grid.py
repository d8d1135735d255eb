"""Which layer at which time knows most: one head for every (layer, time), from one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation.features import Features, extract
from diffusion_suite.core.representation.hooks import Layer
from diffusion_suite.core.representation.probes import accuracy, fit_attentive, fit_linear, nearest
from diffusion_suite.core.schedulers import Denoiser

HeadKind = Literal["linear", "attentive", "knn"]


@dataclass(frozen=True)
class ProbeScore:
    """The accuracy of one head on the test items."""

    layer: str
    t: float
    accuracy: float


@dataclass(frozen=True)
class ProbeTable:
    """The accuracies of a `probe_grid`, in the order of times and layers."""

    scores: tuple[ProbeScore, ...]

    @property
    def best(self) -> ProbeScore:
        """The best layer and time."""
        return max(self.scores, key=lambda score: score.accuracy)

    def __iter__(self) -> Iterator[ProbeScore]:
        return iter(self.scores)

    def __str__(self) -> str:
        times = sorted({score.t for score in self})
        cells = {(score.layer, score.t): score.accuracy for score in self}
        layers = list(dict.fromkeys(score.layer for score in self))
        width = max(len(layer) for layer in layers)
        lines = [" " * width + "".join(f"{t:>9.3g}" for t in times)]
        lines += [f"{layer:<{width}}" + "".join(f"{cells[layer, t]:9.3f}" for t in times) for layer in layers]
        return "\n".join(lines)


def probe_grid(
    denoiser: Denoiser,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    times: Sequence[float],
    layers: Sequence[Layer],
    *,
    head: HeadKind = "linear",
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    network: nn.Module | None = None,
    **cond: Any,
) -> ProbeTable:
    """Train a head for every (layer, time) and tell how well each does on unseen items.

    The network passes the data once a time and draw; all layers are read in that pass. Features stay on the
    device of the data. The noise of an item is keyed by (seed, item).

    Args:
        denoiser: any.
        train: data (items, ...) and labels (items,).
        test: unseen ones.
        times: at which features are read.
        layers: which are read, as for `extract`.
        head: `linear` and `knn` on means over places, `attentive` on tokens.
        draws: noises over whose features is averaged.
        seed: of the noise and of the heads.
        batch_size: items a pass.
        network: as for `extract`.
        cond: conditions for the model, alike for all items.

    Raises:
        ConfigError: unknown head, or as for `extract`.
    """
    if head not in ("linear", "attentive", "knn"):
        raise ConfigError(f"unknown head {head!r}", "use linear, attentive or knn")

    pooling = "tokens" if head == "attentive" else "mean"

    @torch.no_grad()
    def read(data: Tensor, part: str) -> Features:
        pieces = []
        for start in range(0, len(data), batch_size):
            items = data[start : start + batch_size]
            noise = [seeding.generator(seed, part, start + item) for item in range(len(items))]
            options = {"noise": noise, "pooling": pooling, "draws": draws, "network": network, **cond}
            pieces.append(extract(denoiser, items, times, layers, **options))
        return {place: torch.cat([piece[place] for piece in pieces]).float() for place in pieces[0]}

    seen, unseen = read(train[0], "train"), read(test[0], "test")
    classes = int(max(train[1].max(), test[1].max())) + 1
    scores = []
    for (layer, t), known in seen.items():
        asked = unseen[layer, t]
        if head == "linear":
            logits = fit_linear(known, train[1], classes=classes, seed=seed)(asked)
        elif head == "attentive":
            logits = fit_attentive(known, train[1], classes=classes, seed=seed)(asked)
        else:
            logits = nearest(known, train[1], asked, classes=classes)
        scores.append(ProbeScore(layer, t, accuracy(logits, test[1])))
    return ProbeTable(tuple(scores))
