"""Cross-attention maps: equal to those of explicit attention, without touching the network's output."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation import AttentionSum, cross_attention_maps, reading_attention
from diffusion_suite.core.schedulers import Denoiser, DiscreteVP, betas

LAYERS = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2",
    "mid_block.attentions.0.transformer_blocks.0.attn2",
]


@pytest.fixture(scope="module")
def unet():
    from diffusers import UNet2DConditionModel

    with seeding.seeded("unet"):
        return UNet2DConditionModel(
            sample_size=None,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=12,
            attention_head_dim=2,
        ).eval()


def values(*shape):
    return torch.randn(shape, generator=seeding.generator("attention", *shape))


class Explicit:
    """A processor that computes attention by its definition and keeps it."""

    def __init__(self):
        self.kept = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        query, key, value = (
            attn.head_to_batch_dim(linear(given))
            for linear, given in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        mask = attn.prepare_attention_mask(attention_mask, key.shape[1], len(hidden_states))
        weights = attn.get_attention_scores(query, key, mask)
        self.kept = weights.unflatten(0, (-1, attn.heads)).mean(1)
        return attn.to_out[0](attn.batch_to_head_dim(weights @ value))


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_maps_equal_explicit_attention_and_the_output_does_not_change(unet, masked):
    x, text = values(2, 2, 8, 12), values(2, 5, 12)
    more = {"encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])} if masked else {}
    before = dict(unet.attn_processors)
    plain = unet(x, 7, encoder_hidden_states=text, **more).sample
    sums = AttentionSum()
    with reading_attention(unet, sums, size=(8, 12)):
        read = unet(x, 7, encoder_hidden_states=text, **more).sample
    assert torch.equal(read, plain)
    assert unet.attn_processors == before
    assert sorted(sums.layers) == sorted(LAYERS)
    explicit = {f"{name}.processor": Explicit() for name in LAYERS}
    try:
        unet.set_attn_processor(before | explicit)
        unet(x, 7, encoder_hidden_states=text, **more)
    finally:
        unet.set_attn_processor(before)
    for name in LAYERS:
        wanted = explicit[f"{name}.processor"].kept.transpose(1, 2)
        assert_close(sums.layers[name].flatten(2), wanted, rtol=0, atol=1e-6)
        assert_close(sums.layers[name].sum(1), torch.ones_like(sums.layers[name][:, 0]))
    if masked:
        assert sums.layers[LAYERS[0]][0, 3:].abs().max() < 1e-6
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in unet.modules())


@torch.no_grad()
def test_mean_over_layers_and_times(unet):
    path = DiscreteVP(betas("scaled_linear", 1000, 0.00085, 0.012))
    denoiser = Denoiser(lambda x, t, **cond: unet(x, t, **cond).sample, path, "eps")
    x0, text, noise = values(2, 2, 8, 12), values(2, 5, 12), values(3, 2, 2, 8, 12)
    found = cross_attention_maps(
        denoiser, x0, [1, 300, 700], noise=noise, network=unet, encoder_hidden_states=text
    )
    assert found.shape == (2, 5, 8, 12)
    assert_close(found.sum(1), torch.ones(2, 8, 12))
    wanted = torch.zeros(2, 5, 8, 12)
    for eps, t in zip(noise, [1, 300, 700], strict=True):
        sums = AttentionSum()
        with reading_attention(unet, sums, size=(8, 12)):
            unet(path.add_noise(x0, eps, t), t, encoder_hidden_states=text)
        for name, maps in sums.layers.items():
            scale = 8 // maps.shape[-2]
            assert scale == (2 if name.startswith("mid") else 1)
            wanted += maps.repeat_interleave(scale, -1).repeat_interleave(scale, -2) / 12
    assert_close(found, wanted)
    some = cross_attention_maps(
        denoiser,
        x0[1:],
        [1, 300, 700],
        noise=noise[:, 1:],
        tokens=[3, 0],
        network=unet,
        encoder_hidden_states=text[1:],
    )
    assert_close(some, found[1:, [3, 0]], rtol=0, atol=1e-5)


@torch.no_grad()
def test_chosen_layers_sizes_and_a_network_in_half(unet):
    x, text = values(1, 2, 6, 10), values(1, 5, 12)
    sums = AttentionSum()
    with reading_attention(unet, sums, size=(6, 10), layers=LAYERS[-1:], tokens=[4]):
        unet(x, 1, encoder_hidden_states=text)
    assert sums.mean().shape == (1, 1, 3, 5)
    assert sums.mean((12, 20), "bilinear").shape == (1, 1, 12, 20)
    import copy

    half = copy.deepcopy(unet).bfloat16()
    low = AttentionSum()
    with reading_attention(half, low, size=(6, 10), layers=LAYERS[-1:], tokens=[4]):
        half(x.bfloat16(), 1, encoder_hidden_states=text.bfloat16())
    assert low.mean().dtype == torch.float32
    assert_close(low.mean(), sums.mean(), rtol=0, atol=2e-2)


def test_adapters_count(unet):
    """Maps follow whatever stands in the place of `to_q`, as adapters do."""
    x, text = values(1, 2, 8, 8), values(1, 5, 12)
    plain, changed = AttentionSum(), AttentionSum()
    with torch.no_grad(), reading_attention(unet, plain, size=(8, 8), layers=LAYERS[:1]):
        unet(x, 1, encoder_hidden_states=text)
    layer = unet.get_submodule(LAYERS[0])
    original = layer.to_q

    class Adapted(nn.Module):
        def forward(self, hidden):
            return 3 * original(hidden)

    layer.to_q = Adapted()
    try:
        with torch.no_grad(), reading_attention(unet, changed, size=(8, 8), layers=LAYERS[:1]):
            unet(x, 1, encoder_hidden_states=text)
    finally:
        layer.to_q = original
    first, second = plain.mean()[0, :, 0, 0], changed.mean()[0, :, 0, 0]
    assert (first - second).abs().max() > 1e-4


def test_a_transformer_of_diffusers():
    from diffusers import PixArtTransformer2DModel

    with seeding.seeded("pixart"):
        network = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=2,
            out_channels=2,
            num_layers=2,
            cross_attention_dim=8,
            sample_size=8,
            patch_size=2,
            caption_channels=6,
            use_additional_conditions=False,
        ).eval()
    sums = AttentionSum()
    with torch.no_grad(), reading_attention(network, sums, size=(8, 8)):
        network(
            values(1, 2, 8, 8),
            encoder_hidden_states=values(1, 3, 6),
            timestep=torch.tensor([5]),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        )
    assert list(sums.layers) == ["transformer_blocks.0.attn2", "transformer_blocks.1.attn2"]
    assert sums.mean((8, 8)).shape == (1, 3, 8, 8)


def test_networks_without_cross_attention_are_refused(unet):
    def read(network, layers=None):
        with reading_attention(network, print, size=(1, 1), layers=layers):
            pass

    with pytest.raises(ConfigError, match="no cross-attention"):
        read(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="attn9"):
        read(unet, ["attn9"])
    with pytest.raises(ConfigError, match="no attention was read"):
        AttentionSum().mean()
