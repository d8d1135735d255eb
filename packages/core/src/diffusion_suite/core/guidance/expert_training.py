"""Making noise-range experts from one off-the-shelf network, without labels and without data (PPAP)."""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.guidance.experts import Expert
from diffusion_suite.core.schedulers import Path, standard_normal

Loss = Callable[[Tensor, Tensor], Tensor]


class LoraExperts(nn.Module):
    """Experts that start from the same off-the-shelf weights, with LoRA on convolutions and linear layers.

    They share one frozen copy of the network, so five cost little more memory than one. Each starts as the
    network itself (the second factor of a new adapter is zero) and learns apart from the others.

        experts = LoraExperts(classifier, count=5)
        guide = NoiseExperts([*experts], expert_boundaries(5, 1000))

    Args:
        network: x -> output; left as it is.
        count: number of experts.
        rank: of the adapters.
        alpha: their scale is alpha / rank.

    Raises:
        ConfigError: the network has no convolution or linear layer inside it.
    """

    def __init__(self, network: nn.Module, count: int = 5, rank: int = 16, alpha: float = 8) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        super().__init__()
        layers = [name for name, layer in network.named_modules() if name and _adaptable(layer)]
        if not layers:
            raise ConfigError(
                f"{type(network).__name__} has no convolution or linear layer inside it to adapt",
                "wrap a bare layer in a torch.nn.Sequential",
            )
        # One regular expression of full names: a list of names would match their endings too.
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="|".join(map(re.escape, layers)))
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.count = count
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
            for number in range(count):
                inject_adapter_in_model(config, self.network, adapter_name=_name(number))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Expert]:
        return (functools.partial(self.forward, number) for number in range(self.count))

    @override
    def forward(self, number: int, x_t: Tensor, t: Tensor | None = None, **cond: Any) -> Tensor:
        """Output of one expert for noisy data; the time is not passed on, the network knows none."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self.network.modules():
            if isinstance(layer, BaseTunerLayer) and layer.active_adapters != [_name(number)]:
                layer.set_adapter(_name(number))
        output: Tensor = self.network(x_t, **cond)
        return output

    def adapter(self, number: int) -> list[nn.Parameter]:
        """The weights that belong to one expert alone."""
        named = self.network.named_parameters()
        return [weight for key, weight in named if f".{_name(number)}." in key]

    @override
    def train(self, mode: bool = True) -> LoraExperts:
        """The shared network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self


def kl_distillation(student: Tensor, teacher: Tensor, temperature: float = 0.25) -> Tensor:
    """KL(softmax(teacher / temperature) || softmax(student)) over classes, divided by their number.

    Args:
        student: logits (batch, classes, ...); further dimensions are pixels, whose mean is taken.
        teacher: logits of the same shape.
        temperature: below 1 it sharpens the teacher.

    Returns:
        (batch,).
    """
    wanted = torch.log_softmax(teacher / temperature, 1)
    terms = wanted.exp() * (wanted - torch.log_softmax(student, 1))
    return terms.flatten(1).mean(1)


def mse_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of each item, (batch,): for networks that regress, such as depth."""
    return (student - teacher).square().flatten(1).mean(1)


def distil_experts(
    experts: LoraExperts,
    teacher: Callable[[Tensor], Tensor],
    images: Iterator[Tensor],
    path: Path,
    boundaries: Sequence[float],
    *,
    iterations: int,
    generator: torch.Generator,
    loss: Loss = kl_distillation,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.05,
) -> list[float]:
    """Teach each expert to say of noisy images of its range what the teacher says of the clean ones.

    Args:
        experts: their adapters are trained, one after another, apart from each other.
        teacher: the off-the-shelf network.
        images: batches of clean images, generated by the diffusion model (no labels, no data set).
        path: that of the diffusion model.
        boundaries: of the experts' ranges; whole numbers draw whole times, as a `DiscreteVP` has them.
        iterations: shared out among the experts.
        generator: of times and noise.
        loss: (student, teacher) -> (batch,).
        learning_rate: of AdamW.
        weight_decay: of AdamW.

    Returns:
        Mean loss of each expert's last iteration.
    """
    last = []
    discrete = all(isinstance(end, int) for end in boundaries)
    for k, expert in enumerate(experts):
        optimizer = torch.optim.AdamW(experts.adapter(k), learning_rate, weight_decay=weight_decay)
        value = torch.zeros(())
        for _ in range(iterations * (k + 1) // len(experts) - iterations * k // len(experts)):
            x0 = next(images)
            share = torch.rand(len(x0), generator=generator, device=generator.device, dtype=torch.float64)
            t = boundaries[k] + share * (boundaries[k + 1] - boundaries[k])
            t = (t.floor().long() if discrete else t).to(x0.device)
            x_t = path.add_noise(x0, standard_normal(generator, x0), t)
            with torch.no_grad():
                wanted = teacher(x0)
            value = loss(expert(x_t, t), wanted).mean()
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        last.append(float(value.detach()))
    return last


def _name(number: int) -> str:
    return f"expert{number}"


def _adaptable(layer: nn.Module) -> bool:
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return layer.groups == 1
    return isinstance(layer, nn.Linear)
