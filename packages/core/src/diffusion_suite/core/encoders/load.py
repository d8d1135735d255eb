"""Encoders from a folder, a hub id or an ordinary package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffusion_suite.core.checkpoints.pretrained import hub_folder, read_config
from diffusion_suite.core.encoders.base import Contract, Encoder
from diffusion_suite.core.encoders.families import ALIASES, FAMILIES, Family, open_network, quiet
from diffusion_suite.core.encoders.images import ImageEncoder, VideoEncoder
from diffusion_suite.core.encoders.speech import HOP, SpeechEncoder, WhisperEncoder
from diffusion_suite.core.encoders.text import TextEncoder
from diffusion_suite.core.errors import CheckpointError, ConfigError

KINDS = ("image", "speech", "text", "video")
BY_INPUT = {
    "pixel_values": "image",
    "input_values": "speech",
    "input_features": "speech",
    "input_ids": "text",
    "pixel_values_videos": "video",
}
USUAL_SIZES = {("dinov2", 518): 224, ("dinov2_with_registers", 518): 224}
"""Sides at which models are used, where that is not the side of their positions."""

PATTERNS = ("*.json", "*.txt", "*.model", "*/config.json", "model*.safetensors", "pytorch_model*.bin")


def load_encoder(
    source: str | Path | None = None,
    kind: str | None = None,
    *,
    local_files_only: bool = True,
    revision: str | None = None,
    layer: int | None = None,
    pooling: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Encoder:
    """Load a frozen encoder.

    Args:
        source: a folder in the layout of ``transformers`` (also that of ``core pretrain``), a hub id, the
            name of an encoder whose weights lie in an ordinary package (``efficientnet-lite0``, ``minilm``,
            ``moonshine``, each also with ``packaged:`` before it), or None for the packaged one of ``kind``.
        kind: ``image``, ``speech``, ``text`` or ``video``; None tells it from the model (of CLIP and SigLIP
            the picture side).
        local_files_only: take a hub id from the local cache only; False lets it be downloaded.
        revision: branch, tag or commit of a hub id.
        layer: layers passed before tokens are taken, see :class:`Encoder`; later ones are not kept.
        pooling: ``cls``, ``mean`` or ``model`` in place of the family's own.
        device: where the weights go.
        dtype: of the weights; features are float32 at least.
        options: of pictures, ``fit`` and ``size``, see :class:`ImageEncoder`.

    Raises:
        CheckpointError: when nothing is there, or it is no encoder of that kind, or weights miss.
        ConfigError: for an unknown kind, pooling or layer.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"kind={kind!r} is unknown", f"give one of {', '.join(KINDS)}")
    settings: dict[str, Any] = {"layer": layer, "pooling": pooling, **options}
    from diffusion_suite.core.encoders import packaged

    name = packaged.name_of(source, kind)
    if name is not None:
        encoder = packaged.load(name, kind, settings)
    else:
        folder = Path(str(source))
        if not folder.is_dir():
            folder = hub_folder(str(source), revision, local_files_only, PATTERNS)
        encoder = from_folder(folder, kind, settings)
    return encoder.to(device=device, dtype=dtype)


def from_folder(folder: Path, kind: str | None, settings: dict[str, Any]) -> Encoder:
    """An encoder from a folder of ``transformers``."""
    content = read_config(folder)
    given = str(content.get("model_type", ""))
    label = ALIASES.get(given, given).removesuffix("_vision_model").removesuffix("_text_model")
    side = "text" if given.endswith("_text_model") else kind
    if label in ("clip", "siglip") and side is None:
        side = "image"
    family = next((FAMILIES[key] for key in FAMILIES if key[0] == label and side in (None, key[1])), Family())
    if settings["pooling"] is None:
        settings = {**settings, "pooling": family.pooling}
    network = open_network(folder, given, content, family, settings["pooling"])
    found = BY_INPUT.get(str(getattr(network, "main_input_name", "")), "")
    found = "video" if label in ("videomae", "vivit", "timesformer") else found
    if found not in (KINDS if kind is None else (kind,)):
        raise CheckpointError(
            f"{folder} holds an encoder of {found or 'another kind'} ({given}), not of {kind or KINDS}",
            "give another folder or kind",
        )
    build: dict[str, Callable[..., Encoder]] = {
        "image": _image,
        "speech": _speech,
        "text": _text,
        "video": _video,
    }
    try:
        return build[found](folder, network, label, family, settings)
    except TypeError as error:
        raise ConfigError(f"an encoder of {found} does not take these settings ({error})") from error


def _image(folder: Path, network: Any, label: str, family: Family, settings: dict[str, Any]) -> Encoder:
    config, shown = network.config, _preprocessor(folder)
    if settings["layer"] is not None and (hasattr(config, "hidden_sizes") or hasattr(config, "depths")):
        raise ConfigError(f"the layers of {label} differ in width and grid", "leave layer out")
    side = _first(getattr(config, "image_size", 224))
    mean, std = shown.get("image_mean"), shown.get("image_std")
    contract = Contract(
        channels=3,
        size=_side(shown, USUAL_SIZES.get((label, side), side)),
        patch=_first(getattr(config, "patch_size", 1)),
        mean=tuple(mean or family.scale[0]),
        std=tuple(std or family.scale[1]),
    )
    return ImageEncoder(network, label, _width(config), contract, arguments=family.call, **settings)


def _video(folder: Path, network: Any, label: str, family: Family, settings: dict[str, Any]) -> Encoder:
    config, shown = network.config, _preprocessor(folder)
    contract = Contract(
        channels=3,
        size=_first(getattr(config, "image_size", 0) or getattr(config, "crop_size", 224)),
        patch=_first(config.patch_size),
        mean=tuple(shown.get("image_mean") or family.scale[0]),
        std=tuple(shown.get("image_std") or family.scale[1]),
        frames=int(getattr(config, "num_frames", 0) or getattr(config, "frames_per_clip", 16)),
    )
    tubelet = int(getattr(config, "tubelet_size", 1))
    argument = "pixel_values_videos" if label.startswith("vjepa") else "pixel_values"
    return VideoEncoder(
        network,
        label,
        _width(config),
        contract,
        tubelet=tubelet,
        argument=argument,
        arguments=family.call,
        **settings,
    )


def _speech(folder: Path, network: Any, label: str, family: Family, settings: dict[str, Any]) -> Encoder:
    config, shown = network.config, _preprocessor(folder)
    rate = int(shown.get("sampling_rate", 16000))
    if label == "whisper":
        from transformers import WhisperFeatureExtractor

        mels = WhisperFeatureExtractor(feature_size=config.num_mel_bins).mel_filters
        contract = Contract(
            sample_rate=rate,
            stride=2 * HOP,
            min_length=HOP,
            max_length=2 * HOP * config.max_source_positions,
        )
        filters = torch.as_tensor(mels, dtype=torch.float32)
        return WhisperEncoder(
            network, filters, name=label, width=_width(config), contract=contract, **settings
        )
    kernels = list(getattr(config, "conv_kernel", (127, 7, 3)))
    strides = list(getattr(config, "conv_stride", (64, 3, 2)))
    window, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        window, stride = window + (kernel - 1) * stride, stride * step
    normalise = bool(shown.get("do_normalize", label != "moonshine"))
    contract = Contract(sample_rate=rate, stride=stride, normalise=normalise, min_length=window)
    return SpeechEncoder(network, label, _width(config), contract, **settings)


def _text(folder: Path, network: Any, label: str, family: Family, settings: dict[str, Any]) -> Encoder:
    from transformers import AutoTokenizer, BertTokenizerFast

    kind = BertTokenizerFast if label == "bert" else AutoTokenizer
    try:
        with quiet():
            tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{folder} holds no tokenizer ({error})", "fetch it again") from error
    positions = int(getattr(network.config, "max_position_embeddings", 0) or 0)
    if label in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # their numbers of positions start behind the padding's
    limits = [limit for limit in (positions, tokenizer.model_max_length) if 0 < limit < 10**9]
    contract = Contract(max_length=min(limits, default=0))
    return TextEncoder(
        network, tokenizer, label, _width(network.config), contract, filled=label == "siglip", **settings
    )


def _preprocessor(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error})", "fetch the folder again") from error
    return content if isinstance(content, dict) else {}


def _side(shown: dict[str, Any], default: int) -> int:
    """The side that a picture has when it meets the network: the crop's, else the size's."""
    for entry in (shown.get("crop_size") if shown.get("do_center_crop", True) else None, shown.get("size")):
        if isinstance(entry, dict):
            entry = entry.get("height") or entry.get("shortest_edge")
        if entry:
            return int(entry)
    return default


def _width(config: Any) -> int:
    for name in ("hidden_size", "d_model"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    return int(config.hidden_sizes[-1])


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)
