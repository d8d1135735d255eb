"""What is known of the types of ``transformers``' models, and how their weights are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from diffusion_suite.core.checkpoints.published import shorten
from diffusion_suite.core.encoders.images import IMAGENET
from diffusion_suite.core.errors import CheckpointError, ConfigError

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
UNUSED = ("mask_token", "masked_spec_embed", "position_ids", "decoder.")
"""Parts of weights that may be missing: nothing here reads them. Nor poolers, unless they are asked for."""


@dataclass(frozen=True)
class Family:
    """What is known of a type of model beyond its configuration.

    Attributes:
        model: its class in ``transformers``.
        pooling: how one vector is made where nothing else is asked for.
        scale: mean and deviation of the channels where no file beside the weights gives them.
        create: further arguments of ``from_pretrained``.
        call: further arguments of ``forward``.
    """

    model: str = "AutoModel"
    pooling: str = "mean"
    scale: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    create: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)


ANY_SIZE = {"interpolate_pos_encoding": True}
BARE = {"add_pooling_layer": False}
FAMILIES = {
    ("dinov2", "image"): Family(pooling="cls"),
    ("dinov2_with_registers", "image"): Family(pooling="cls"),
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


def open_network(
    folder: Path, given: str, content: dict[str, Any], family: Family, pooling: str
) -> nn.Module:
    """Open the weights of a folder, strictly: what would be left random is refused.

    Args:
        folder: weights and ``config.json``.
        given: the type of model as the configuration names it.
        content: the configuration.
        family: what is known of the type.
        pooling: with ``model`` a pooler must be there too.

    Returns:
        The network; of an encoder and decoder the encoder.

    Raises:
        CheckpointError: when they cannot be opened without running code that lies beside them, or weights
            miss.
        ConfigError: when transformers is missing.
    """
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
        if family.model.endswith(("VisionModel", "TextModel")):
            part = "vision_config" if family.model.endswith("VisionModel") else "text_config"
            config = getattr(config, part, config)
        with quiet():
            network, report = getattr(transformers, family.model).from_pretrained(
                folder, config=config, output_loading_info=True, local_files_only=True, **family.create
            )
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:300]
        raise CheckpointError(f"{folder} cannot be opened as an encoder ({reason})", "check it") from error
    unused = UNUSED if pooling == "model" else (*UNUSED, "pooler")
    missing = sorted(name for name in report["missing_keys"] if not any(part in name for part in unused))
    if missing:
        raise CheckpointError(
            f"{folder} lacks weights of a {type(network).__name__}: {shorten(missing)}", "fetch it again"
        )
    loaded: nn.Module = network.get_encoder() if config.is_encoder_decoder else network
    return loaded


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in ("model_type", "auto_map")}


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
