"""Features of a denoiser at (layer, time): what a network makes of noised data.

    features = extract(denoiser, images, [0.1, 0.3], [1, 2], noise=generator)
    features["blocks.2", 0.1]  # (batch, width)

For class-level probes small times (0.05 to 0.3 on the straight path, 1-3 % of the steps of a table), middle
to late layers and the mean over places are a good start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation.hooks import Layer, layer_name, reading
from diffusion_suite.core.representation.pooling import Pooling, pool
from diffusion_suite.core.schedulers import Denoiser, Noise, Step, invert, step_noise

Features = dict[tuple[str, float], Tensor]


def extract(
    denoiser: Denoiser,
    x0: Tensor,
    times: float | Sequence[float],
    layers: Sequence[Layer],
    *,
    noise: Noise,
    pooling: Pooling = "mean",
    draws: int = 1,
    network: nn.Module | None = None,
    **cond: Any,
) -> Features:
    """Features of noised data x_t = alpha x0 + sigma eps at every (layer, time), one pass a time and draw.

    Gradients flow: call it under `torch.no_grad()` where they are not wanted.

    Args:
        denoiser: any.
        x0: data (batch, ...).
        times: one or several.
        layers: module names, or indices of blocks (see `blocks_of`).
        noise: generator(s), or values (times * draws, *x0.shape), the draws of the first time first.
        pooling: see `pool`.
        draws: noises over whose pooled features is averaged.
        network: the module whose layers are read; None takes the denoiser's model.
        cond: conditions for the model; for a model of classes leave them out (no class).

    Returns:
        (layer name, time) -> features, on the device of the data and in the type of the network.

    Raises:
        ConfigError: no such layer, no grid for this pooling, or a layer that is not passed.
    """
    moments = [times] if isinstance(times, (int, float)) else list(times)
    states = (
        (t, denoiser.path.add_noise(x0, step_noise(noise, place * draws + draw, x0), t))
        for place, t in enumerate(moments)
        for draw in range(draws)
    )
    summed = extract_from(denoiser, states, layers, pooling=pooling, network=network, **cond)
    return {place: values / draws for place, values in summed.items()} if draws > 1 else summed


def extract_inverted(
    denoiser: Denoiser,
    x0: Tensor,
    times: float | Sequence[float],
    layers: Sequence[Layer],
    *,
    grid: Sequence[float],
    exact: bool = False,
    pooling: Pooling = "mean",
    network: nn.Module | None = None,
    **cond: Any,
) -> Features:
    """Features along the DDIM inversion of data: no noise is drawn, and one trajectory serves all times.

    Args:
        denoiser: any.
        x0: data (batch, ...).
        times: some of the grid's.
        layers: as for `extract`.
        grid: descending times as for `invert`, e.g. 51 of them for 50 steps.
        exact: solve for the states from which DDIM comes back, instead of the usual inversion.
        pooling: see `pool`.
        network: as for `extract`.
        cond: conditions for the model.

    Raises:
        ConfigError: as for `extract`, or a time that is not on the grid.
    """
    moments = [times] if isinstance(times, (int, float)) else list(times)
    missing = [t for t in moments if t not in grid]
    if missing or not moments:
        raise ConfigError(f"times {missing} are not on the grid", "take some of its times")
    noisiest = max(moments)
    passed = [t for t in grid if t <= noisiest]
    if len(passed) == 1:
        return extract_from(denoiser, [(noisiest, x0)], layers, pooling=pooling, network=network, **cond)
    steps: list[Step] = []
    last = invert(denoiser, x0, passed, exact=exact, callback=steps.append, **cond)
    entered = [passed[-1], *(step.t for step in steps)]
    states = dict(zip(entered, [*(step.x for step in steps), last], strict=True))
    chosen = [(t, states[t]) for t in moments]
    return extract_from(denoiser, chosen, layers, pooling=pooling, network=network, **cond)


def extract_from(
    denoiser: Denoiser,
    states: Iterable[tuple[float, Tensor]],
    layers: Sequence[Layer],
    *,
    pooling: Pooling = "mean",
    network: nn.Module | None = None,
    **cond: Any,
) -> Features:
    """Features of given states, summed over those of one time; see `extract`.

    Args:
        denoiser: any.
        states: pairs of a time and the noisy data (batch, ...) there.
        layers: as for `extract`.
        pooling: see `pool`.
        network: as for `extract`.
        cond: conditions for the model.

    Raises:
        ConfigError: as for `extract`.
    """
    inside = network if network is not None else denoiser.model
    if not isinstance(inside, nn.Module):
        raise ConfigError("the denoiser's model is no module", "pass network=, the module it calls")
    names = [layer_name(inside, layer) for layer in layers]
    found: Features = {}
    with reading(inside, names) as seen:
        for t, x_t in states:
            denoiser.predict(x_t, t, **cond)
            for name in names:
                if name not in seen:
                    raise ConfigError(f"layer {name!r} is not passed", "name a layer that the network calls")
                values = pool(seen[name], pooling, x_t)
                found[name, t] = found[name, t] + values if (name, t) in found else values
    return found
