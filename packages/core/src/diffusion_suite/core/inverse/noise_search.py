"""Start noises that suit a deterministic solver: searched once, used for every input.

A deterministic sampler h turns start noise z and a condition y into h(z, y). Some noises serve all inputs of
a model better than others; `search_noise` finds the best of many candidates on a few reference pairs,
`refine_noise` moves a Gaussian over noises towards better ones by a policy gradient. The winner is a tensor
that `save_noise` writes, `load_noise` reads, and `fit_noise` crops or tiles to other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import CheckpointError, ConfigError, InputError

Sampler = Callable[[Tensor, Any], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Any, Tensor]


@dataclass(frozen=True)
class FoundNoise:
    """The best candidate.

    Attributes:
        noise: (1, ...), as a sampler takes it.
        index: of the winner among the candidates.
        distances: (candidates,), mean distance of each to the references.
    """

    noise: Tensor
    index: int
    distances: Tensor


def mean_squared_error(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of each item, (batch,)."""
    return (made - wanted).square().flatten(1).mean(1)


def search_noise(
    sampler: Sampler,
    references: Sequence[Pair],
    candidates: int | Tensor = 64,
    *,
    shape: tuple[int, ...] | None = None,
    distance: Distance = mean_squared_error,
    batch: int = 16,
    seed: int = 0,
) -> FoundNoise:
    """The candidate z with the least mean_i distance(h(z, y_i), x_i).

    Args:
        sampler: h(noise, y) -> images, for noise (batch, ...) and the condition y of one reference; a
            deterministic solver in few steps.
        references: pairs (y_i, x_i); y_i goes to the sampler as it is, x_i has shape (1, ...).
        candidates: how many to draw, or the candidates themselves, (candidates, ...).
        shape: of one noise; None takes that of the first x_i.
        distance: (made, wanted) -> (batch,), such as LPIPS; `wanted` is expanded to the batch.
        batch: candidates evaluated at once.
        seed: of the candidates that are drawn. Candidate m is the same whatever their number.

    Raises:
        ConfigError: no references or no candidates.
    """
    with torch.no_grad():
        noises = _candidates(references, candidates, shape, seed)
        scores = torch.cat(
            [_scores(sampler, references, part, distance) for part in torch.split(noises, batch)]
        )
    index = int(scores.argmin())
    return FoundNoise(noises[index : index + 1].clone(), index, scores)


def refine_noise(
    sampler: Sampler,
    references: Sequence[Pair],
    start: Tensor,
    *,
    rounds: int = 20,
    draws: int = 16,
    inner: int = 4,
    rate: float = 0.05,
    clip: float = 0.2,
    distance: Distance = mean_squared_error,
    seed: int = 0,
) -> Tensor:
    """Mean mu of a Gaussian N(mu, I) over start noises, improved by a clipped policy gradient.

    One decision, the noise, and one reward, minus its mean distance. In every round `draws` pairs of noises
    mu + n and mu - n are scored; the rewards, made mean 0 and variance 1, are the advantages A, and mu climbs
    mean(min(r A, clip(r, 1 - c, 1 + c) A)), r the ratio of the densities under the new and the old mean.

    Args:
        sampler: as for `search_noise`.
        references: as for `search_noise`.
        start: first mean, (1, ...): zeros, or what `search_noise` found.
        rounds: number of updates with fresh noises.
        draws: pairs of noises a round.
        inner: gradient steps a round.
        rate: step of Adam.
        clip: c.
        distance: as for `search_noise`.
        seed: of the noises.

    Returns:
        mu, shape of `start`; draw start noise as mu + n.

    Raises:
        ConfigError: no references, or a number below 1.
    """
    if min(rounds, draws, inner) < 1:
        raise ConfigError(f"{rounds} rounds of {draws} draws and {inner} steps", "give numbers of 1 or more")
    mu = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([mu], lr=rate)
    for index in range(rounds):
        generator = seeding.generator("refine noise", seed, index)
        half = torch.randn(draws, *start.shape[1:], generator=generator).to(start)
        old = mu.detach().clone()
        noises = old + torch.cat([half, -half])
        with torch.no_grad():
            reward = -_scores(sampler, references, noises, distance)
        advantage = (reward - reward.mean()) / reward.std().clamp_min(torch.finfo(reward.dtype).tiny)
        for _ in range(inner):
            away = ((noises - old).square() - (noises - mu).square()).flatten(1).sum(1)
            ratio = (0.5 * away).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
            (mu.grad,) = torch.autograd.grad(-gain.mean(), mu)
            adam.step()
    return mu.detach()


def save_noise(noise: Tensor, file: str | Path) -> None:
    """Write a start noise as safetensors."""
    from safetensors.torch import save_file

    save_file({"noise": noise.detach().cpu().contiguous()}, str(file))


def load_noise(file: str | Path) -> Tensor:
    """Read a start noise.

    Raises:
        CheckpointError: the file is missing or holds none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        noise: Tensor = load_file(str(file))["noise"]
    except (OSError, SafetensorError, KeyError) as error:
        problem = f"{file} holds no start noise ({error})"
        raise CheckpointError(problem, "give a file that save_noise wrote") from error
    return noise


def fit_noise(noise: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A start noise for another size: repeated along every axis that is too short, then cropped.

    Args:
        noise: (1, ...).
        shape: of one noise, with as many axes.

    Raises:
        InputError: another number of axes, or of channels (the first axis).
    """
    own = tuple(noise.shape[1:])
    if len(shape) != len(own) or (len(own) > 1 and shape[0] != own[0]):
        raise InputError(
            f"a start noise of shape {own} does not fit {shape}", "search one for this model's channels"
        )
    repeats = [math.ceil(wanted / have) for wanted, have in zip(shape, own, strict=True)]
    return noise.repeat(1, *repeats)[(slice(None), *(slice(size) for size in shape))]


def _candidates(
    references: Sequence[Pair], candidates: int | Tensor, shape: tuple[int, ...] | None, seed: int
) -> Tensor:
    if not references:
        raise ConfigError("no reference pairs", "give at least one pair (condition, result wanted)")
    if isinstance(candidates, Tensor):
        if not len(candidates):
            raise ConfigError("no candidates", "give at least one start noise")
        return candidates
    if candidates < 1:
        raise ConfigError(f"{candidates} candidates", "give 1 or more")
    like = references[0][1]
    if shape is None:
        shape = tuple(like.shape[1:])
    drawn = [torch.randn(shape, generator=seeding.generator("noise", seed, m)) for m in range(candidates)]
    return torch.stack(drawn).to(like)


def _scores(sampler: Sampler, references: Sequence[Pair], noises: Tensor, distance: Distance) -> Tensor:
    """Mean distance of each noise over the references."""
    total: Tensor | None = None
    for condition, wanted in references:
        made = sampler(noises, condition)
        found = distance(made, wanted.to(made).expand_as(made))
        total = found if total is None else total + found
    if total is None:
        raise ConfigError("no reference pairs", "give at least one pair (condition, result wanted)")
    return total / len(references)
