"""Guidance in one evaluation: a student that takes the scale as an input (Meng et al. 2023, stage 1).

The scale w is that of the suite's guidance, p_u + w (p_c - p_u): w = 1 is the conditional model. The article
counts w - 1, so that its (1 + w) p_c - w p_u is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.guidance import ClassifierFree
from diffusion_suite.core.guidance.base import alike
from diffusion_suite.core.schedulers import (
    Denoiser,
    FourierFeatures,
    TruncatedSNR,
    Weight,
    prediction_errors,
)
from diffusion_suite.core.schedulers.paths import per_item

TRUNCATED = TruncatedSNR()


def guidance_target(conditional: Tensor, unconditional: Tensor, scale: Tensor | float) -> Tensor:
    """What the student should say: p_u + w (p_c - p_u).

    Args:
        conditional: p_c, a prediction of any type, (batch, ...).
        unconditional: p_u, of the same type and shape.
        scale: w, one or (batch,).
    """
    weight = per_item(torch.as_tensor(scale), conditional)
    return unconditional + weight * (conditional - unconditional)


def guidance_loss(
    student: Denoiser,
    teacher: Denoiser,
    null: Mapping[str, Any],
    x_t: Tensor,
    t: Tensor,
    scale: Tensor,
    *,
    weight: Weight = TRUNCATED,
    **cond: Any,
) -> Tensor:
    """Mean weighted squared error of a student that is told the scale against a guided teacher.

    Args:
        student: takes the keyword `guidance`, (batch,), beside the conditions.
        teacher: the frozen network; it is evaluated with and without conditions.
        null: what stands for no condition, as in `guidance.ClassifierFree`.
        x_t: noisy data, (batch, ...).
        t: (batch,) times.
        scale: (batch,) guidance scales w.
        weight: on the squared error of x0; max(SNR, 1) by default.
        **cond: conditions.

    Returns:
        A scalar.
    """
    with torch.no_grad():
        pair = ClassifierFree(alike(teacher, student), 1.0, null).pair(x_t, t, cond)
        wanted = guidance_target(*pair, scale)
    predicted = student.predict(x_t, t, guidance=scale, **cond)
    path, kind = student.path, student.prediction_type
    return prediction_errors(predicted, wanted, t, path, kind, weight).mean()


class GuidanceEmbedding(nn.Module):
    """A guidance scale as a vector: Fourier features and a perceptron that starts at zero.

    Args:
        width: of the vector.
        waves: number of Fourier features.
    """

    def __init__(self, width: int, waves: int = 64) -> None:
        super().__init__()
        # Scales lie between 1 and some 15: a bandwidth of 1/4 makes a few turns over that range.
        self.features = FourierFeatures(waves, 0.25)
        self.layers = nn.Sequential(nn.Linear(waves, width), nn.SiLU(), nn.Linear(width, width))
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    @override
    def forward(self, scale: Tensor) -> Tensor:
        """Vectors (batch, width) of scales (batch,)."""
        vectors: Tensor = self.layers(self.features(scale))
        return vectors


class WithGuidance(nn.Module):
    """A network that is told the guidance scale, added to the embedding that it makes of the time.

    At the start it says what the network says, whatever the scale.

        WithGuidance(UNet2DConditionModel(...), "time_embedding", 1280)

    Args:
        network: (x_t, t, **cond) -> output, without a keyword `guidance`.
        embedding: name of the submodule that returns the embedding of the time, (batch, width).
        width: of that embedding.

    Raises:
        ConfigError: the network has no submodule of that name.
    """

    def __init__(self, network: nn.Module, embedding: str, width: int) -> None:
        super().__init__()
        self.network = network
        self.guidance = GuidanceEmbedding(width)
        self._shift: Tensor | None = None
        try:
            place = network.get_submodule(embedding)
        except AttributeError as error:
            names = ", ".join(name for name, _ in network.named_children())
            raise ConfigError(
                f"{type(network).__name__} has no submodule {embedding!r}", f"name one, below {names}"
            ) from error
        place.register_forward_hook(self._add)

    @override
    def forward(
        self, x_t: Tensor, t: Tensor, *args: Any, guidance: Tensor | float | None = None, **cond: Any
    ) -> Any:
        """The network's output.

        Args:
            x_t: (batch, ...).
            t: (batch,) times.
            *args: passed on.
            guidance: scales, one or (batch,); None leaves the network as it is.
            **cond: passed on.
        """
        if guidance is not None:
            if not isinstance(guidance, Tensor):
                guidance = torch.full((len(x_t),), guidance, device=x_t.device)
            self._shift = self.guidance(guidance.expand(len(x_t)))
        try:
            return self.network(x_t, t, *args, **cond)
        finally:
            self._shift = None

    def _add(self, _: nn.Module, __: Any, embedding: Tensor) -> Tensor:
        return embedding if self._shift is None else embedding + self._shift.to(embedding.dtype)
