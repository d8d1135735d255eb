"""The plug-in rule: any likelihood score enters every sampler through the predicted noise.

With g = grad log p(. | x_t), eps <- eps - sigma g, which is x0 <- x0 + (sigma^2/alpha) g and
score <- score + g. Classifiers, energies, observed values and measurements differ only in g.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.guidance.base import Guidance
from diffusion_suite.core.schedulers import Denoiser, Path, PredictionType, Time, to_x0


class LikelihoodScore(Protocol):
    """A function of the state that returns g = grad_{x_t} log p(. | x_t)."""

    def __call__(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The score at a state.

        Args:
            x_t: state (batch, ...). With `jacobian` it is a leaf that requires a gradient.
            x0: clean data predicted there; with `jacobian` it depends on `x_t`, so that
                `torch.autograd.grad(f(x0), x_t)` passes through the network.
            t: the time, as it was given to the denoiser.

        Returns:
            A tensor of the shape of `x_t`. Each item's values must depend on that item alone.
        """


class ScoreGuided(Guidance):
    """A denoiser with a likelihood score added, eps <- eps - scale sigma g, from one evaluation.

    Works under `no_grad` and `inference_mode`, and leaves no graph behind. If a caller differentiates through
    it, as an outer guidance does, the gradient is that of the inner denoiser: the score counts as a constant
    (and the network is evaluated once more). Where alpha = 0 the state says nothing of the data and the
    output is left as it is.

    Args:
        denoiser: the network, or a guidance.
        score: see `LikelihoodScore`.
        scale: factor of the score, or one factor for each step of a sampler (then only samplers can use it).
        jacobian: keep the graph from `x_t` to `x0` for the score; False saves its memory.

    Example, the data set pulled towards a point:

        pull = ScoreGuided(denoiser, lambda x_t, x0, t: point - x0, jacobian=False)
    """

    def __init__(
        self,
        denoiser: Denoiser,
        score: LikelihoodScore,
        *,
        scale: float | Sequence[float] = 1.0,
        jacobian: bool = True,
    ) -> None:
        super().__init__(denoiser)
        self.score_function = score
        self.scale = scale
        self.jacobian = jacobian

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        stepped = self._around(self.denoiser.at_step(t, index, count))
        if isinstance(self.scale, (int, float)):
            return stepped
        if len(self.scale) != count:
            raise ValueError(f"{len(self.scale)} scales given for a sampler of {count} steps")
        stepped = copy.copy(stepped)
        stepped.scale = float(self.scale[index])
        return stepped

    def guide(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The score times its scale; subclasses may add to it."""
        if not isinstance(self.scale, (int, float)):
            raise ValueError("the scale is given for each step, so a sampler must name the step by `at_step`")
        return self.scale * self.score_function(x_t, x0, t)

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        if torch.is_grad_enabled() and x_t.requires_grad:
            _, score = self._evaluated(x_t, t, cond)
            output = self.denoiser.predict(x_t, t, **cond)
        else:
            output, score = self._evaluated(x_t, t, cond)
        return shifted(output, score, t, self.path, self.prediction_type)

    def _evaluated(self, x_t: Tensor, t: Time, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The inner output and the scaled score, both without a graph."""
        # Tensors made under inference mode cannot take part in a graph; their copies made outside it can.
        with torch.inference_mode(False), torch.set_grad_enabled(self.jacobian):
            x_t, t = x_t.detach().clone().requires_grad_(self.jacobian), _ordinary(t)
            output = self.denoiser.predict(x_t, t, **{name: _ordinary(v) for name, v in cond.items()})
            score = self.guide(x_t, to_x0(output, x_t, t, self.path, self.prediction_type), t)
            return output.detach(), score.detach()


def shifted(output: Tensor, score: Tensor, t: Time, path: Path, kind: PredictionType) -> Tensor:
    """An output of this kind after eps <- eps - sigma score; unchanged where alpha = 0."""
    alpha, sigma = path.at(t, output)
    ratio = sigma / alpha
    match kind:
        case "eps":
            factor = -sigma
        case "score":
            factor = torch.ones_like(sigma)
        case "x0":
            factor = sigma * ratio
        case "v":
            factor = -sigma * (alpha + sigma * ratio)
        case "velocity":
            d_alpha, d_sigma = path.derivative_at(t, output)
            factor = sigma * (d_alpha * ratio - d_sigma)
    return output + torch.where(alpha > 0, factor, 0.0) * score


def gradient(values: Tensor, at: Tensor) -> Tensor:
    """Gradient of each item's value by its own place; frees the graph.

    Args:
        values: (batch,), one value an item.
        at: (batch, ...), what the values were computed from.

    Raises:
        ValueError: the values are not one an item: a mean over the batch, say, would make an item's
            gradient depend on its neighbours.
    """
    if values.shape != at.shape[:1]:
        raise ValueError(f"one value an item is needed, ({at.shape[0]},), not {tuple(values.shape)}")
    (found,) = torch.autograd.grad(values.sum(), at)
    return found


def _ordinary(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
