"""Off-the-shelf classifiers made smooth enough to guide, and how honest they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import Denoiser, Noise, Time, step_noise

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CalibratedClassifier(nn.Module):
    """A frozen copy of a classifier that takes data in [-1, 1] of any size and is smooth (EluCD).

    The given module is not touched. Data are resized, brought to [0, 1] and normalised, as the classifier
    expects.

    Args:
        classifier: (batch, channels, size, size) -> logits (batch, classes).
        size: height and width of its input; None leaves the data as they are.
        mean: of each channel of its input in [0, 1].
        std: of each channel.
        beta: sharpness of the Softplus that takes the place of every ReLU; None keeps the ReLUs.

    Raises:
        ConfigError: there is no ReLU to replace.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        size: int | tuple[int, int] | None = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        beta: float | None = 3.0,
    ) -> None:
        super().__init__()
        copied = copy.deepcopy(classifier) if beta is None else with_softplus(classifier, beta)
        self.classifier = copied.eval().requires_grad_(False)
        self.size = (size, size) if isinstance(size, int) else size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @override
    def train(self, mode: bool = True) -> CalibratedClassifier:
        """The classifier stays in evaluation mode."""
        super().train(mode)
        self.classifier.eval()
        return self

    @override
    def forward(self, x0: Tensor) -> Tensor:
        """Logits of data in [-1, 1], (batch, channels, height, width)."""
        if self.size is not None and tuple(x0.shape[-2:]) != self.size:
            x0 = interpolate(x0, self.size, mode="bilinear", align_corners=False, antialias=True)
        logits: Tensor = self.classifier(((0.5 * x0 + 0.5) - self.mean) / self.std)
        return logits


def with_softplus(module: nn.Module, beta: float = 3.0) -> nn.Module:
    """A copy of a module in which every `nn.ReLU` is a Softplus log(1 + exp(beta x)) / beta.

    Args:
        module: left as it is.
        beta: sharpness; 3 for DDPM, 5 for EDM.

    Raises:
        ConfigError: the module has no `nn.ReLU` (one that calls a function instead cannot be changed here).
    """
    if isinstance(module, nn.ReLU):
        return nn.Softplus(beta)
    copied = copy.deepcopy(module)
    places = [
        (parent, name)
        for parent in copied.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ReLU)
    ]
    if not places:
        raise ConfigError(
            f"{type(module).__name__} has no ReLU module that could be softened",
            "pass beta=None to keep its activations",
        )
    for parent, name in places:
        setattr(parent, name, nn.Softplus(beta))
    return copied


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Mean over items of |accuracy - confidence| of the items' bins (Guo et al. 2017).

    Args:
        probabilities: (items, classes).
        labels: (items,).
        bins: number of equal bins (low, high] of the confidence, which is the largest probability.

    Returns:
        Scalar in [0, 1].
    """
    confidence, predicted = probabilities.max(1)
    right = predicted.eq(labels).to(confidence)
    edges = torch.linspace(0.0, 1.0, bins + 1, dtype=confidence.dtype, device=confidence.device)
    place = torch.bucketize(confidence, edges[1:-1])
    gaps = torch.zeros(bins, dtype=confidence.dtype, device=confidence.device)
    return gaps.index_add(0, place, right - confidence).abs().sum() / len(labels)


@torch.no_grad()
def calibration_by_time(
    classifier: Callable[[Tensor], Tensor],
    denoiser: Denoiser,
    x0: Tensor,
    labels: Tensor,
    times: Sequence[Time],
    *,
    noise: Noise,
    bins: int = 15,
) -> Tensor:
    """Calibration error of a classifier of clean data on what a denoiser predicts at each time.

    EluCD picks the classifier, and the sharpness of its Softplus, with the smallest errors.

    Args:
        classifier: x0 -> logits.
        denoiser: predicts the data from their noisy versions.
        x0: data (items, ...).
        labels: (items,).
        times: at which to ask, not the clean end.
        noise: see `step_noise`; one draw a time.
        bins: of the confidence.

    Returns:
        (times,).
    """
    errors = []
    for index, t in enumerate(times):
        x_t = denoiser.path.add_noise(x0, step_noise(noise, index, x0), t)
        probabilities = classifier(denoiser.x0(x_t, t)).softmax(1)
        errors.append(expected_calibration_error(probabilities, labels, bins))
    return torch.stack(errors)
