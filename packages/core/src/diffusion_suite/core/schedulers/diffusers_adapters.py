"""Networks and schedulers of diffusers as ours, and ours as theirs.

    denoiser = from_diffusers(pipeline.unet, pipeline.scheduler)   # any of our methods on their network
    scheduler = to_diffusers(path, "v", family="dpm++", steps=25)  # their pipelines on our network
    sampler = scheduler_sampler(scheduler)                         # see `diffusers_sampler`

Facts about diffusers that matter here (versions 0.3x to 0.42): a flow-matching scheduler that is built with a
shift applies it twice to its smallest level; `DDIMScheduler` steps back by T // N whatever its list of times
says; `EDMEulerScheduler.init_noise_sigma` is sqrt(sigma_max^2 + 1), not sigma_max.
"""

from __future__ import annotations

import inspect
from typing import Any, get_args

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.betas import BetaSchedule, betas
from diffusion_suite.core.schedulers.denoiser import Denoiser, PredictionType
from diffusion_suite.core.schedulers.paths import EDM, DiscreteVP, Path, RectifiedFlow, Time
from diffusion_suite.core.schedulers.preconditioning import Preconditioning
from diffusion_suite.core.schedulers.tables import zero_terminal_snr

_THEIR_KINDS: dict[str, PredictionType] = {
    "epsilon": "eps",
    "sample": "x0",
    "original_sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}
_TABLE_FAMILIES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_FLOW_FAMILIES = {
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
_EDM_FAMILIES = {"dpm++": "EDMDPMSolverMultistepScheduler", "euler": "EDMEulerScheduler"}


def from_diffusers(network: Any, scheduler: Any, *, time_scale: float | None = None) -> Denoiser:
    """A denoiser around a network of diffusers, on the path and with the prediction type of its scheduler.

    Conditions pass through by the network's own names: `class_labels=`, `encoder_hidden_states=`,
    `pooled_projections=`, `added_cond_kwargs=` and so on. The state is ours (never scaled by a sampler), the
    time is an index for tables of variances, t in [0, 1] for flows, sigma for EDM.

    Args:
        network: a UNet or transformer, called with (x_t, timestep=, return_dict=False, **cond). Where it
            returns twice the channels of x_t (a learned variance), the first half counts.
        scheduler: a scheduler of diffusers, such as the pipeline's.
        time_scale: what the network takes for t = 1 of a flow; None is the scheduler's number of training
            steps (1000). Some transformers (Flux) take 1.

    Raises:
        ConfigError: a scheduler whose path is not known here.
    """
    path, kind = diffusers_path(scheduler)
    config = scheduler.config
    scale = 1.0
    if isinstance(path, RectifiedFlow):
        scale = float(config.num_train_timesteps) if time_scale is None else time_scale
    elif time_scale is not None:
        raise ConfigError("only flows have a time scale", "leave time_scale out")

    def model(x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        given = x_t.to(getattr(network, "dtype", x_t.dtype))
        timestep = t if scale == 1.0 else t * scale
        output: Tensor = network(given, timestep=timestep, return_dict=False, **cond)[0]
        return output.chunk(2, dim=1)[0] if output.shape[1] == 2 * x_t.shape[1] else output

    if isinstance(path, EDM):
        continuous = "sigma_data" not in config
        sign = -1 if config.prediction_type == "v_prediction" else 1
        return Preconditioning(path, 1.0 if continuous else float(config.sigma_data), sign)(model)
    return Denoiser(model, path, kind)


def diffusers_path(scheduler: Any) -> tuple[Path, PredictionType]:
    """The path of a diffusers scheduler, and what its network predicts.

    Tables are computed anew in float64. For EDM schedulers, whose network sits inside `Preconditioning`, the
    prediction type is that of the preconditioned denoiser, `x0`.

    Raises:
        ConfigError: no path is known for it.
    """
    name, config = type(scheduler).__name__, scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        return RectifiedFlow(), "velocity"
    if "sigma_data" in config and name.startswith("EDM"):
        return EDM(), "x0"
    if config.get("timestep_type") == "continuous" and kind == "v_prediction":
        return EDM(), "x0"
    if "beta_schedule" not in config or kind not in _THEIR_KINDS:
        raise ConfigError(f"no path is known for {name} predicting {kind}", "build the Denoiser by hand")
    path = DiscreteVP(_table(config))
    theirs = getattr(scheduler, "alphas_cumprod", None)
    if theirs is None or (path.alpha_bar[1:] - theirs.double().cpu()).abs().max() > 1e-4:
        raise ConfigError(f"{name} changes its table of variances", "build the Denoiser by hand")
    return path, _THEIR_KINDS[kind]


def to_diffusers(
    path: Path,
    prediction_type: PredictionType,
    *,
    family: str | None = None,
    steps: int | None = None,
    **settings: Any,
) -> Any:
    """A diffusers scheduler for a network on one of our paths, for use in their pipelines.

    - `DiscreteVP` with `eps`, `x0` or `v`: ddim, ddpm, dpm++ (default), euler, euler_ancestral, heun, lms,
      unipc. Times are spaced from the noisiest index on; the last step goes to the clean image.
    - `RectifiedFlow` with `velocity`: euler (default), heun, dpm++, unipc. `shift=` is applied once.
    - `EDM` with `x0`, for the network inside `Preconditioning`: euler (default), dpm++; give `sigma_data=`
      unless it is 0.5. Their start, sqrt(sigma_max^2 + 1) z, is larger than ours by 1 part in 12,800 at 80.

    Args:
        path: our path.
        prediction_type: what the network predicts.
        family: the solver; None is the default above.
        steps: if given, the scheduler is set to so many steps.
        settings: further settings of the scheduler's class.

    Raises:
        ConfigError: no such scheduler, or steps that DDIM of diffusers gets wrong.
    """
    if isinstance(path, DiscreteVP) and prediction_type in ("eps", "x0", "v"):
        names, chosen = _TABLE_FAMILIES, family or "dpm++"
        if chosen == "ddim" and steps is not None and len(path) % steps:
            raise ConfigError(
                f"DDIM of diffusers steps back by {len(path)} // {steps} whatever its list of times says",
                f"use a divisor of {len(path)}, another family, or our own ddim",
            )
    elif isinstance(path, RectifiedFlow) and prediction_type == "velocity":
        names, chosen = _FLOW_FAMILIES, family or "euler"
    elif isinstance(path, EDM) and prediction_type == "x0":
        names, chosen = _EDM_FAMILIES, family or "euler"
    else:
        raise ConfigError(
            f"diffusers has no scheduler for {prediction_type} on {type(path).__name__}",
            "use DiscreteVP with eps, x0 or v, RectifiedFlow with velocity, or EDM with x0",
        )
    if chosen not in names:
        raise ConfigError(f"no family {chosen!r} on {type(path).__name__}", f"use one of {', '.join(names)}")
    import diffusers

    made = getattr(diffusers, names[chosen])
    if isinstance(path, DiscreteVP):
        scheduler = _on_table(made, path, prediction_type, settings)
    elif isinstance(path, RectifiedFlow):
        scheduler = _on_flow(made, settings)
    else:
        scheduler = made(**settings)
    if steps is not None:
        scheduler.set_timesteps(steps)
    return scheduler


def accepted(kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that a scheduler class of diffusers knows."""
    known = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in settings.items() if name in known}


def table_settings(alpha_bar: Tensor) -> dict[str, Any]:
    """Settings by which a table scheduler follows our levels: alpha_bar (T + 1,), the clean one first."""
    return {
        "num_train_timesteps": len(alpha_bar) - 1,
        "trained_betas": (1.0 - alpha_bar[1:] / alpha_bar[:-1]).tolist(),
        "timestep_spacing": "trailing",
        "steps_offset": 0,
        "set_alpha_to_one": True,
        "final_sigmas_type": "zero",
    }


def _on_table(made: Any, path: DiscreteVP, kind: PredictionType, settings: dict[str, Any]) -> Any:
    theirs = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[kind]
    empty = float(path.alpha_bar[-1]) == 0.0
    if empty and kind == "eps":
        raise ConfigError("eps says nothing of the data where none are left", "predict v or x0")
    defaults = table_settings(path.alpha_bar) | {
        "prediction_type": theirs,
        "clip_sample": False,
        # Keeps their first level finite; a table that ends without data is not changed by it.
        "rescale_betas_zero_snr": empty,
    }
    return made(**accepted(made, defaults) | settings)


def _on_flow(made: Any, settings: dict[str, Any]) -> Any:
    shift = float(settings.get("shift", 1.0))
    others = {name: value for name, value in settings.items() if name != "shift"}
    if not made.__name__.startswith("FlowMatch"):
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
        return made(**flow | others)
    # Built without the shift and told of it afterwards: their constructor would shift the smallest level, and
    # `set_timesteps` shifts it again.
    scheduler = made(shift=1.0, **others)
    scheduler.register_to_config(shift=shift)
    if hasattr(scheduler, "set_shift"):
        scheduler.set_shift(shift)
    return scheduler


def _table(config: Any) -> Tensor:
    if config.get("trained_betas") is not None:
        table = torch.as_tensor(config["trained_betas"], dtype=torch.float64)
    else:
        kind = {"squaredcos_cap_v2": "cosine"}.get(config["beta_schedule"], config["beta_schedule"])
        if kind not in get_args(BetaSchedule):
            raise ConfigError(f"beta schedule {kind!r} is not known", "give the table as trained_betas")
        table = betas(kind, config["num_train_timesteps"], config["beta_start"], config["beta_end"])
    return zero_terminal_snr(table) if config.get("rescale_betas_zero_snr") else table
