"""Any scheduler of diffusers as one of our samplers: on our denoiser, our path and our list of times.

    sample = scheduler_sampler(UniPCMultistepScheduler(solver_order=3))
    image = sample(denoiser, x, even_times(10), class_labels=labels)

A step of theirs depends on noise levels alone. So a copy of the scheduler is given the levels of our times
(which decide the grid: its own spacing, shifts and Karras levels are set aside), its state is ours in its own
scaling, and what it takes for the network's output is made of our x0 and eps. Every scheduler thus runs on
every path, whatever the network predicts, and always ends at the clean data.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser
from diffusion_suite.core.schedulers.diffusers_adapters import accepted, table_settings
from diffusion_suite.core.schedulers.noise import Noise
from diffusion_suite.core.schedulers.paths import Path
from diffusion_suite.core.schedulers.samplers import Callback, Grid, Step, levels, state, walk

_TABLE = ("DDIM", "DDPM")
_PRESERVING = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep")
_EXPLODING = ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete")
_FLOW = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")
_EDM = ("EDMEuler", "EDMDPMSolverMultistep")
_FAINTEST = 2.0**-12
"""Share of data that stands for none where sigma/alpha must be finite, as diffusers has it for zero SNR."""

Level = tuple[float, float]
"""(alpha, sigma) of a path over the root of alpha^2 + sigma^2."""


def scheduler_sampler(scheduler: Any, **step_settings: Any) -> Callable[..., Tensor]:
    """The sampler (denoiser, x, times, *, noise=None, callback=None, **cond) -> x that steps as `scheduler`.

    The scheduler itself is not changed. The sampler's `times` descend to the clean end; its `noise` is one
    generator or one an item (or all values, (steps, *x.shape), where the scheduler's step takes
    `variance_noise`); `callback` is called once a step.

    Args:
        scheduler: DDIM, DDPM, DPM-Solver++ (multi-step, single-step), UniPC, Euler, ancestral Euler, Heun,
            LMS, flow-matching Euler and Heun, EDM Euler and EDM DPM-Solver++.
        step_settings: further arguments of the scheduler's `step`, such as `eta=` or `s_churn=`.

    Raises:
        ConfigError: another scheduler, or one whose network predicts the variance too.
    """
    family = _Family.of(scheduler)

    def sample(
        denoiser: Denoiser,
        x: Tensor,
        times: Grid,
        *,
        noise: Noise | None = None,
        callback: Callback | None = None,
        **cond: Any,
    ) -> Tensor:
        path, x = denoiser.path, state(x)
        numbers = times.tolist() if isinstance(times, Tensor) else list(times)
        ladder = [family.level(path, t) for t in numbers]
        if [sigma == 0.0 for _, sigma in ladder] != [False] * (len(ladder) - 1) + [True]:
            raise ConfigError("the times do not end at the clean data", "end them at 0 (a table: at -1)")
        stepper = family.on(scheduler, ladder)
        told = _randomness(stepper, noise)
        theirs = x * (family.norm(ladder[0]) / _norm(path, numbers[0]))
        entries = iter(stepper.timesteps)
        for index, t, s, step in walk(denoiser, numbers):
            stages = (t, s) if family.order == 2 and index + 2 < len(numbers) else (t,)
            for stage, level in zip(stages, ladder[index:], strict=False):
                ours = theirs * (_norm(path, stage) / family.norm(level))
                x0, eps = step.both(ours, stage, **cond)
                if callback is not None and stage == t:
                    callback(Step(index, t, ours, x0))
                output = family.output(x0, eps, level)
                drawn = {name: _of_step(value, index) for name, value in told.items()}
                stepped = stepper.step(
                    output, next(entries), theirs, return_dict=False, **drawn, **step_settings
                )
                theirs = stepped[0]
        return theirs * _norm(path, numbers[-1])

    return sample


@dataclass(frozen=True)
class _Family:
    """How schedulers of a kind scale the state, and what they want of a network."""

    kind: Literal["table", "preserving", "exploding", "flow", "edm"]
    order: int = 1
    faintest: float = _FAINTEST
    sigma_data: float = 0.5
    sign: int = 1

    @classmethod
    def of(cls, scheduler: Any) -> _Family:
        name, config = type(scheduler).__name__.removesuffix("Scheduler"), scheduler.config
        if str(config.get("variance_type")).startswith("learned"):
            raise ConfigError(f"{name} wants a learned variance", "set variance_type to fixed_small")
        order = 2 if "Heun" in name else 1
        if name in _TABLE:
            return cls("table", faintest=0.0)
        if name in _FLOW:
            return cls("flow", order, faintest=0.0)
        if name in _PRESERVING:
            return cls("flow" if config.get("use_flow_sigmas") else "preserving")
        if name in _EXPLODING:
            return cls("exploding", order)
        if name in _EDM:
            sign = -1 if config.prediction_type == "v_prediction" else 1
            return cls("edm", sigma_data=config.sigma_data, sign=sign)
        known = ", ".join(sorted(_TABLE + _PRESERVING + _EXPLODING + _FLOW + _EDM))
        raise ConfigError(f"{name} cannot run as a sampler", f"use one of {known}, or one of our own")

    def level(self, path: Path, t: float) -> Level:
        """The level of a time, with as little data as the scheduler can do with."""
        alpha, norm = levels(path, t)[0], _norm(path, t)
        if alpha >= self.faintest * norm:
            return alpha / norm, levels(path, t)[1] / norm
        return self.faintest, math.sqrt(1.0 - self.faintest**2)

    def norm(self, level: Level) -> float:
        """Root of alpha^2 + sigma^2 in their scaling."""
        alpha, sigma = level
        match self.kind:
            case "table" | "preserving":
                return 1.0
            case "flow":
                return 1.0 / (alpha + sigma)
        return 1.0 / alpha

    def output(self, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """What their network would return: velocity, the raw output inside EDM's preconditioning, or v."""
        alpha, sigma = level
        if self.kind == "flow":
            return eps - x0
        if self.kind == "edm":
            norm = math.hypot(sigma, alpha * self.sigma_data)
            return self.sign * (sigma * x0 - alpha * self.sigma_data**2 * eps) / (norm * self.sigma_data)
        return alpha * eps - sigma * x0

    def on(self, scheduler: Any, ladder: Sequence[Level]) -> Any:
        """A copy of the scheduler whose grid is the ladder of N + 1 levels."""
        made = type(scheduler)
        alpha, sigma = torch.tensor(ladder, dtype=torch.float64).unbind(1)
        settings = dict(_PLAIN)
        if self.kind != "flow" and self.kind != "edm":
            # All of these know v, which stays well-conditioned at both ends of the path.
            settings |= table_settings(alpha.flip(0) ** 2) | {"prediction_type": "v_prediction"}
        elif "use_flow_sigmas" in scheduler.config:
            settings |= {"prediction_type": "flow_prediction"}
        stepper = made.from_config(scheduler.config, **accepted(made, settings))
        stepper.set_timesteps(len(ladder) - 1)
        if self.kind == "table":
            stepper.alphas_cumprod = alpha.flip(0)[1:] ** 2
            return stepper
        sigmas = sigma / (alpha + sigma) if self.kind == "flow" else sigma / alpha
        if self.order == 2:
            sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        stepper.sigmas = sigmas
        # Only their number counts: a step finds its level by counting.
        stepper.timesteps = torch.arange(len(sigmas) - 1, 0, -1, dtype=torch.float64)
        stepper.set_begin_index(0)
        stepper.is_scale_input_called = True
        return stepper


_PLAIN: dict[str, Any] = {
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    "invert_sigmas": False,
    "lambda_min_clipped": -math.inf,
    "rescale_betas_zero_snr": False,
    "shift": 1.0,
    "shift_terminal": None,
    "timestep_type": "discrete",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
}
"""Settings that leave the grid to us."""


class _NoNoise(list[torch.Generator]):
    """Stands for generators where none were given: the first draw says so."""

    @override
    def __getitem__(self, index: Any) -> Any:
        raise ConfigError(
            "this scheduler adds noise and none is given", "pass noise=, one or more generators"
        )


@dataclass(frozen=True)
class _Values:
    """Noise given as values, one tensor a step."""

    values: Tensor


def _randomness(stepper: Any, noise: Noise | None) -> dict[str, Any]:
    """The argument of the scheduler's step that carries the noise."""
    known = inspect.signature(stepper.step).parameters
    if isinstance(noise, Tensor):
        if "variance_noise" not in known:
            raise ConfigError(f"{type(stepper).__name__} draws its own noise", "give generators as noise=")
        return {"variance_noise": _Values(noise)}
    if "generator" not in known:
        return {}
    if noise is None:
        return {"generator": _NoNoise()}
    return {"generator": noise if isinstance(noise, torch.Generator) else list(noise)}


def _of_step(value: Any, index: int) -> Any:
    return value.values[index] if isinstance(value, _Values) else value


def _norm(path: Path, t: float) -> float:
    return math.hypot(*levels(path, t))
