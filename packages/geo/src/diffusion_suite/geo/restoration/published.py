"""Weights of VS2M in the layout of the published code, one network a rank, to and from the merged layout.

A published state holds `image_net.{rank}.<key>` for the spatial and `mask_net.{rank}.<key>` for the spectral
networks. Its running statistics of batch normalisation are never used and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.geo.restoration.levels import Levels

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def spatial_keys(levels: Levels) -> dict[str, str]:
    """Our name of a module of `SpatialNetworks` -> its published name."""
    table: dict[str, str] = {}
    place = ""
    for index in range(len(levels)):
        skip, attends = levels.skip[index] > 0, levels.attends(index)
        deep = place + ("1.1." if skip else "1.")
        offset = 1 if attends else 0
        published = {
            "down": deep + "1.1",
            "down_norm": deep + "2",
            "second": deep + "4.1",
            "second_norm": deep + "5",
            "joint_norm": place + "2",
            "up": place + f"{3 + offset}.1",
            "up_norm": place + f"{4 + offset}",
            "mix": place + f"{6 + offset}.1",
            "mix_norm": place + f"{7 + offset}",
        }
        if skip:
            published |= {"skip": place + "1.0.1.1", "skip_norm": place + "1.0.2"}
        table |= {
            f"levels.{index}.{name}.{part}": f"{key}.{part}"
            for name, key in published.items()
            for part in ("weight", "bias")
        }
        if attends:
            table |= {
                f"levels.{index}.attention.squeeze": place + "3.ca.se.0.weight",
                f"levels.{index}.attention.expand": place + "3.ca.se.2.weight",
                f"levels.{index}.attention.weight": place + "3.sa.conv.weight",
                f"levels.{index}.attention.bias": place + "3.sa.conv.bias",
            }
        place = deep + "7."
    last = 10 if levels.attends(0) else 9
    return table | {f"output.{part}": f"{last}.1.{part}" for part in ("weight", "bias")}


def spectral_keys(layers: int) -> dict[str, str]:
    """Our name of a parameter of `SpectralNetworks` -> its published name."""
    weights = {f"weights.{index}": f"{2 * index + 1}.weight" for index in range(layers)}
    return weights | {f"biases.{index}": f"{2 * index + 1}.bias" for index in range(layers)}


def published_names(levels: Levels, layers: int, rank: int) -> dict[str, str]:
    """Our name in a `VS2M` state -> the published name for one rank."""
    spatial = {f"spatial.{ours}": f"image_net.{rank}.{key}" for ours, key in spatial_keys(levels).items()}
    return spatial | {
        f"spectral.{ours}": f"mask_net.{rank}.{key}" for ours, key in spectral_keys(layers).items()
    }


def from_published(
    state: Mapping[str, Tensor], like: Mapping[str, Tensor], levels: Levels
) -> dict[str, Tensor]:
    """Merged parameters from a published state.

    Args:
        state: published names and tensors.
        like: parameters of the `VS2M` to fill (`dict(network.named_parameters())`): names and shapes.
        levels: sizes of its spatial networks.

    Returns:
        Tensors for `network.load_state_dict(..., strict=False)`; every parameter of `like` is among them.

    Raises:
        CheckpointError: names the keys that are missing or not known, or a tensor of another size.
    """
    ranks = next(iter(like.values())).shape[0]
    layers = sum(name.startswith("spectral.weights.") for name in like)
    tables = [published_names(levels, layers, rank) for rank in range(ranks)]
    expected = {key for table in tables for key in table.values()}
    given = {key for key in state if not key.endswith(STATISTICS)}
    if given != expected:
        raise CheckpointError(
            f"not the weights of this network: missing {_few(expected - given)}, "
            f"unexpected {_few(given - expected)}",
            f"give a state of {ranks} ranks and {len(levels)} levels",
        )
    merged = {}
    for name, parameter in like.items():
        parts = [state[table[name]] for table in tables]
        if any(part.numel() * ranks != parameter.numel() for part in parts):
            raise CheckpointError(
                f"{tables[0][name]} has shape {tuple(parts[0].shape)}, {tuple(parameter.shape[1:])} needed",
                "give weights made for the same levels and bands",
            )
        merged[name] = torch.stack(parts).reshape(parameter.shape)
    return merged


def to_published(merged: Mapping[str, Tensor], levels: Levels) -> dict[str, Tensor]:
    """A published state of merged parameters (without running statistics)."""
    ranks = next(iter(merged.values())).shape[0]
    layers = sum(name.startswith("spectral.weights.") for name in merged)
    state = {}
    for rank in range(ranks):
        for ours, key in published_names(levels, layers, rank).items():
            tensor = merged[ours][rank]
            if ours.endswith((".squeeze", ".expand")):
                tensor = tensor[:, :, None, None]
            state[key] = tensor.flatten() if ours.startswith("spectral.biases.") else tensor
    return state


def _few(keys: set[str]) -> str:
    shown = sorted(keys)[:4]
    return ", ".join(shown) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "") if keys else "nothing"
