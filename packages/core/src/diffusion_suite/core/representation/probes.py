"""Heads on frozen features: linear, attentive, nearest neighbours, one for every pixel.

head = fit_linear(train_features, train_labels)
accuracy(head(test_features), test_labels)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError

Optimizer = Literal["lbfgs", "adamw"]


class LinearHead(nn.Module):
    """A linear classifier on standardised features, no hidden layer.

    Args:
        width: of the features.
        classes: number of classes.
        mean: (width,) taken off; None for 0.
        std: (width,) divided by; None for 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, width: int, classes: int, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width) if mean is None else mean)
        self.register_buffer("std", torch.ones(width) if std is None else std)
        self.linear = nn.Linear(width, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., classes) of features (..., width)."""
        logits: Tensor = self.linear((features.to(self.mean.dtype) - self.mean) / self.std)
        return logits


class PixelHead(LinearHead):
    """A linear classifier for every pixel of a map, for segmentation."""

    def forward(self, features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits (batch, classes, height, width) of maps (batch, width, rows, columns).

        Args:
            features: maps.
            size: height and width to which the logits are interpolated; None keeps the map's.
        """
        logits = super().forward(features.movedim(1, -1)).movedim(-1, 1)
        return logits if size is None else F.interpolate(logits, size, mode="bilinear", align_corners=False)


class AttentiveHead(nn.Module):
    """One learned query looks at all tokens by cross-attention; a linear classifier follows.

    Args:
        width: of the tokens.
        classes: number of classes.
        heads: of the attention; divides the width.
        mean: as for `LinearHead`.
        std: as for `LinearHead`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        width: int,
        classes: int,
        heads: int = 4,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width) if mean is None else mean)
        self.register_buffer("std", torch.ones(width) if std is None else std)
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, classes) of tokens (batch, tokens, width)."""
        tokens = (tokens.to(self.mean.dtype) - self.mean) / self.std
        query = self.query.expand(len(tokens), -1, -1)
        seen, _ = self.attention(query, tokens, tokens, need_weights=False)
        logits: Tensor = self.linear(seen[:, 0])
        return logits


def fit_linear(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    weight_decay: float = 1e-3,
    optimizer: Optimizer = "lbfgs",
    steps: int = 100,
    seed: int = 0,
) -> LinearHead:
    """Train a linear classifier on features (items, width) or maps and labels (items,).

    Args:
        features: detached features, on the device on which the head shall be.
        labels: integers (items,).
        classes: number of classes; None takes the largest label.
        weight_decay: of the weights: half of it times their squares is added to the mean loss.
        optimizer: `lbfgs` on all items, or `adamw` in batches of 64, at a rate of 1e-2.
        steps: iterations of L-BFGS, or epochs of AdamW.
        seed: of the order of batches.

    Raises:
        InputError: features that are not finite, or that do not fit the labels.
    """
    count = _check(features, labels, classes)
    head = LinearHead(features.shape[-1], count, *_moments(features, (0,))).to(features.device)
    _fit(head, features, labels, weight_decay, optimizer, steps, seed)
    return head


def fit_attentive(
    tokens: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    heads: int = 4,
    weight_decay: float = 1e-3,
    steps: int = 100,
    seed: int = 0,
) -> AttentiveHead:
    """Train an attentive classifier on tokens (items, tokens, width), by AdamW; see `fit_linear`."""
    count = _check(tokens, labels, classes)
    with seeding.seeded(seed, "attentive head"):
        head = AttentiveHead(tokens.shape[-1], count, heads, *_moments(tokens, (0, 1))).to(tokens.device)
    _fit(head, tokens, labels, weight_decay, "adamw", steps, seed, rate=2e-3)
    return head


def fit_pixels(
    maps: Tensor,
    labels: Tensor,
    *,
    classes: int | None = None,
    weight_decay: float = 1e-3,
    steps: int = 100,
    ignored: int = -1,
) -> PixelHead:
    """Train a linear classifier for every pixel, by L-BFGS; see `fit_linear`.

    Args:
        maps: (items, width, rows, columns).
        labels: (items, height, width); the logits are interpolated to this size.
        classes: number of classes; None takes the largest label.
        weight_decay: as for `fit_linear`.
        steps: as for `fit_linear`.
        ignored: label of pixels that do not count.
    """
    count = _check(maps, labels, classes)
    head = PixelHead(maps.shape[1], count, *_moments(maps.movedim(1, -1), (0, 1, 2))).to(maps.device)
    size = (labels.shape[-2], labels.shape[-1])

    def loss() -> Tensor:
        logits = head(maps, size)
        return F.cross_entropy(logits, labels, ignore_index=ignored) + _decay(head, weight_decay)

    _lbfgs(head, loss, steps)
    return head


def nearest(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int | None = None,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Votes of the k nearest neighbours by cosine, weighted exp(cosine / temperature): (queries, classes).

    Args:
        features: (items, width), whose labels are known.
        labels: integers (items,).
        queries: (queries, width).
        classes: number of classes; None takes the largest label.
        k: neighbours, at most the number of items.
        temperature: of the weights.
    """
    count = _check(features, labels, classes)
    bank = F.normalize(features, dim=1)
    votes = []
    for part in torch.split(queries, 1024):
        cosines, places = (F.normalize(part, dim=1) @ bank.T).topk(min(k, len(features)), dim=1)
        weights = torch.softmax(cosines / temperature, 1)
        votes.append(weights.new_zeros(len(part), count).scatter_add_(1, labels[places], weights))
    return torch.cat(votes)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of items (or pixels) whose best class, along dimension 1, is the label."""
    return float((logits.argmax(1) == labels).float().mean())


def _fit(
    head: nn.Module,
    features: Tensor,
    labels: Tensor,
    weight_decay: float,
    optimizer: Optimizer,
    steps: int,
    seed: int,
    rate: float = 1e-2,
) -> None:
    def loss(part: Tensor | slice) -> Tensor:
        return F.cross_entropy(head(features[part]), labels[part]) + _decay(head, weight_decay)

    if optimizer == "lbfgs":
        _lbfgs(head, lambda: loss(slice(None)), steps)
        return
    size = min(64, len(features))
    made = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.0)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(made, steps * (len(features) // size))
    draw = seeding.generator(seed, "order of a probe")
    for _ in range(steps):
        order = torch.randperm(len(features), generator=draw).to(features.device)
        for part in torch.split(order[: len(order) // size * size], size):
            made.zero_grad()
            loss(part).backward()  # type: ignore[no-untyped-call]
            made.step()
            fall.step()


def _lbfgs(head: nn.Module, loss: Callable[[], Tensor], steps: int) -> None:
    made = torch.optim.LBFGS(head.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        made.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    made.step(closure)  # type: ignore[no-untyped-call]


def _decay(head: nn.Module, weight_decay: float) -> Tensor:
    matrices = [weight.square().sum() for weight in head.parameters() if weight.ndim > 1]
    return 0.5 * weight_decay * torch.stack(matrices).sum()


def _moments(features: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every value; a constant one is left as it is."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    std, mean = torch.std_mean(features, dims, correction=0)
    return mean, torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, 1.0)


def _check(features: Tensor, labels: Tensor, classes: int | None) -> int:
    if len(features) != len(labels) or len(labels) == 0:
        raise InputError(f"{len(features)} features and {len(labels)} labels do not fit", "give one an item")
    if not bool(torch.isfinite(features).all()):
        raise InputError("the features are not all finite", "look at the layer and the precision")
    return int(labels.max()) + 1 if classes is None else classes
