"""`diffusion-suite depth info`: what weights, a picture, a depth map or a video hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusion_suite.core._version import __version__
from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.facts import print_facts
from diffusion_suite.depth.config import InfoConfig

Facts = dict[str, Any]


def run(request: Request) -> None:
    """Print what each input holds; without input, what comes with the package.

    Raises:
        SuiteError: an input that is neither weights nor a picture, depth map or video.
    """
    config: InfoConfig = request.config
    found = [facts for name in request.inputs or ["starter"] for facts in _facts(name)]
    if config.json:
        print(json.dumps(found if len(found) > 1 else found[0], indent=1))
        return
    for facts in found:
        print_facts(facts)


def _facts(name: str) -> list[Facts]:
    from diffusion_suite.core.files import expand_inputs
    from diffusion_suite.depth.io import pictures, videos
    from diffusion_suite.depth.load import FILES

    path = Path(name)
    if path.suffix.lower() in FILES or (path.is_dir() and (path / "config.json").is_file()):
        return [weight_facts(name)]
    suffixes = pictures.SUFFIXES | videos.SUFFIXES | {".npy"}
    if name == "starter" or not (path.exists() or path.suffix or any(sign in name for sign in "*?[")):
        return [weight_facts(name)]
    return [file_facts(file) for file in expand_inputs([name], suffixes)]


def weight_facts(name: str) -> Facts:
    """Kind, size and settings of weights: our folders and checkpoints, published ones, or the starter."""
    from diffusion_suite.depth.load import FILES, load_network

    model = load_network(name)
    config = model.config
    codec = config["autoencoder"]
    facts: Facts = {
        "weights": name,
        "network": type(model.unet).__name__,
        "parameters": sum(weight.numel() for weight in model.unet.parameters()),
        "channels": list(model.unet.config["block_out_channels"]),
        "latents": _latents(model.codec.channels, model.codec.factor, codec, bool(config["factor"])),
        "noising_step": config["noising_step"],
        "output": config["output"],
        "features": "none" if config["features"] is None else "EfficientNet-Lite0, frozen",
        "parameterisation": config["parameterisation"],
        "resolution": f"{model.resolution} pixels, sides padded to multiples of {model.multiple}",
    }
    if model.text_embedding is not None:
        facts |= {
            "text embedding": "{} tokens of width {}".format(*model.text_embedding.shape[1:]),
            "attention_scale": config["attention_scale"],
        }
    if codec is not None:
        facts["scale_factor"] = config["scale_factor"]
    if Path(name).suffix.lower() not in FILES:
        facts |= {"suite": __version__, "card": _card(name)}
    return facts


def _latents(channels: int, factor: int, autoencoder: Facts | None, pixels: bool) -> str:
    kind = "pixels" if pixels else "no autoencoder given"
    kind = autoencoder["_class_name"] if autoencoder else kind
    return f"{channels} channels at 1/{factor} size ({kind})"


def _card(name: str) -> str | None:
    """The card beside weights, for the starter and for folders."""
    from importlib.resources import as_file, files

    from diffusion_suite.core.checkpoints.pretrained import CARD
    from diffusion_suite.depth.method import DepthFM

    if name == "starter":
        package, _, inner = DepthFM.starter.partition(":")
        with as_file(files(package).joinpath(inner)) as folder:
            return _text(folder / CARD)
    return _text(Path(name) / CARD)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def file_facts(path: Path) -> Facts:
    """Size and what else the file tells of a picture, a depth map (`.npy`) or a video.

    Raises:
        InputError: it cannot be read.
    """
    from diffusion_suite.depth.io import videos

    if path.suffix.lower() == ".npy":
        return map_facts(path)
    if path.suffix.lower() in videos.SUFFIXES:
        video = videos.open_video(path)
        facts: Facts = {"video": str(path), "frames a second": round(float(video.rate), 3)}
        return facts | ({"frames": video.frames} if video.frames else {})
    from diffusion_suite.depth.io.pictures import read_picture

    picture = read_picture(path)
    width, height = picture.size
    facts = {"picture": str(path), "size": f"{width} x {height} pixels, as shown"}
    return facts | ({"focal length": f"{picture.focal:.1f} pixels"} if picture.focal else {})


def map_facts(path: Path) -> Facts:
    """Size, range and known share of a depth map."""
    import numpy as np

    from diffusion_suite.depth.io.maps import read_map

    depth = read_map(path)
    known = depth[np.isfinite(depth)]
    if not known.size:
        raise InputError(f"{path} holds no depth above 0", "give another map")
    height, width = depth.shape
    return {
        "depth map": str(path),
        "size": f"{width} x {height} pixels",
        "least, median, greatest": ", ".join(
            f"{value:.6g}" for value in (known.min(), np.median(known), known.max())
        ),
        "known": f"{known.size / depth.size:.2%}",
    }
