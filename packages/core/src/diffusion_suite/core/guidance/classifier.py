"""Guidance by classifiers of noisy data, and by calibrated classifiers of clean data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffusion_suite.core.guidance.ancestral import ancestral_scales, posterior_variances
from diffusion_suite.core.guidance.experts import NoiseExperts
from diffusion_suite.core.guidance.score import LikelihoodScore, ScoreGuided, gradient
from diffusion_suite.core.schedulers import Denoiser, Time, times
from diffusion_suite.core.schedulers.samplers import Grid

NoisyClassifier = Callable[[Tensor, Tensor], Tensor]
CleanClassifier = Callable[[Tensor], Tensor]


class ClassifierGuided(ScoreGuided):
    """Classifier guidance eps <- eps - w sigma grad_{x_t} log p(y | x_t) (Dhariwal, Nichol 2021).

    With the exact posterior, w = 1 turns the unconditional denoiser into the conditional one, and any w is
    classifier-free guidance with w. The ancestral form, mean += w variance gradient, is the same guidance
    with a scale that depends on the step: `scale=ancestral_scales(path, times, w * posterior_variances(path,
    times))`.

    Args:
        denoiser: the unconditional network, or a guidance.
        classifier: (x_t, t (batch,)) -> logits (batch, classes), trained on noisy data; or `NoiseExperts` of
            such classifiers.
        labels: (batch,), the wanted classes.
        scale: w, or one for each step of a sampler.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: NoisyClassifier | NoiseExperts,
        labels: Tensor,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(denoiser, classifier_score(classifier, labels), scale=scale, jacobian=False)


class CalibratedGuided(ScoreGuided):
    """EluCD: a calibrated off-the-shelf classifier at the predicted data (Ma et al. 2024).

    g = grad_{x0} [joint f_y(x0) - logsumexp(margin f(x0))], not through the denoiser, and the mean of an
    ancestral step moves by scale (variance + gamma V max(sin(pi i/N), 0)) g (see `sine_variances`). The
    scales are worked out for the steps of one sampler, `ancestral` or DDIM(eta = 1), on these times.

    Args:
        denoiser: the unconditional network, or a guidance.
        classifier: x0 -> logits (batch, classes), as a rule a `CalibratedClassifier`.
        labels: (batch,), the wanted classes.
        steps: the sampler's times, descending, the clean end included.
        scale: factor of the whole shift.
        joint: temperature of the wanted class's logit.
        margin: temperature of all logits; None takes half of `joint`, 0 leaves the joint density alone.
        gamma: share of the sine-shaped extra variance; 0.3 suits 250 steps of DDPM.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: CleanClassifier,
        labels: Tensor,
        steps: Grid,
        *,
        scale: float = 1.0,
        joint: float = 1.0,
        margin: float | None = None,
        gamma: float = 0.3,
    ) -> None:
        variances = posterior_variances(denoiser.path, steps)
        shifts = scale * (variances + sine_variances(variances, gamma))
        scales = ancestral_scales(denoiser.path, steps, shifts)
        margin = 0.5 * joint if margin is None else margin

        def score(x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
            with torch.enable_grad():
                x0 = x0.detach().requires_grad_()
                return gradient(margin_log_prob(classifier(x0), labels, joint, margin), x0)

        super().__init__(denoiser, score, scale=scales, jacobian=False)


def classifier_score(classifier: NoisyClassifier | NoiseExperts, labels: Tensor) -> LikelihoodScore:
    """grad_{x_t} log p(y | x_t) of a classifier of noisy data, for `ScoreGuided`."""

    def score(x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            # Experts choose by a number without asking the device.
            if isinstance(classifier, NoiseExperts):
                logits = classifier(x_t, t)
            else:
                logits = classifier(x_t, times(t, x_t))
            return gradient(label_log_prob(logits, labels), x_t)

    return score


def label_log_prob(logits: Tensor, labels: Tensor) -> Tensor:
    """Log p(y) of each item, (batch,), from logits (batch, classes) and labels (batch,)."""
    return -torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def margin_log_prob(logits: Tensor, labels: Tensor, joint: float = 1.0, margin: float = 0.5) -> Tensor:
    """Joint f_y - logsumexp(margin f): EluCD's log of a joint over a marginal density, up to a constant.

    Args:
        logits: f, (batch, classes).
        labels: y, (batch,).
        joint: temperature of the joint density.
        margin: temperature of the marginal density; equal to `joint` it is the usual log p(y).

    Returns:
        (batch,).
    """
    chosen = logits.gather(1, labels[:, None]).squeeze(1)
    return joint * chosen - torch.logsumexp(margin * logits, 1)


def sine_variances(variances: Tensor, gamma: float = 0.3) -> Tensor:
    """EluCD's extra variance gamma V max(sin(pi i/N), 0), with V the largest variance met so far.

    Args:
        variances: (steps,) in the order of execution; i counts from the clean end, N is their number.
        gamma: share.

    Returns:
        (steps,), to be added to the variances.
    """
    count = len(variances)
    left = torch.arange(count - 1, -1, -1, dtype=variances.dtype, device=variances.device)
    return gamma * variances.cummax(0).values * torch.sin(torch.pi * left / count).clamp(min=0.0)
