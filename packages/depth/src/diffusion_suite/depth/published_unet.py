"""The published UNet in the terms of diffusers' `UNet2DConditionModel`: settings and names, there and back.

Both tables are of section 3.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusion_suite.core.errors import CheckpointError

FIXED = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "downsample_padding": 1,
    "center_input_sample": False,
    "resnet_time_scale_shift": "default",
}
_NEEDED = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "attention_resolutions")
_IGNORED = {"use_checkpoint", "legacy", "use_fp16", "use_bf16", "load_from_ckpt"} | {
    "num_heads_upsample",
    "use_new_attention_order",
}
_READ = {*_NEEDED, "channel_mult", "num_head_channels", "num_heads", "context_dim", "transformer_depth"} | {
    "use_linear_in_transformer",
    "image_size",
    "dropout",
}
_ONLY = {"use_spatial_transformer": True, "conv_resample": True, "dims": 2}
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def unet_settings(hparams: Mapping[str, Any], source: str = "the file") -> dict[str, Any]:
    """Settings of `UNet2DConditionModel` of the published ones.

    Raises:
        CheckpointError: one is missing, or asks for what the published depth network has not.
    """
    missing = [name for name in (*_NEEDED, "context_dim") if hparams.get(name) is None]
    if missing:
        raise CheckpointError(f"ldm_hparams in {source} has no {', '.join(missing)}", "fetch the file again")
    wrong = {name: hparams.get(name) for name, only in _ONLY.items() if hparams.get(name, only) != only}
    if "use_spatial_transformer" not in hparams:
        wrong["use_spatial_transformer"] = False
    known = _IGNORED | _READ | set(_ONLY)
    wrong |= {name: value for name, value in hparams.items() if name not in known and value}
    if wrong:
        text = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise CheckpointError(
            f"ldm_hparams in {source} asks for {text}, which this network has not", "give another checkpoint"
        )
    try:
        return _settings(hparams, source)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"ldm_hparams in {source} cannot be used ({error})", "fetch the file again"
        ) from error


def _settings(hparams: Mapping[str, Any], source: str) -> dict[str, Any]:
    base, factors = int(hparams["model_channels"]), list(hparams.get("channel_mult") or (1, 2, 4, 8))
    widths = [base * int(factor) for factor in factors]
    attended = [2**level in hparams["attention_resolutions"] for level in range(len(widths))]
    return {
        "sample_size": hparams.get("image_size"),
        "in_channels": int(hparams["in_channels"]),
        "out_channels": int(hparams["out_channels"]),
        "block_out_channels": widths,
        "layers_per_block": _one(hparams["num_res_blocks"]),
        "down_block_types": ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in attended[::-1]],
        "attention_head_dim": _heads(hparams, widths, source),
        "cross_attention_dim": int(hparams["context_dim"]),
        "use_linear_projection": bool(hparams.get("use_linear_in_transformer", False)),
        "transformer_layers_per_block": _one(hparams.get("transformer_depth", 1)),
        "dropout": float(hparams.get("dropout") or 0.0),
        **FIXED,
    }


def ldm_hparams(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The published settings of those of a `UNet2DConditionModel`; `unet_settings` of them is the same.

    Raises:
        CheckpointError: the published code cannot make this network.
    """
    widths, base = list(settings["block_out_channels"]), settings["block_out_channels"][0]
    heads = settings["attention_head_dim"]
    heads = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    width = widths[0] // heads[0]
    hparams = {
        "image_size": settings.get("sample_size") or 64,
        "in_channels": settings["in_channels"],
        "out_channels": settings["out_channels"],
        "model_channels": base,
        "num_res_blocks": settings.get("layers_per_block", 2),
        "attention_resolutions": [
            2**level for level, kind in enumerate(settings["down_block_types"]) if kind.startswith("Cross")
        ],
        "dropout": settings.get("dropout", 0.0),
        "channel_mult": [width // base for width in widths],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": settings.get("use_linear_projection", False),
        "transformer_depth": settings.get("transformer_layers_per_block", 1),
        "context_dim": settings["cross_attention_dim"],
        "legacy": False,
    } | ({"num_heads": heads[0]} if len(set(heads)) == 1 else {"num_head_channels": width})
    again = unet_settings(hparams)
    differing = [
        name
        for name, value in settings.items()
        if name != "sample_size" and not _same(again.get(name), value)
    ]
    if differing and not (differing == ["attention_head_dim"] and list(again[differing[0]]) == heads):
        raise CheckpointError(
            f"the published code makes no network with {differing[0]}={settings[differing[0]]}",
            "keep it in our format",
        )
    return hparams


def key_table(settings: Mapping[str, Any], back: bool = False) -> Callable[[str], str]:
    """The function from a published name to ours; empty for a name that it does not know.

    Args:
        settings: of the `UNet2DConditionModel`.
        back: from ours to the published name instead.
    """
    table = {ours: theirs for theirs, ours in _prefixes(settings)} if back else dict(_prefixes(settings))

    def rename(name: str) -> str:
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            ours = table.get(".".join(parts[:count]))
            if ours is not None:
                return ".".join([ours, *parts[count:]])
        return ""

    return rename


def _prefixes(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of published and our prefixes; the longest that fits a name counts."""
    attended = [kind.startswith("CrossAttn") for kind in settings["down_block_types"]]
    levels, layers = len(attended), settings["layers_per_block"]
    layers = [layers] * levels if isinstance(layers, int) else list(layers)
    pairs = [
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
        *_residual("middle_block.0", "mid_block.resnets.0"),
        *_residual("middle_block.2", "mid_block.resnets.1"),
    ]
    place = itertools.count(1)
    for level in range(levels):
        for block in range(layers[level]):
            at = f"input_blocks.{next(place)}"
            pairs += _residual(f"{at}.0", f"down_blocks.{level}.resnets.{block}")
            if attended[level]:
                pairs.append((f"{at}.1", f"down_blocks.{level}.attentions.{block}"))
        if level < levels - 1:
            pairs.append((f"input_blocks.{next(place)}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
    place = itertools.count()
    for level in reversed(range(levels)):
        up = f"up_blocks.{levels - 1 - level}"
        for block in range(layers[level] + 1):
            at = f"output_blocks.{next(place)}"
            pairs += _residual(f"{at}.0", f"{up}.resnets.{block}")
            if attended[level]:
                pairs.append((f"{at}.1", f"{up}.attentions.{block}"))
        if level > 0:
            pairs.append((f"{at}.{2 if attended[level] else 1}.conv", f"{up}.upsamplers.0.conv"))
    return pairs


def _residual(theirs: str, ours: str) -> list[tuple[str, str]]:
    return [(f"{theirs}.{inner}", f"{ours}.{name}") for inner, name in _RESIDUAL.items()]


def _heads(hparams: Mapping[str, Any], widths: Sequence[int], source: str) -> int | list[int]:
    """Number of heads a level, which diffusers calls `attention_head_dim`."""
    channels, heads = hparams.get("num_head_channels") or -1, hparams.get("num_heads") or -1
    if channels == -1 and heads == -1:
        raise CheckpointError(
            f"ldm_hparams in {source} has neither num_heads nor num_head_channels", "fetch the file again"
        )
    return int(heads) if channels == -1 else [width // int(channels) for width in widths]


def _one(value: Any) -> Any:
    """A list of equal numbers as one."""
    if isinstance(value, int):
        return value
    values = [int(item) for item in value]
    return values[0] if len(set(values)) == 1 else values


def _same(left: Any, right: Any) -> bool:
    return (list(left) if isinstance(left, tuple) else left) == (
        list(right) if isinstance(right, tuple) else right
    )
