"""Losses that pull hidden tokens towards a representation, and their weights over a run.

REPA (Yu et al. 2025), SRA (Jiang et al. 2025), ERW (Liu et al. 2025), contrast between two views, and the
losses of unified masked diffusion (UMD).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError

Distance = Literal["cosine", "smooth_l1", "l1", "l2"]


class Projector(nn.Sequential):
    """Linear - SiLU - Linear - SiLU - Linear from a network's tokens to a teacher's (REPA).

    Args:
        width: of the network's tokens.
        teacher_width: of the teacher's tokens.
        hidden: width between the layers.
    """

    def __init__(self, width: int, teacher_width: int, hidden: int = 2048) -> None:
        super().__init__(
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, teacher_width),
        )


class Head(nn.Sequential):
    """Linear - SiLU - Linear on the student's tokens, of the same width (SRA)."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))


def repa_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """REPA: minus the mean cosine between projected and teacher tokens, each (batch, tokens, width)."""
    return -_cosine(projected, teacher).mean()


def sra_loss(student: Tensor, teacher: Tensor, distance: Distance = "cosine", beta: float = 0.05) -> Tensor:
    """SRA: mean distance of a student's tokens from a teacher's, which gets no gradient.

    Args:
        student: (batch, tokens, width), after the head.
        teacher: same shape.
        distance: 1 - cosine over tokens, or a mean over all values.
        beta: where `smooth_l1` goes over from square to straight.

    Raises:
        ConfigError: unknown distance.
    """
    teacher = teacher.detach()
    match distance:
        case "cosine":
            return 1.0 - _cosine(student, teacher).mean()
        case "smooth_l1":
            return F.smooth_l1_loss(student, teacher, beta=beta)
        case "l1":
            return F.l1_loss(student, teacher)
        case "l2":
            return F.mse_loss(student, teacher)
    raise ConfigError(f"unknown distance {distance!r}", f"use one of {', '.join(get_args(Distance))}")


def teacher_times(t: Tensor, u: Tensor, back: float = 0.2) -> Tensor:
    """SRA: the cleaner times max(t - back u, 0) of the teacher, for uniform u in [0, 1), each (batch,)."""
    return (t - back * u).clamp_min(0.0)


@dataclass(frozen=True)
class Decay:
    """The coefficient of an alignment loss over a run: c in a warm-up, then c 2^(-(step - warmup) / half).

    Without a half-life it stays (REPA). ERW takes c = 1, 3, 6 for the sizes B, L, XL, and 100,000 and 50,000
    steps.

    Attributes:
        coefficient: c.
        warmup: steps of the warm-up.
        half: steps in which it falls to half afterwards; None keeps it.
    """

    coefficient: float = 0.5
    warmup: int = 0
    half: float | None = None

    def __call__(self, step: int) -> float:
        """The coefficient at a step, from 0."""
        if self.half is None or step <= self.warmup:
            return self.coefficient
        return float(self.coefficient * 2.0 ** (-(step - self.warmup) / self.half))


def contrastive_loss(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """Symmetric InfoNCE between two views, (batch, width) each: the other view of an item among all others.

    Args:
        first: vectors of one view; brought to length 1 here.
        second: those of the other, in the same order.
        temperature: divides the cosines.
    """
    logits = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    own = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


@dataclass(frozen=True)
class MaskedLosses:
    """The losses of unified masked diffusion, each a mean over its own area in the batch.

    Attributes:
        eps: noise error where the input is visible.
        x0: data error where it is hidden.
        noisy: of noised inputs, the mean of both.
        clean: of clean inputs, the data error alone.
    """

    eps: Tensor
    x0: Tensor
    noisy: Tensor
    clean: Tensor


def masked_losses(
    predicted_x0: Tensor, predicted_eps: Tensor, x0: Tensor, eps: Tensor, hidden: Tensor
) -> MaskedLosses:
    """Losses of a network that sees part of a noised picture and returns data and noise (UMD).

    A batch of clean and noised halves is weighted by their shares: share * clean + (1 - share) * noisy.

    Args:
        predicted_x0: (batch, ...).
        predicted_eps: same shape.
        x0: the data.
        eps: the noise.
        hidden: 1 where the input was hidden, 0 where visible; of a shape that broadcasts to that of `x0`.
    """
    hidden = hidden.to(x0.dtype).expand(x0.shape)
    visible = 1.0 - hidden
    eps_error = _mean_where((predicted_eps - eps).square(), visible)
    x0_error = _mean_where((predicted_x0 - x0).square(), hidden)
    return MaskedLosses(eps_error, x0_error, 0.5 * (eps_error + x0_error), x0_error)


def _mean_where(errors: Tensor, area: Tensor) -> Tensor:
    return (errors * area).sum() / area.sum().clamp_min(1.0)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    return F.cosine_similarity(first, second, dim=-1)
