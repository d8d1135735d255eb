"""Joint diffusion of several modalities: dicts of data on one time, each with its own path and weight.

joint = Joint(network, {"image": Modality(RectifiedFlow(), "velocity"),
"depth": Modality(Trigonometric(), "v", MinSNR(), share=0.5)})
loss = joint.loss({"image": image, "depth": depth}, t, generator)
packed = joint.denoiser({"image": (3, 64, 64), "depth": (1, 64, 64)})   # for samplers and solvers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser, PredictionType, target, to_x0
from diffusion_suite.core.schedulers.noise import Noise, standard_normal
from diffusion_suite.core.schedulers.objective import prediction_errors
from diffusion_suite.core.schedulers.paths import Path, Time
from diffusion_suite.core.schedulers.weights import Weight

JointModel = Callable[..., Mapping[str, Tensor]]
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Modality:
    """One kind of data.

    Attributes:
        path: its path; modalities share the time, not necessarily the path.
        prediction_type: what the network returns for it.
        weight: weight on its x0 error; None leaves its error unweighted.
        share: its factor in the sum of losses.
    """

    path: Path
    prediction_type: PredictionType
    weight: Weight | None = None
    share: float = 1.0


class Joint:
    """A network (dict of x_t, t, **cond) -> dict of outputs, with the modalities of its dicts.

    Args:
        model: the network.
        modalities: name -> modality; names are the keys of all dicts.
    """

    def __init__(self, model: JointModel, modalities: Mapping[str, Modality]) -> None:
        self.model = model
        self.modalities = dict(modalities)

    def errors(
        self, x0: Mapping[str, Tensor], t: Tensor, noise: Noise | Mapping[str, Tensor], **cond: Any
    ) -> dict[str, Tensor]:
        """Weighted mean squared error (batch,) of each modality, without its share.

        Args:
            x0: clean data of every modality, (batch, ...) each.
            t: times (batch,).
            noise: generator(s), drawn from in the order of the modalities, or the noise of each.
            cond: conditions for the model.
        """
        if isinstance(noise, Tensor):
            raise ValueError("joint diffusion takes a dict of noise, one tensor a modality")
        eps = {
            name: standard_normal(noise[name] if isinstance(noise, Mapping) else noise, x0[name])
            for name in self.modalities
        }
        x_t = {name: each.path.add_noise(x0[name], eps[name], t) for name, each in self.modalities.items()}
        outputs = self.model(x_t, t, **cond)
        return {
            name: prediction_errors(
                outputs[name].to(torch.promote_types(outputs[name].dtype, torch.float32)),
                target(x0[name], eps[name], t, each.path, each.prediction_type),
                t,
                each.path,
                each.prediction_type,
                each.weight,
            )
            for name, each in self.modalities.items()
        }

    def loss(
        self, x0: Mapping[str, Tensor], t: Tensor, noise: Noise | Mapping[str, Tensor], **cond: Any
    ) -> Tensor:
        """Sum over the modalities of share times mean error, see `errors`."""
        errors = self.errors(x0, t, noise, **cond)
        parts = [self.modalities[name].share * value.mean() for name, value in errors.items()]
        return torch.stack(parts).sum()

    def denoiser(self, shapes: Shapes) -> Denoiser:
        """The denoiser of packed states (batch, values of all modalities) for any sampler or solver.

        Samplers that need log-SNRs want all modalities on one and the same path object.

        Args:
            shapes: shape of one item of each modality.
        """
        sizes = [math.prod(shapes[name]) for name in self.modalities]
        paths = [each.path for each in self.modalities.values()]
        shared = all(path is paths[0] for path in paths)

        def model(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
            states = unpack(x_t, {name: shapes[name] for name in self.modalities})
            outputs = self.model(states, t, **cond)
            return pack(
                {
                    name: to_x0(outputs[name], states[name], t, each.path, each.prediction_type)
                    for name, each in self.modalities.items()
                }
            )

        return Denoiser(model, paths[0] if shared else _JointPath(paths, sizes), "x0")


def pack(data: Mapping[str, Tensor]) -> Tensor:
    """The modalities (batch, ...) of a dict side by side, (batch, values)."""
    return torch.cat([value.flatten(1) for value in data.values()], 1)


def unpack(packed: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """The inverse of `pack`, for modalities of these shapes in this order."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts: tuple[Tensor, ...] = torch.split_with_sizes(packed, sizes, 1)
    named = zip(shapes.items(), parts, strict=True)
    return {name: part.reshape(len(part), *shape) for (name, shape), part in named}


class _JointPath(Path):
    """Coefficients of each value of a packed state: (values,) or (batch, values)."""

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        self.paths = paths
        self.sizes = sizes

    def _spread(self, values: Sequence[Tensor]) -> Tensor:
        each = zip(values, self.sizes, strict=True)
        return torch.cat([value[..., None].expand(*value.shape, size) for value, size in each], -1)

    def _on(self, values: Sequence[Tensor], like: Tensor) -> Tensor:
        if values[0].ndim or values[0].device.type != "cpu":
            return self._spread(values).to(like)
        # Filled on the device: a copy from the host would wait for it.
        filled = [like.new_full((n,), float(value)) for value, n in zip(values, self.sizes, strict=True)]
        return torch.cat(filled)

    @override
    def alpha(self, t: Time) -> Tensor:
        return self._spread([path.alpha(t) for path in self.paths])

    @override
    def sigma(self, t: Time) -> Tensor:
        return self._spread([path.sigma(t) for path in self.paths])

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return self._spread([path.d_alpha(t) for path in self.paths])

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return self._spread([path.d_sigma(t) for path in self.paths])

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        raise ConfigError(
            "modalities on different paths have no common log-SNR",
            "sample with given times, or give all modalities one path",
        )

    @override
    def at(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self._on([path.alpha(t) for path in self.paths], like),
            self._on([path.sigma(t) for path in self.paths], like),
        )

    @override
    def derivative_at(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self._on([path.d_alpha(t) for path in self.paths], like),
            self._on([path.d_sigma(t) for path in self.paths], like),
        )
