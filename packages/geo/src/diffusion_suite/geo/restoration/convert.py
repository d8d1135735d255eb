"""``geo convert``: a scene into another format, weights into safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import CheckpointError, InputError, OutputError
from diffusion_suite.core.files import prepare_output
from diffusion_suite.core.progress import say, track
from diffusion_suite.geo.io import ARRAYS, SUFFIXES, create_scene, open_scene, sidecars
from diffusion_suite.geo.restoration.config import ConvertConfig
from diffusion_suite.geo.restoration.outputs import new_folder

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_suite.geo.restoration.levels import Levels

_ROWS = 64


def run(request: Request) -> None:
    """Convert the one input that the request names.

    Raises:
        SuiteError: not one input, no output, or an input that is neither scene nor weights.
    """
    config: ConvertConfig = request.config
    if len(request.inputs) != 1:
        raise InputError(
            f"convert takes one input, not {len(request.inputs)}", "name one scene or one weight file"
        )
    if request.output is None:
        raise OutputError("convert needs an output", "add -o scene.tif, -o folder or -o weights.safetensors")
    source, target = request.inputs[0], Path(request.output)
    suffix = Path(source.partition("#")[0]).suffix.lower()
    with new_folder(target.parent):
        if suffix in SUFFIXES:
            convert_scene(source, target, config)
        elif suffix == ".ckpt":
            convert_training(Path(source), target, config.overwrite)
        elif suffix in (".pt", ".pth", ".safetensors"):
            convert_published(Path(source), target, config.overwrite)
        else:
            known = ", ".join(sorted(SUFFIXES | {".ckpt", ".pt", ".pth", ".safetensors"}))
            raise InputError(f"{source} is neither a scene nor weights", f"give one of {known}")
    say(f"wrote {target}")


def convert_scene(source: str, target: Path, config: ConvertConfig) -> None:
    """Copy a scene into the format that the output's name ends in, samples and metadata unchanged."""
    with open_scene(source, config.key, config.nodata) as scene:
        prepare_output([target, *sidecars(target)], config.overwrite)
        rows, cols, _ = scene.shape
        tops = range(0, rows, _ROWS)
        with create_scene(target, scene) as writer:
            for top in track(tops, "rows", total=len(tops)):
                stored = scene.read_stored(slice(top, min(rows, top + _ROWS)), slice(0, cols))
                writer.write_stored(top, stored.astype(writer.dtype, copy=False))
    if scene.nodata is not None and target.suffix.lower() in ARRAYS:
        mark = scene.nodata[~np.isnan(scene.nodata)][0]
        say(f"{target.suffix} does not keep the nodata value; read it with nodata={mark:g}")


def convert_training(source: Path, target: Path, overwrite: bool) -> None:
    """Write the averaged weights of a training checkpoint as a folder for ``weights=FOLDER``.

    Raises:
        CheckpointError: not a checkpoint of ``geo train``.
    """
    from diffusion_suite.core.training.module import read_checkpoint
    from diffusion_suite.geo.restoration.dds2m import load_prior

    names = set(read_checkpoint(source)["state_dict"])
    if not any(name.startswith("model.enter.") for name in names):
        raise CheckpointError(
            f"{source} is not a checkpoint of geo train", "give the last.ckpt of its run folder"
        )
    prior = load_prior(str(source))
    prepare_output([target / name for name in ("model.safetensors", "config.json")], overwrite)
    prior.save_pretrained(target)


def convert_published(source: Path, target: Path, overwrite: bool) -> None:
    """Write the weights of the published VS2M, one network a rank, in merged form as safetensors.

    Raises:
        CheckpointError: other weights, with the keys that miss.
    """
    from diffusion_suite.core.checkpoints import load_published, save_weights
    from diffusion_suite.geo.restoration.network import VS2M
    from diffusion_suite.geo.restoration.published import from_published

    if target.suffix != ".safetensors":
        raise OutputError(f"-o {target} is not a .safetensors file", "end its name in .safetensors")
    state = load_published(source)
    ranks = len({key.split(".")[1] for key in state if key.startswith("image_net.")})
    spectral = sorted(
        int(key.split(".")[2]) for key in state if key.startswith("mask_net.0.") and key.endswith("weight")
    )
    if not ranks or not spectral:
        keys = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{source} does not hold VS2M weights (it has {keys}, ...)",
            "they are named image_net.0... and mask_net.0...",
        )
    levels = published_levels(
        {key[12:]: value for key, value in state.items() if key.startswith("image_net.0.")}
    )
    widths = [state[f"mask_net.0.{index}.weight"].shape[0] for index in spectral]
    side = levels.valid_side(1)
    network = VS2M(ranks, side, side, widths[-1], levels=levels, hidden=tuple(widths[:-1]))
    merged = from_published(state, dict(network.named_parameters()), levels)
    prepare_output([target], overwrite)
    facts = {"ranks": ranks, "bands": widths[-1], "hidden": widths[:-1], "levels": vars(levels)}
    save_weights(target, merged, {"vs2m": json.dumps(facts)})
    say(f"{source}: {len(state)} tensors of {ranks} ranks matched {len(merged)} merged ones")


def published_levels(state: Mapping[str, Tensor]) -> Levels:
    """The sizes of a published spatial network from the shapes of its weights.

    Args:
        state: weights of one rank by their published names, without ``image_net.0.``.

    Raises:
        CheckpointError: a layer is not where the published network has it.
    """
    from diffusion_suite.geo.restoration.levels import Levels

    places, down, kernels, skip = [""], [], [], []
    while True:
        bridge = state.get(places[-1] + "1.0.1.1.weight")
        deep = places[-1] + ("1." if bridge is None else "1.1.")
        weight = _weight(state, deep + "1.1.weight")
        down.append(weight.shape[0])
        kernels.append(weight.shape[-1])
        skip.append(0 if bridge is None else bridge.shape[0])
        if not any(key.startswith(deep + "7.") for key in state):
            break
        places.append(deep + "7.")
    count = len(down)
    attended = [count - 5 < level < count - 2 for level in range(count)]
    up = [
        _weight(state, f"{place}{3 + extra}.1.weight") for place, extra in zip(places, attended, strict=True)
    ]
    shapes = [(int(weight.shape[0]), int(weight.shape[-1])) for weight in up]
    return Levels(
        tuple(down), tuple(s[0] for s in shapes), tuple(skip), tuple(kernels), tuple(s[1] for s in shapes)
    )


def _weight(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"no image_net.0.{key} among the weights", "give weights of the published VS2M")
    return state[key]
