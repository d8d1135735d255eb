"""The published checkpoint in and out, autoencoders by their names, and the commands convert and info."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pictures_on_disk import drawn, write
from safetensors.torch import save_file
from tiny_latent import HPARAMS, autoencoder, latent_network
from torch.testing import assert_close

from diffusion_suite.core.checkpoints.pretrained import read_config
from diffusion_suite.core.cli import main
from diffusion_suite.core.errors import CheckpointError, SuiteError
from diffusion_suite.depth.autoencoders import load_autoencoder
from diffusion_suite.depth.convert import to_published
from diffusion_suite.depth.load import load_network
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.published import read_published
from diffusion_suite.depth.published_unet import key_table, ldm_hparams, unet_settings

FULL = HPARAMS | {
    "image_size": 64,
    "model_channels": 320,
    "num_res_blocks": 2,
    "attention_resolutions": [4, 2, 1],
    "channel_mult": [1, 2, 4, 4],
    "num_heads": -1,
    "num_head_channels": 64,
    "context_dim": 1024,
    "use_linear_in_transformer": True,
}
OLDER = FULL | {
    "num_heads": 8,
    "num_head_channels": -1,
    "context_dim": 768,
    "use_linear_in_transformer": False,
}
TINY = Path(__file__).parents[1] / "golden/depthfm/checkpoint_file/tiny.ckpt"


@pytest.fixture(scope="module")
def model():
    return latent_network()


@pytest.fixture
def content(model, tmp_path):
    to_published(model, tmp_path / "content.ckpt")
    return torch.load(tmp_path / "content.ckpt", weights_only=True)


def weights_of(model):
    return {name: value for name, value in model.state_dict().items() if not name.startswith("codec")}


@pytest.mark.parametrize(("hparams", "parameters"), [(FULL, 865_922_244), (OLDER, 859_532_484)])
def test_full_size_keys_match_one_to_one(hparams, parameters):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    settings = unet_settings(hparams)
    with torch.device("meta"):
        model = DepthFM(settings, 0, text_tokens=77)
    ours = model.unet.state_dict()
    names = {key_table(settings, back=True)(name): name for name in ours}
    assert len(ours) == len(names) == 686
    assert sum(tensor.numel() for tensor in ours.values()) == parameters
    assert {theirs: key_table(settings)(theirs) for theirs in names} == names
    assert "" not in names
    state = {f"model.diffusion_model.{theirs}": ours[name] for theirs, name in names.items()}
    again = convert_ldm_unet_checkpoint(state, dict(model.unet.config))
    assert again.keys() == ours.keys()
    assert all(again[name] is ours[name] for name in ours)
    assert {
        "input_blocks.3.0.op.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.8.2.conv.weight",
    } <= (names.keys())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_res_blocks": [1, 2], "attention_resolutions": [2]},
        {"num_heads": -1, "num_head_channels": 16, "channel_mult": [1, 2, 2], "transformer_depth": 2},
        {"attention_resolutions": [], "use_linear_in_transformer": True},
    ],
)
def test_settings_and_names_there_and_back(changes):
    hparams = HPARAMS | changes
    settings = unet_settings(hparams)
    again = ldm_hparams(settings)
    assert unet_settings(again) == settings
    with torch.device("meta"):
        unet = DepthFM(settings, 0, text_tokens=2).unet
    theirs = [key_table(settings, back=True)(name) for name in unet.state_dict()]
    assert len(set(theirs)) == len(theirs)
    assert [key_table(settings)(name) for name in theirs] == list(unet.state_dict())
    assert key_table(settings)("no_such_block.0.weight") == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resblock_updown": True}, "resblock_updown=True"),
        ({"use_scale_shift_norm": True}, "use_scale_shift_norm=True"),
        ({"num_classes": 10}, "num_classes=10"),
        ({"n_embed": 4}, "n_embed=4"),
        ({"disable_self_attentions": [True]}, "disable_self_attentions"),
        ({"num_attention_blocks": [1]}, "num_attention_blocks"),
        ({"disable_middle_self_attn": True}, "disable_middle_self_attn"),
        ({"use_spatial_transformer": False}, "use_spatial_transformer=False"),
        ({"conv_resample": False}, "conv_resample=False"),
        ({"dims": 3}, "dims=3"),
        ({"context_dim": None}, "no context_dim"),
        ({"model_channels": None}, "no model_channels"),
        ({"num_heads": -1}, "neither num_heads"),
    ],
)
def test_settings_of_other_networks_are_refused(changes, words):
    with pytest.raises(CheckpointError, match=words):
        unet_settings(HPARAMS | changes)


def test_harmless_settings_are_ignored():
    extra = {
        "use_checkpoint": True,
        "use_fp16": True,
        "load_from_ckpt": "x.ckpt",
        "num_classes": None,
        "dims": 2,
    }
    assert unet_settings(HPARAMS | extra) == unet_settings(HPARAMS)


def test_the_recorded_file_loads_with_weights_only():
    content = torch.load(TINY, weights_only=True)
    found = DepthFM.from_published(TINY, autoencoder())
    assert found.config["noising_step"] == content["noising_step"]
    assert len(found.unet.state_dict()) == len(content["state_dict"])
    y = found.predict(torch.zeros(1, 3, 16, 24), members=2).log_depth
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("kind", ["plain", "numpy", "omegaconf", "half"])
def test_published_file_with_what_it_may_hold(kind, content, model, tmp_path):
    if kind == "numpy":
        content["empty_text_embedding"] = content["empty_text_embedding"].numpy()
        content["noising_step"] = np.int64(content["noising_step"])
    if kind == "omegaconf":
        content["ldm_hparams"] = OmegaConf.create(content["ldm_hparams"])
    if kind == "half":
        content["state_dict"] = {name: value.half() for name, value in content["state_dict"].items()}
    torch.save(content, tmp_path / "file.ckpt")
    found = DepthFM.from_published(tmp_path / "file.ckpt")
    tolerance = 1e-3 if kind == "half" else 0
    for name, value in weights_of(model).items():
        assert found.state_dict()[name].dtype == torch.float32
        assert_close(found.state_dict()[name], value, atol=tolerance, rtol=tolerance, msg=name)
    assert found.config == model.config | {"autoencoder": None, "resolution": found.resolution}


class Stranger:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("extra", Stranger(), "holds an object of"),
        ("empty_text_embedding", np.array([None, 1], dtype=object), "cannot be read safely"),
        ("empty_text_embedding", torch.zeros(3, 6), r"has to be \(1, tokens, 6\)"),
        ("empty_text_embedding", torch.zeros(1, 3, 5), r"has to be \(1, tokens, 6\)"),
        ("empty_text_embedding", "text", "is str"),
        ("ldm_hparams", None, "ldm_hparams"),
        ("ldm_hparams", HPARAMS | {"channel_mult": "wide"}, "ldm_hparams .* cannot be used"),
        ("ldm_hparams", HPARAMS | {"model_channels": 20}, "cannot be"),
        ("ldm_hparams", HPARAMS | {"in_channels": 9}, "9 channels to 4"),
        ("noising_step", 1000, "noising_step"),
        ("noising_step", "many", "noising_step"),
        ("state_dict", [1], "no mapping of tensors"),
        ("state_dict", {}, "missing conv_in"),
    ],
)
def test_published_file_that_is_refused(entry, value, words, content, tmp_path, capsys):
    torch.save(content | {entry: value}, tmp_path / "file.ckpt")
    with pytest.raises(SuiteError, match=words):
        DepthFM.from_published(tmp_path / "file.ckpt")
    assert "code was run" not in capsys.readouterr().out


def test_published_file_is_strict(content, tmp_path):
    for changed, words in (
        ({"out.2.bias": None}, "missing conv_out.bias"),
        ({"label_emb.0.weight": torch.zeros(1)}, "unexpected label_emb.0.weight"),
        ({"out.2.bias": torch.zeros(5)}, r"conv_out.bias is \(5,\), not \(4,\)"),
    ):
        state = {k: v for k, v in (content["state_dict"] | changed).items() if v is not None}
        torch.save(content | {"state_dict": state}, tmp_path / "file.ckpt")
        with pytest.raises(CheckpointError, match=words):
            DepthFM.from_published(tmp_path / "file.ckpt")
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match="no noising_step, empty_text_embedding, ldm_hparams"):
        read_published(tmp_path / "file.ckpt")
    (tmp_path / "file.ckpt").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(CheckpointError, match=r"file\.ckpt"):
        read_published(tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match="no weights at"):
        read_published(tmp_path / "absent.ckpt")


def test_network_that_the_layout_cannot_hold(tmp_path, network, model):
    with pytest.raises(CheckpointError, match="text embedding"):
        to_published(DepthFM.from_pretrained(network), tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="norm_eps"):
        ldm_hparams(model.config["unet"] | {"norm_eps": 1e-6})
    assert not list(tmp_path.iterdir())


def test_autoencoder_from_folder_pipeline_and_files(tmp_path, monkeypatch):
    made = autoencoder()
    made.save_pretrained(tmp_path / "plain")
    made.save_pretrained(tmp_path / "pipeline" / "vae")
    file = tmp_path / "plain" / "diffusion_pytorch_model.safetensors"
    original = {f"first_stage_model.{k}": v for k, v in original_names(made.state_dict()).items()}
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "config.json").write_text((tmp_path / "plain" / "config.json").read_text())
    torch.save(
        {"state_dict": original | {"model.diffusion_model.out.2.bias": torch.zeros(4)}},
        tmp_path / "original" / "sd.ckpt",
    )
    older = {
        k.replace("to_out.0", "proj_attn").replace("to_q", "query"): v for k, v in made.state_dict().items()
    }
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "config.json").write_text((tmp_path / "plain" / "config.json").read_text())
    save_file(older, tmp_path / "older" / "model.safetensors")
    for source in ("plain", "pipeline", file, "original/sd.ckpt", "older"):
        found = load_autoencoder(tmp_path / source).state_dict()
        assert found.keys() == made.state_dict().keys()
        for name, value in made.state_dict().items():
            assert torch.equal(found[name], value), f"{source}: {name}"
    with pytest.raises(CheckpointError, match="no folder at"):
        load_autoencoder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no autoencoder"):
        load_autoencoder(tmp_path / "empty")


def original_names(state):
    """The names of the original code, by hand, for four levels with one block each."""
    pairs = [
        (r"^encoder.down_blocks.(\d).resnets.(\d)", r"encoder.down.\1.block.\2"),
        (r"^encoder.down_blocks.(\d).downsamplers.0", r"encoder.down.\1.downsample"),
        (r"mid_block.resnets.0", "mid.block_1"),
        (r"mid_block.resnets.1", "mid.block_2"),
        (r"mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        (r"mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        (r"mid_block.attentions.0.to_(q|k|v)", r"mid.attn_1.\1"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    renamed = OrderedDict()
    for name, value in state.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        up = re.match(r"^decoder.up_blocks.(\d).(resnets|upsamplers).(\d)(.*)", name)
        if up:
            rest = f"block.{up[3]}" if up[2] == "resnets" else "upsample"
            name = f"decoder.up.{3 - int(up[1])}.{rest}{up[4]}"
        renamed[name] = (
            value[:, :, None, None] if re.search(r"attn_1.(q|k|v|proj_out).weight", name) else value
        )
    return renamed


def run(capsys, *words):
    capsys.readouterr()
    code = main(["depth", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_convert_there_and_back(tmp_path, capsys):
    autoencoder().save_pretrained(tmp_path / "vae")
    code, said = run(capsys, "convert", TINY, "-o", tmp_path / "own", f"autoencoder={tmp_path / 'vae'}")
    assert code == 0, said
    assert re.search(r"all \d+ tensors", said)
    config = read_config(tmp_path / "own")
    assert config["unet"] == unet_settings(torch.load(TINY, weights_only=True)["ldm_hparams"])
    code, said = run(capsys, "convert", tmp_path / "own", "-o", tmp_path / "back.ckpt")
    assert code == 0, said
    first, second = (torch.load(path, weights_only=True) for path in (TINY, tmp_path / "back.ckpt"))
    assert first["noising_step"] == second["noising_step"]
    assert torch.equal(first["empty_text_embedding"].float(), second["empty_text_embedding"])
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert all(
        torch.equal(first["state_dict"][name], second["state_dict"][name]) for name in first["state_dict"]
    )
    own, again = (
        load_network(str(tmp_path / "own")),
        load_network(str(tmp_path / "back.ckpt"), str(tmp_path / "vae")),
    )
    seen = torch.zeros(1, 3, 16, 16)
    assert torch.equal(own.predict(seen).log_depth, again.predict(seen).log_depth)
    for target in ("own", "back.ckpt"):
        code, said = run(capsys, "convert", TINY, "-o", tmp_path / target)
        assert code == 2
        assert "exists already" in said


def test_convert_to_small_files_of_half_precision(tmp_path, capsys, network):
    code, said = run(capsys, "convert", network, "-o", tmp_path / "half", "precision=16", "file_size=0.02")
    assert code == 0, said
    parts = list((tmp_path / "half").glob("model-*.safetensors"))
    assert len(parts) > 1
    whole, half = load_network(str(network)), load_network(str(tmp_path / "half"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor.half().float(), half.state_dict()[name])


def test_convert_refuses(tmp_path, capsys, network):
    letter = tmp_path / "letter.ckpt"
    letter.write_text("not weights")
    torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    for words, line in (
        ((), "takes one input"),
        ((TINY,), "needs an output"),
        ((letter, "-o", tmp_path / "out"), "letter.ckpt cannot be read"),
        (
            (tmp_path / "other.ckpt", "-o", tmp_path / "out"),
            "neither a checkpoint of depth train nor a published",
        ),
        ((network, "-o", tmp_path / "out.ckpt"), "text embedding"),
        ((network, "-o", tmp_path / "out", f"autoencoder={tmp_path}"), "autoencoder"),
    ):
        code, said = run(capsys, "convert", *words)
        assert code == 2, said
        assert line in said
        assert "Traceback" not in said
        assert not (tmp_path / "out").exists()


def test_info_of_weights_and_files(tmp_path, capsys, network):
    code, said = run(capsys, "info", TINY, network, "json=true")
    assert code == 0, said
    published, own = json.loads(said)
    assert published["noising_step"] == 400
    assert published["latents"] == "4 channels at 1/8 size (no autoencoder given)"
    assert published["parameters"] == sum(
        value.numel() for value in torch.load(TINY, weights_only=True)["state_dict"].values()
    )
    assert own["latents"] == "48 channels at 1/4 size (pixels)"
    picture = write(tmp_path / "photo.png", drawn(30, 40))
    np.save(tmp_path / "depth.npy", np.linspace(1, 3, 12, dtype=np.float32).reshape(3, 4))
    code, said = run(capsys, "info", picture, tmp_path / "depth.npy")
    assert code == 0, said
    assert "40 x 30 pixels" in said
    assert "1, 2, 3" in said
    for bad in (tmp_path / "absent.png", tmp_path / "absent"):
        code, said = run(capsys, "info", bad)
        assert code == 2
        assert "absent" in said
