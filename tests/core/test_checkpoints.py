"""Weights in and out: round trips, strict names, safe reading, one line when something is wrong."""

import json
import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from diffusion_suite.core.checkpoints import (
    Card,
    Pretrained,
    load_published,
    match_keys,
    read_pickled,
    save_pickled,
)
from diffusion_suite.core.errors import CheckpointError


class Small(nn.Module, Pretrained):
    starter: ClassVar[str] = "diffusion_suite.core:starter/absent"

    def __init__(self, channels: int = 2, widths: tuple = (3, 4)) -> None:
        super().__init__()
        self.config = {"channels": channels, "widths": list(widths)}
        self.layer = nn.Conv2d(channels, widths[0], 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(widths[0])


class Other(Small):
    starter: ClassVar[str] = ""


CARD = Card(
    title="Small",
    summary="A test.",
    data="Nothing at all.",
    command="train nothing",
    metrics={"PSNR (dB)": 33.456, "SAM": "none"},
    limits=["It does nothing.", "Quickly."],
    tags=["test"],
)


def test_round_trip_keeps_weights_and_settings(tmp_path):
    network = Small(5, (7, 4)).train()
    network.norm.running_mean += 3
    network.save_pretrained(tmp_path / "export", CARD)
    loaded = Small.from_pretrained(tmp_path / "export")
    assert loaded.config == network.config
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_card_has_metadata_that_a_hub_reads():
    head, body = CARD.to_markdown().split("---\n")[1:]
    assert yaml.safe_load(head) == {
        "license": "apache-2.0",
        "library_name": "diffusion-suite",
        "tags": ["test"],
    }
    for part in ("# Small", "Nothing at all.", "train nothing", "| PSNR (dB) | 33.46 |", "- Quickly."):
        assert part in body


def test_wrong_folders_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match="no folder at"):
        Small.from_pretrained(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"holds no config.json"):
        Small.from_pretrained(tmp_path)
    Small().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a Small, not a Other"):
        Other.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read"):
        Small.from_pretrained(tmp_path)


def test_half_precision_in_small_files(tmp_path):
    network = Small()
    network.save_pretrained(tmp_path, dtype=torch.float16, file_size=20)
    assert not (tmp_path / "model.safetensors").exists()
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 1
    assert all(tensor.dtype != torch.float32 for part in parts for tensor in load_file(part).values())
    loaded = Small.from_pretrained(tmp_path)
    for name, tensor in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    parts[0].unlink()
    with pytest.raises(CheckpointError, match=r"model-00001-of-.* cannot be read"):
        Small.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is no index of weights"):
        Small.from_pretrained(tmp_path)
    network.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(next(Small.from_pretrained(tmp_path).parameters()), next(network.parameters()))


def test_missing_unexpected_and_misshapen_weights_are_named(tmp_path):
    network = Small()
    network.save_pretrained(tmp_path)
    state = dict(network.state_dict())
    state["extra.weight"] = torch.zeros(1)
    del state["layer.bias"]
    state["norm.weight"] = torch.zeros(9)
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        Small.from_pretrained(tmp_path)
    for part in ("missing layer.bias", "unexpected extra.weight", "norm.weight is (9,), not (3,)"):
        assert part in str(caught.value)


def test_settings_of_another_version_are_refused(tmp_path):
    Small().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"depth": 3}))
    with pytest.raises(CheckpointError, match="depth"):
        Small.from_pretrained(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is no JSON"):
        Small.from_pretrained(tmp_path)


def test_starter_that_is_not_there():
    with pytest.raises(CheckpointError, match="starter weights of Small are not installed"):
        Small.from_pretrained("starter")
    with pytest.raises(CheckpointError, match="Other has no starter weights"):
        Other.from_pretrained("starter")


def test_hub_id_looks_in_the_cache_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"in the local cache; .*hf download someone/nothing"):
        Small.from_pretrained("someone/nothing")


WEIGHTS = {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "params_ema"])
def test_published_files_are_read_safely(tmp_path, wrap):
    torch.save(WEIGHTS if wrap is None else {wrap: WEIGHTS, "epoch": 3}, tmp_path / "w.pth")
    loaded = load_published(tmp_path / "w.pth")
    assert loaded.keys() == WEIGHTS.keys()
    assert torch.equal(loaded["a.weight"], WEIGHTS["a.weight"])


def test_published_safetensors_and_named_entry(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert load_published(tmp_path / "w.safetensors").keys() == WEIGHTS.keys()
    torch.save({"net": WEIGHTS, "model": {"b": torch.ones(1)}}, tmp_path / "w.pth")
    assert load_published(tmp_path / "w.pth", inside="net").keys() == WEIGHTS.keys()
    with pytest.raises(CheckpointError, match="no entry 'ema'; it has net, model"):
        load_published(tmp_path / "w.pth", inside="ema")


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


def test_file_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        load_published(tmp_path / "evil.pth")
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1, 2]), b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_files_are_one_line(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_published(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_file_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no weights; it has epoch"):
        load_published(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no weights at"):
        load_published(tmp_path / "absent.pth")


def test_keys_are_matched_by_table_or_function():
    expected = {"first.weight": torch.zeros(2, 3), "second": torch.zeros(1)}
    table = {"a.weight": "first.weight", "b": "second"}
    assert match_keys(WEIGHTS, table, expected).keys() == expected.keys()
    with_counter = {**WEIGHTS, "counter": torch.zeros(())}
    assert match_keys(with_counter, lambda name: table.get(name), expected).keys() == expected.keys()
    with pytest.raises(CheckpointError, match="unexpected counter"):
        match_keys(with_counter, table, expected)
    with pytest.raises(CheckpointError, match="missing second"):
        match_keys({"a.weight": WEIGHTS["a.weight"]}, table, expected)
    many = {f"layer.{index}": torch.zeros(1) for index in range(30)}
    with pytest.raises(CheckpointError, match=r"missing .* and 26 more"):
        match_keys({}, {}, many)


def test_pickled_content_there_and_back_with_named_classes(tmp_path):
    content = {"step": 3, "array": np.arange(3.0), "state": {"a": torch.ones(2)}}
    save_pickled(tmp_path / "deep" / "w.pth", content | {"array": [0.0]})
    assert read_pickled(tmp_path / "deep" / "w.pth")["array"] == [0.0]
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"holds an object of numpy\._core\.multiarray"):
        read_pickled(tmp_path / "w.pth")
    allowed = {
        "numpy._core.multiarray._reconstruct": np.zeros(0).__reduce__()[0],
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy.dtypes.Float64DType": type(np.dtype("float64")),
    }
    found = read_pickled(tmp_path / "w.pth", allowed)
    assert found["array"].tolist() == [0, 1, 2]
    with pytest.raises(CheckpointError, match="holds an object of"):
        read_pickled(tmp_path / "w.pth")
