"""Training of the prior: what its losses are, that they fall, that what it exports is what predict loads."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core.config import load
from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import CheckpointError, ConfigError, InputError
from diffusion_suite.core.seeding import generator, numpy_generator, seeded
from diffusion_suite.geo.restoration import data as training_data
from diffusion_suite.geo.restoration.config import TrainPriorConfig
from diffusion_suite.geo.restoration.data import MISSING, EigenStacks, scenes_of_files
from diffusion_suite.geo.restoration.dds2m import DDS2M, load_prior
from diffusion_suite.geo.restoration.module import FACTORS, EigenPriorModule
from diffusion_suite.geo.restoration.train import data_module, run

CHANNELS, PATCH = 3, 32
TINY = {"channels": CHANNELS, "widths": [6, 8], "blocks": [1, 1], "patch": PATCH}
SHORT = {"scenes": 3, "photographs": False, "validation": 2, "batch_size": 2, "workers": 0, "precision": "32"}
RUN = {"steps": 3, "warmup_steps": 1, "checkpoint_every": 3, "log_every": 1, "validate_every": 3}


@pytest.fixture(autouse=True)
def _small_scenes(monkeypatch):
    monkeypatch.setattr(training_data, "SIDE", 48)


def settings(**more) -> TrainPriorConfig:
    return TrainPriorConfig(**TINY | SHORT | RUN | {"trainer": {"accelerator": "cpu"}} | more)


def request(folder, inputs=(), **more) -> Request:
    return Request(
        domain="geo",
        system="restoration",
        command="train",
        inputs=list(inputs),
        output=str(folder),
        config=settings(**more),
        config_hash="0",
        config_name="test",
    )


def tiny_module() -> EigenPriorModule:
    with seeded(0, "weights"):
        return EigenPriorModule(CHANNELS, TINY["widths"], TINY["blocks"])


def batch(count: int = 4, channels: int = CHANNELS) -> dict[str, torch.Tensor]:
    scenes = training_data.procedural_scenes(3, channels, 0, False)
    stacks = EigenStacks(scenes, PATCH, 0)
    return torch.utils.data.default_collate([stacks[index] for index in range(count)])


def test_loss_of_the_untrained_network_in_closed_form():
    """It is the Wiener filter of white channels: the expected error is known for every level."""
    scale = torch.tensor([[8.0, 1.0, 0.1]])
    clean = torch.randn(1, CHANNELS, 64, 64, generator=generator("clean")) * scale[:, :, None, None]
    level = torch.ones(1, 1, 64, 64)
    level[..., :32] = 2.0
    example = {"clean": clean, "scale": scale, "used": torch.tensor([[1.0, 1.0, 0.0]]), "level": level}
    found = tiny_module().validation_loss(example, generator("loss"))
    variance, noise = scale[0, :2, None] ** 2, torch.tensor([1.0, 4.0])
    expected = (variance * noise / (variance + noise) * (1 / noise + 0.05 / variance)).mean()
    assert_close(found["denoising"], expected, rtol=0.03, atol=0)
    assert_close(found["loss"], 0.75 * found["denoising"] + 0.25 * found["super_resolution"])


def test_pixels_that_were_not_measured_tell_nothing():
    example = batch()
    example["level"][:] = 1.0
    example["level"][..., :5] = MISSING
    blank = {**example, "clean": example["clean"].clone()}
    blank["clean"][..., :5] = 0
    seen = []
    module = tiny_module()
    module.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    for one in (example, blank):
        module._denoising_loss(one, generator("loss"))
    assert torch.equal(*seen)
    assert (seen[0][..., :5] == 0).all()


def test_losses_are_finite_keyed_and_of_both_kinds():
    module, example = tiny_module(), batch()
    values = {step: module.loss(example, generator(step))["loss"].item() for step in range(40)}
    assert np.isfinite(list(values.values())).all()
    again = module.loss(example, generator(7))["loss"].item()
    assert again == values[7]
    kinds = [
        torch.randint(4 * len(FACTORS), (), generator=generator(step)).item() < len(FACTORS)
        for step in values
    ]
    assert 0 < sum(kinds) < len(kinds) / 2
    assert set(module.validation_loss(example, generator(0))) == {"loss", "denoising", "super_resolution"}


def test_loss_falls_on_a_batch():
    module, example = tiny_module(), batch()
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)

    def error() -> torch.Tensor:
        return module.validation_loss(example, generator("fixed"))["loss"]

    before = error().item()
    for _ in range(60):
        optimiser.zero_grad()
        error().backward()
        optimiser.step()
    assert error().item() < 0.85 * before


def test_run_ends_with_a_network_that_predict_loads(tmp_path):
    run(request(tmp_path))
    exported, checkpointed = (load_prior(str(tmp_path / name)) for name in ("export", "last.ckpt"))
    assert exported.config == {"channels": CHANNELS, "widths": [6, 8], "blocks": [1, 1]}
    trained, untrained = checkpointed.state_dict(), tiny_module().model.state_dict()
    for name, weight in exported.state_dict().items():
        assert torch.equal(weight, trained[name]), name
    assert not torch.equal(trained["leave.weight"], untrained["leave.weight"])
    assert json.loads((tmp_path / "export" / "config.json").read_text())["channels"] == CHANNELS
    card = (tmp_path / "export" / "README.md").read_text()
    assert "3 procedural scenes" in card
    assert "photographs" not in card
    cube = numpy_generator(0, "cube").standard_normal((16, 20, 5)).astype(np.float32)
    restored = DDS2M(mode="prior", weights=str(tmp_path / "export"), runs=1, device="cpu").restore(
        cube, sigma=1.0
    )
    assert np.isfinite(restored.cube).all()


def test_own_scenes_join_the_drawn_ones(tmp_path):
    rng = numpy_generator(0, "own")
    cube = rng.standard_normal((40, 50, 6)).astype(np.float32)
    cube[3:6, 7:9, 2] = np.nan
    np.save(tmp_path / "own.npy", cube)
    data = data_module(settings(), [str(tmp_path / "own.npy")])
    assert len(data.dataset.scenes) == 4
    alone = data_module(settings(scenes=0), [str(tmp_path / "own.npy")])
    stack, profile = alone.dataset.scenes[0]
    assert stack.shape == (CHANNELS, 40, 50)
    assert np.isfinite(stack).all()
    assert profile[0] == 1
    assert alone.dataset[0]["clean"].shape == (CHANNELS, PATCH, PATCH)


def test_own_scenes_that_cannot_serve(tmp_path):
    np.save(tmp_path / "small.npy", np.ones((20, 90, 3), np.float32))
    with pytest.raises(InputError, match="fewer than a patch"):
        scenes_of_files([tmp_path / "small.npy"], CHANNELS, PATCH)
    np.save(tmp_path / "empty.npy", np.full((40, 40, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="no observed sample"):
        scenes_of_files([tmp_path / "empty.npy"], CHANNELS, PATCH)
    with pytest.raises(InputError, match="no training scene"):
        data_module(settings(scenes=0), [])


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        load_prior(str(tmp_path / "none.ckpt"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError):
        load_prior(str(tmp_path / "folder"))


def test_settings_of_a_network_without_scales_are_refused():
    with pytest.raises(ConfigError, match="do not go together"):
        load(TrainPriorConfig, ["widths=[8]", "blocks=[1,2]"])
