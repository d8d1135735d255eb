"""Encoders from a folder, a hub id or an ordinary package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_suite.core.checkpoints.pretrained import hub_folder, read_config
from diffusion_suite.core.checkpoints.published import shorten
from diffusion_suite.core.encoders.base import Contract, Encoder
from diffusion_suite.core.encoders.images import IMAGENET, ImageEncoder, VideoEncoder
from diffusion_suite.core.encoders.speech import HOP, SpeechEncoder, WhisperEncoder
from diffusion_suite.core.encoders.text import TextEncoder
from diffusion_suite.core.errors import CheckpointError, ConfigError

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
KINDS = ("image", "speech", "text", "video")
BY_INPUT = {
    "pixel_values": "image",
    "input_values": "speech",
    "input_features": "speech",
    "input_ids": "text",
    "pixel_values_videos": "video",
}
PATTERNS = ("*.json", "*.txt", "*.model", "*/config.json", "model*.safetensors", "pytorch_model*.bin")
UNUSED = ("pooler", "mask_token", "masked_spec_embed", "position_ids", "decoder.")
"""Parts of weights that may be missing: nothing here reads them."""


@dataclass(frozen=True)
class Family:
    """What is known of a type of model beyond its configuration."""

    model: str = "AutoModel"
    pooling: str = "mean"
    scale: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    create: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    size: int = 0


ANY_SIZE = {"interpolate_pos_encoding": True}
BARE = {"add_pooling_layer": False}
FAMILIES = {
    ("dinov2", "image"): Family(pooling="cls", size=224),
    ("dinov2_with_registers", "image"): Family(pooling="cls", size=224),
    ("dinov3_vit", "image"): Family(pooling="cls"),
    ("vit", "image"): Family("ViTModel", "cls", HALF, BARE, ANY_SIZE),
    ("vit_msn", "image"): Family(pooling="cls", call=ANY_SIZE),
    ("vit_mae", "image"): Family("ViTMAEModel", call={**ANY_SIZE, "noise": "rising"}),
    ("ijepa", "image"): Family("IJepaModel", create=BARE, call=ANY_SIZE),
    ("siglip", "image"): Family("SiglipVisionModel", "model", HALF, call=ANY_SIZE),
    ("clip", "image"): Family("CLIPVisionModel", "model", CLIP, call=ANY_SIZE),
    ("bert", "text"): Family("BertModel", create=BARE),
    ("siglip", "text"): Family("SiglipTextModel", "model"),
    ("clip", "text"): Family("CLIPTextModel", "model"),
    ("vjepa2", "video"): Family(call={"skip_predictor": True}),
}
ALIASES = {"cxr-bert": "bert"}
"""Types that are another under a name of their own; no code that lies beside weights is ever run."""


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
    network = _network(folder, given, content, family)
    found = BY_INPUT.get(str(getattr(network, "main_input_name", "")), "")
    found = "video" if label in ("videomae", "vivit", "timesformer") else found
    if found not in (KINDS if kind is None else (kind,)):
        raise CheckpointError(
            f"{folder} holds an encoder of {found or 'another kind'} ({given}), not of {kind or KINDS}",
            "give another folder or kind",
        )
    if settings["pooling"] is None:
        settings = {**settings, "pooling": family.pooling}
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


def _network(folder: Path, given: str, content: dict[str, Any], family: Family) -> nn.Module:
    try:
        import transformers
        from transformers import AutoConfig
    except ModuleNotFoundError as error:
        raise ConfigError(
            "encoders need transformers", "pip install 'diffusion-suite-core[encoders]'"
        ) from error
    try:
        if given in ALIASES:
            config: Any = transformers.AutoConfig.for_model(ALIASES[given], **_plain(content))
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0
        if family.model not in ("AutoModel",) and family.model.endswith(("VisionModel", "TextModel")):
            part = "vision_config" if family.model.endswith("VisionModel") else "text_config"
            config = getattr(config, part, config)
        with quiet():
            network, report = getattr(transformers, family.model).from_pretrained(
                folder, config=config, output_loading_info=True, local_files_only=True, **family.create
            )
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:300]
        raise CheckpointError(f"{folder} cannot be opened as an encoder ({reason})", "check it") from error
    missing = sorted(name for name in report["missing_keys"] if not any(part in name for part in UNUSED))
    if missing:
        raise CheckpointError(
            f"{folder} lacks weights of a {type(network).__name__}: {shorten(missing)}", "fetch it again"
        )
    loaded: nn.Module = network.get_encoder() if config.is_encoder_decoder else network
    return loaded


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in ("model_type", "auto_map")}


def _image(folder: Path, network: Any, label: str, family: Family, settings: dict[str, Any]) -> Encoder:
    config, shown = network.config, _preprocessor(folder)
    mean, std = shown.get("image_mean"), shown.get("image_std")
    contract = Contract(
        channels=3,
        size=_side(shown, family.size or _first(getattr(config, "image_size", 224))),
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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the notes and bars of ``transformers`` while it reads or writes weights."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
