"""Invariant guidance: groups that a biased model serves worse are found, and evened out (InvDiff)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.guidance.base import Guidance, alike
from diffusion_suite.core.schedulers import Denoiser, Time


def group_means(losses: Tensor, membership: Tensor) -> Tensor:
    """Mean loss of each soft group, L_j = sum_i g_ij L_i / sum_i g_ij.

    Args:
        losses: (items,).
        membership: g, (items, groups), rows sum to 1.

    Returns:
        (groups,).
    """
    return (membership * losses[:, None]).sum(0) / membership.sum(0)


def invariant_objective(losses: Tensor, membership: Tensor, weight: float = 1.0) -> Tensor:
    """mean_j L_j + weight Var_j L_j over the group means, with the unbiased variance.

    Args:
        losses: denoising loss of each item, (items,).
        membership: (items, groups), two groups or more.
        weight: lambda.
    """
    means = group_means(losses, membership)
    return means.mean() + weight * means.var()


def grouping_objective(losses: Tensor, logits: Tensor, small_group: float = 0.0) -> Tensor:
    """What group inference minimises: minus the (unbiased) std of the group means, and a penalty.

    Args:
        losses: of the biased model, (items,).
        logits: w, (items, groups); memberships are their softmax.
        small_group: weight of the penalty sum_j max(1 - groups * share_j, 0)^2 on groups below an equal
            share.
    """
    membership = logits.softmax(1)
    spread = group_means(losses, membership).std()
    shares = membership.mean(0)
    missing = (1.0 - logits.shape[1] * shares).clamp(min=0.0).square().sum()
    return small_group * missing - spread


def infer_groups(
    losses: Tensor,
    groups: int = 8,
    *,
    generator: torch.Generator,
    steps: int = 500,
    learning_rate: float = 0.01,
    small_group: float = 1.0,
) -> Tensor:
    """Soft groups whose mean losses under the biased model differ most, by Adam on their logits.

    Args:
        losses: denoising loss of each training item, (items,), as a mean over a few times and draws.
        groups: number of groups.
        generator: of the small random start; equal logits would never part.
        steps: of Adam.
        learning_rate: of Adam.
        small_group: see `grouping_objective`.

    Returns:
        Memberships (items, groups), rows sum to 1.
    """
    losses = losses.detach().clone()
    start = torch.randn(len(losses), groups, generator=generator, device=generator.device)
    with torch.inference_mode(False), torch.enable_grad():
        logits = start.to(losses).requires_grad_()
        optimizer = torch.optim.Adam([logits], learning_rate)
        for _ in range(steps):
            optimizer.zero_grad()
            grouping_objective(losses, logits, small_group).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return logits.detach().softmax(1)


def largest_gap(classes: Tensor, count: int) -> Tensor:
    """Largest difference between the shares of any two groups among generated items, in [0, 1].

    Args:
        classes: group of each item, (items,), whole numbers below `count`.
        count: number of groups.
    """
    shares = torch.bincount(classes, minlength=count).double() / len(classes)
    return shares.max() - shares.min()


class Mixed(Guidance):
    """eps = (1 - r) eps_frozen + r delta: a frozen biased network and a light module that corrects it.

    The frozen network is evaluated without a graph, so training sees the module alone; the module starts
    from zero when its last layer does, or from the network itself when it is a LoRA copy of it.

    Args:
        denoiser: frozen.
        correction: on the same path, of any prediction type.
        ratio: r, 0.4 to 0.8.
    """

    def __init__(self, denoiser: Denoiser, correction: Denoiser, ratio: float = 0.5) -> None:
        super().__init__(denoiser)
        self.correction = alike(correction, denoiser)
        self.ratio = ratio

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        frozen, correction = self.denoiser.at_step(t, index, count), self.correction.at_step(t, index, count)
        if frozen is self.denoiser and correction is self.correction:
            return self
        return Mixed(frozen, correction, self.ratio)

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        # An outer guidance that differentiates by the state needs the graph; training of the module does not.
        with torch.set_grad_enabled(torch.is_grad_enabled() and x_t.requires_grad):
            frozen = self.denoiser.predict(x_t, t, **cond)
        return torch.lerp(frozen, self.correction.predict(x_t, t, **cond), self.ratio)
