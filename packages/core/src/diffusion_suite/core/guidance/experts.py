"""Experts for ranges of noise: guidance models that know how noisy their input is (PPAP)."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.schedulers import Denoiser, Path, PredictionType, Time, times
from diffusion_suite.core.schedulers.conditions import reordered

Expert = Callable[..., Tensor]


def expert_boundaries(count: int, steps: int) -> list[int]:
    """Ends of the ranges of equal experts: expert k serves the steps [kT/N, (k+1)T/N) of T.

    Args:
        count: N, number of experts.
        steps: T, number of training steps.

    Returns:
        N + 1 whole numbers from 0 to T; a border that is no whole number is rounded up, so that step t
        belongs to expert floor(t N/T).
    """
    return [-(-k * steps // count) for k in range(count + 1)]


def expert_of(t: Tensor, boundaries: Sequence[float]) -> Tensor:
    """Number of the expert that serves each time; ranges [b_k, b_{k+1}) are half-open.

    Times below the first range go to the first expert, times beyond the last to the last.
    """
    inner = torch.as_tensor(boundaries[1:-1], dtype=torch.float64, device=t.device)
    return torch.bucketize(t.to(torch.float64), inner, right=True)


class NoiseExperts:
    """Models that each serve one range of times, seen as one model (x_t, t, **cond) -> output.

    Every item goes to the expert of its own time, at every call. A time given as a number is looked up on
    the host; times of a tensor (batch,) are sorted by expert, which waits for the device, and each expert
    sees its own items only: of every condition with one entry an item its own entries. Can be the classifier
    of `ClassifierGuided`; `ExpertDenoiser` makes a denoiser of it.

    Args:
        experts: one a range, callable (x_t, t (batch,), **cond) -> tensor (batch, ...).
        boundaries: increasing, one more than experts, as from `expert_boundaries`.

    Raises:
        ValueError: the boundaries do not fit the experts.
    """

    def __init__(self, experts: Sequence[Expert], boundaries: Sequence[float]) -> None:
        if len(boundaries) != len(experts) + 1 or sorted(set(boundaries)) != list(boundaries):
            raise ValueError(
                f"{len(experts)} experts need {len(experts) + 1} increasing boundaries,"
                f" not {list(boundaries)}"
            )
        self.experts = list(experts)
        self.boundaries = list(boundaries)

    def __call__(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """The output of each item's expert, (batch, ...)."""
        if isinstance(t, Tensor) and not t.ndim:
            t = t.expand(x_t.shape[0])
        if not isinstance(t, Tensor):
            chosen = bisect.bisect_right(self.boundaries[1:-1], t)
            return self.experts[chosen](x_t, times(t, x_t), **cond)
        numbers = expert_of(t, self.boundaries)
        groups = [(k, torch.nonzero(numbers == k).squeeze(1)) for k in range(len(self.experts))]
        groups = [(k, items) for k, items in groups if len(items)]
        if len(groups) == 1:
            return self.experts[groups[0][0]](x_t, t, **cond)
        outputs = [self.experts[k](x_t[items], t[items], **reordered(cond, items)) for k, items in groups]
        order = torch.cat([items for _, items in groups])
        return torch.cat(outputs)[order.argsort()]


class ExpertDenoiser(Denoiser):
    """A denoiser whose network is a different one in each range of times; see `NoiseExperts`.

    Args:
        experts: networks (x_t, t, **cond) -> output.
        boundaries: of their ranges.
        path: the path of all of them.
        prediction_type: of all of them.
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        boundaries: Sequence[float],
        path: Path,
        prediction_type: PredictionType,
    ) -> None:
        self.experts = NoiseExperts(experts, boundaries)
        super().__init__(self.experts, path, prediction_type)

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        # The number, not a tensor of it, so that the choice is made on the host.
        output = self.experts(x_t, t, **cond)
        return output.to(torch.promote_types(output.dtype, torch.float32))
