"""A conditional denoiser as a classifier: the class under which data are denoised best (Li et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import Denoiser, DiscreteVP, Noise, Path, step_noise

ErrorKind = Literal["l1", "l2"]


@dataclass(frozen=True)
class Classification:
    """What `classify` finds.

    Attributes:
        labels: (batch,), the index of the best class.
        scores: (batch, classes), minus the mean weighted error over the draws that a class was given.
        errors: (batch, classes, draws), unweighted, in the order of evaluation; NaN where a class had been
            dropped.
        times: (draws,), the time of each draw.
    """

    labels: Tensor
    scores: Tensor
    errors: Tensor
    times: Tensor


def classify(
    denoiser: Denoiser,
    x0: Tensor,
    classes: Tensor,
    *,
    noise: Noise,
    budgets: Sequence[int] = (5, 25),
    keep: Sequence[int] = (3, 1),
    trials: int = 1,
    error: ErrorKind = "l2",
    time_weight: Callable[[float], float] | None = None,
    times: Sequence[float] | None = None,
    name: str = "label",
    batch_size: int = 1024,
    **cond: Any,
) -> Classification:
    """Class of data by successive elimination: score_c = -mean over (t, eps) of |eps - eps(x_t, t, c)|.

    Every class of an item meets the same (t, eps). Stage n evaluates the classes that are left at the times
    of its budget that have not been used yet (see `stages`), and keeps the best. A pass holds up to
    `batch_size` pairs of an item and a class.

    Args:
        denoiser: a conditional model.
        x0: data (batch, ...).
        classes: (classes, ...), the condition of each class, e.g. its number or the vector of its text.
        noise: generator(s), or values (draws, *x0.shape), in the order of evaluation.
        budgets: times that have been used after each stage.
        keep: classes left after each stage.
        trials: draws a time.
        error: mean of squares or of absolute values over an item; the second is often the better.
        time_weight: weight of the errors at a time; None weighs all alike.
        times: all candidate times, as many as the largest budget; None takes `candidates`.
        name: of the argument by which the model takes the condition.
        batch_size: most pairs in one pass.
        cond: other conditions for the model, alike for all.

    Raises:
        ConfigError: budgets and keep do not fit, or times are missing on a path without natural ones.
    """
    if not budgets or len(budgets) != len(keep) or min(*budgets, *keep, trials) < 1:
        raise ConfigError(
            f"budgets {tuple(budgets)} and keep {tuple(keep)} do not fit",
            "give each one positive number a stage",
        )
    if error not in ("l1", "l2"):
        raise ConfigError(f"unknown error {error!r}", "use l1 or l2")
    moments = candidates(denoiser.path, max(budgets)) if times is None else list(times)

    def errors(t: float, eps: Tensor, left: Tensor) -> Tensor:
        """Errors (batch, classes left) at one time and noise."""
        x_t = denoiser.path.add_noise(x0, eps, t)
        items = torch.arange(len(x0), device=x0.device)[:, None].expand_as(left).flatten()
        found = []
        for item, which in zip(
            torch.split(items, batch_size), torch.split(left.flatten(), batch_size), strict=True
        ):
            away = (denoiser.eps(x_t[item], t, **{name: classes[which]}, **cond) - eps[item]).flatten(1)
            found.append(away.square().mean(1) if error == "l2" else away.abs().mean(1))
        return torch.cat(found).view_as(left)

    used: list[float] = []
    columns: list[Tensor] = []
    left = torch.arange(len(classes), device=x0.device).expand(len(x0), -1)
    total = x0.new_zeros((len(x0), len(classes)), dtype=torch.promote_types(x0.dtype, torch.float32))
    weights = torch.zeros_like(total)
    for places, kept in zip(stages(len(moments), budgets), keep, strict=True):
        for place in places:
            t = moments[place]
            weight = 1.0 if time_weight is None else time_weight(t)
            for _ in range(trials):
                found = errors(t, step_noise(noise, len(used), x0), left)
                total.scatter_add_(1, left, weight * found)
                weights.scatter_add_(1, left, torch.full_like(found, weight))
                columns.append(torch.full_like(total, torch.nan).scatter(1, left, found))
                used.append(t)
        best = _scores(total, weights).gather(1, left).topk(min(kept, left.shape[1]), dim=1).indices
        left = left.gather(1, best)
    return Classification(left[:, 0], _scores(total, weights), torch.stack(columns, 2), torch.tensor(used))


def candidates(path: Path, count: int) -> list[float]:
    """Times at which a classifier may look: evenly spaced middles of cells.

    On a table of T steps the indices T // N // 2, with stride T // N; else (i + 1/2) / N.

    Raises:
        ConfigError: fewer steps than times; or a path whose time is no number in [0, 1] (EDM).
    """
    if isinstance(path, DiscreteVP):
        stride = len(path) // count
        if stride == 0:
            raise ConfigError(f"a table of {len(path)} steps has no {count} times", "give smaller budgets")
        return [*range(stride // 2, len(path), stride)][:count]
    if float(path.alpha(0.0)) == float(path.alpha(1.0)):
        raise ConfigError(f"{type(path).__name__} has no natural times", "give times=, e.g. noise levels")
    return [(index + 0.5) / count for index in range(count)]


def stages(count: int, budgets: Sequence[int]) -> list[list[int]]:
    """Places among `count` candidates that each stage adds: every (count // n)-th, from count // n // 2."""
    seen: set[int] = set()
    plan = []
    for budget in budgets:
        stride = max(count // budget, 1)
        new = [place for place in range(stride // 2, count, stride)[:budget] if place not in seen]
        seen.update(new)
        plan.append(new)
    return plan


def _scores(total: Tensor, weights: Tensor) -> Tensor:
    return -total / weights.clamp_min(torch.finfo(weights.dtype).tiny)
