"""Training of DepthFM: data, masks, losses; the loss falls."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairs_on_disk import hypersim, parallel, room, samples, virtual_kitti
from pictures_on_disk import drawn
from tiny_latent import autoencoder, latent_network
from torch.testing import assert_close
from torch.utils.data import Dataset

from diffusion_suite.core.cli import main
from diffusion_suite.core.errors import CheckpointError, ConfigError
from diffusion_suite.core.seeding import generator, seeded
from diffusion_suite.core.training import SuiteDataModule, fit
from diffusion_suite.depth.config import TrainDepthConfig
from diffusion_suite.depth.data import FreshScenes, KeptPictures
from diffusion_suite.depth.latents import KeptLatents
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.mixture import FolderPictures, Mixture, cropped, together
from diffusion_suite.depth.module import DepthModule
from diffusion_suite.depth.normal_loss import masked_mean, normal_loss, relief_normals
from diffusion_suite.depth.pairs import pairs_in
from diffusion_suite.depth.train import data_module, make_module

TINY: dict[str, Any] = {"widths": [32, 32], "layers": 1, "attention_from": 2, "side": 32}


def tiny(**changes: Any) -> DepthModule:
    with seeded("tiny"):
        return DepthModule(**{**TINY, **changes})


def settings(**changes: Any) -> TrainDepthConfig:
    base: dict[str, Any] = {**TINY, "drawn": 2, "validation": 0, "batch_size": 2, "workers": 0}
    base |= {"steps": 3, "warmup_steps": 1, "log_every": 1, "trainer": {"accelerator": "cpu"}}
    return TrainDepthConfig(**(base | changes))


def batch(count: int = 2, holes: bool = False) -> dict[str, torch.Tensor]:
    rgb = torch.stack([torch.from_numpy(drawn(32, 32, i)).permute(2, 0, 1) / 255 for i in range(count)])
    depth = torch.stack([torch.from_numpy(room(32, 32, i)).float()[None] for i in range(count)])
    if holes:
        depth[:, :, 3:9, 10:14] = torch.nan
    return {"rgb": rgb, "depth": depth}


def loss(module: DepthModule, values: Any, name: str = "loss", key: int = 0) -> torch.Tensor:
    return module.loss(values, generator("noise", key))[name]


def test_masked_mean_is_by_item() -> None:
    values = torch.arange(24.0).reshape(2, 3, 2, 2)
    mask = torch.tensor([[[[True, False], [False, False]]], [[[False, False], [False, False]]]])
    assert masked_mean(values, mask).tolist() == [4.0, 0.0]
    assert_close(masked_mean(values, torch.ones_like(mask)), values.flatten(1).mean(1))


def test_cells_with_a_hole_have_no_part_in_the_loss() -> None:
    module, values = tiny(), batch(holes=True)
    latent, target, cells = module.latents(values, generator(0))
    assert cells.shape == (2, 1, 8, 8)
    off = torch.nonzero(~cells[0, 0]).tolist()
    assert off == [[r, c] for r in (0, 1, 2) for c in (2, 3)]
    assert torch.isfinite(target).all()
    before = loss(module, values)
    assert torch.isfinite(before)
    made = {"latent": latent, "target": target.clone(), "cells": cells}
    assert_close(loss(module, made), before)
    made["target"][(~cells).expand_as(target)] += 5.0
    moved = loss(module, made, key=0)
    made["cells"] = torch.ones_like(cells)
    assert loss(module, made) > 1.5 * moved


def test_pictures_without_any_measurement_give_no_nan() -> None:
    values = batch()
    values["depth"][0] = torch.nan
    for weight in (0.0, 1.0):
        found = loss(tiny(normals_weight=weight), values)
        found.backward()
        assert torch.isfinite(found)


def test_sky_is_measured() -> None:
    values = batch()
    values["depth"][:, :, :8] = torch.inf
    _, target, cells = tiny().latents(values, generator(0))
    assert cells.all()
    assert float(target[:, :, :2].min()) == 1


def test_normals_of_planes() -> None:
    y = torch.linspace(-1, 1, 33)[None, None, None, :].expand(1, 1, 17, 33)
    found = relief_normals(y)
    slope = 2 / 32 * 33 / 2
    expected = torch.tensor([-slope, 0.0, 1.0]) / (1 + slope**2) ** 0.5
    assert_close(found, expected[None, :, None, None].expand_as(found))
    valid = torch.ones_like(y, dtype=torch.bool)
    assert_close(normal_loss(y, y, valid), torch.zeros(1))
    flat = normal_loss(torch.zeros_like(y), y, valid)
    assert_close(flat, torch.full((1,), 1 - float(expected[2])))
    valid[..., :, 10] = False
    broken = y.clone()
    broken[..., 10] = 9
    assert_close(normal_loss(broken, y, valid), torch.zeros(1))


def test_normal_loss_counts_only_late_times() -> None:
    values = batch()
    late, early = tiny(normals_weight=1.0, normals_from=0.0), tiny(normals_weight=1.0, normals_from=0.999)
    assert loss(late, values, "normals").item() > 0
    assert loss(early, values, "normals").item() == 0
    assert_close(loss(early, values), loss(tiny(), values))
    perfect = tiny(normals_weight=1.0, normals_from=0.0)
    _, target, cells = perfect.latents(values, generator(0))
    assert_close(perfect._normals(target, target, cells, torch.ones(2) > 0), torch.tensor(0.0))


def test_items_of_folders_are_keyed_and_cropped(tmp_path: Path) -> None:
    pairs = pairs_in(samples(tmp_path / "set"))
    data = FolderPictures(pairs, 32, seed=3)
    first, again, other = data[5], data[5], data[6]
    for name, shape in (("rgb", (3, 32, 32)), ("depth", (1, 32, 32))):
        assert first[name].shape == shape
        assert torch.equal(first[name].nan_to_num(), again[name].nan_to_num())
        assert first[name].dtype == torch.float32
    assert not torch.equal(first["rgb"], other["rgb"])
    assert any(torch.isnan(data[i]["depth"]).any() for i in range(8))
    plain = FolderPictures(pairs, 40, seed=3, changed=False)
    assert len(plain) == 2
    assert_close(plain[0]["depth"][0, 5:].double(), torch.from_numpy(room()[5:, 8:48]), rtol=0, atol=2e-4)
    assert_close(plain[0]["rgb"], torch.from_numpy(drawn(40, 56)[:, 8:48]).permute(2, 0, 1) / 255)


def test_crop_of_a_picture_larger_than_its_depth() -> None:
    depth = np.arange(16, dtype=np.float32).reshape(4, 4)
    rgb = np.repeat(depth.repeat(2, 0).repeat(2, 1)[..., None], 3, -1).astype(np.uint8)
    colours, found = cropped(rgb, depth, (1, 2, 2), 2)
    assert found.tolist() == [[[6, 7], [10, 11]]]
    assert_close(colours[0] * 255, found[0])


@pytest.mark.parametrize("layout", [samples, parallel, virtual_kitti, hypersim])
def test_every_layout_trains(layout: Any, tmp_path: Path) -> None:
    if layout is hypersim:
        pytest.importorskip("h5py")
    items = FolderPictures(pairs_in(layout(tmp_path / "set")), 32, seed=0)
    assert torch.isfinite(loss(tiny(), together([items[0], items[1]])))


def test_mixture_meets_each_by_its_share() -> None:
    class Constant(Dataset[int]):
        endless = True

        def __init__(self, value: int) -> None:
            self.value = value

        def __getitem__(self, index: int) -> int:
            return self.value

    mixture = Mixture([Constant(0), Constant(1), Constant(2)], [1, 0, 3], seed=1)
    found = [mixture[i] for i in range(800)]
    assert 1 not in found
    assert np.mean(found) == pytest.approx(1.5, abs=0.1)
    assert found == [mixture[i] for i in range(800)]


def test_batch_of_scenes_pictures_and_latents(tmp_path: Path) -> None:
    module = tiny()
    scenes, pictures = FreshScenes(0), FolderPictures(pairs_in(samples(tmp_path / "set")), 32, 0)
    latent, target, cells = module.latents(batch(1), generator(0))
    kept = {"latent": latent[0].half(), "target": target[0].half(), "cells": cells[0]}
    made = together([scenes[0], pictures[0], scenes[1], kept])
    assert len(made["scenes"]) == 2
    found, _, _ = module.latents(made, generator(0))
    assert found.shape == (4, 48, 8, 8)
    assert torch.isfinite(loss(module, made))


def test_kept_latents_are_those_of_the_codec_plain_and_mirrored(tmp_path: Path) -> None:
    model = latent_network()
    pictures = FolderPictures(pairs_in(samples(tmp_path / "set")), 64, 0, changed=False)
    data = KeptLatents(tmp_path / "cache", pictures, model, 0, ["set"], "cpu")
    assert len(data) == 4
    module = DepthModule(network=model.config, side=64)
    module.model.load_state_dict(model.state_dict())
    values = {name: value[None] for name, value in pictures[1].items()}
    for place, flip in ((1, False), (3, True)):
        seen = {name: value.flip(-1) if flip else value for name, value in values.items()}
        for name, expected in zip(
            ("latent", "target", "cells"), module.latents(seen, generator(0)), strict=True
        ):
            kept = torch.from_numpy(data.arrays[name][place])
            assert_close(kept.float(), expected[0].float(), rtol=2e-3, atol=2e-3)
    assert any(not data[i]["cells"].all() for i in range(4))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    KeptLatents(tmp_path / "cache", pictures, model, 0, ["set"], "cpu")
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    KeptLatents(tmp_path / "cache", pictures, model, 0, ["other"], "cpu")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert torch.isfinite(loss(module, together([data[0], data[1]])))


def test_training_from_an_image_diffusion_network(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    with seeded(0):
        unet = UNet2DModel(
            in_channels=12,
            out_channels=12,
            block_out_channels=[16, 16],
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=["DownBlock2D"] * 2,
            up_block_types=["UpBlock2D"] * 2,
        )
    unet.save_pretrained(tmp_path / "base")
    words = ["depth", "train", str(samples(tmp_path / "set")), f"base={tmp_path / 'base'}", "shares=[0,1]"]
    words += ["steps=2", "batch_size=2", "workers=0", "validation=0", "side=32", "normals_weight=0.1"]
    run = tmp_path / "run"
    assert main([*words, "log_every=1", "trainer.accelerator=cpu", "-o", str(run)]) == 0
    loaded = DepthModule.from_checkpoint(run / "last.ckpt")
    weight = loaded.model.unet.conv_in.weight
    assert weight.shape[1] == 24
    assert_close(weight[:, :12], unet.conv_in.weight / 2, rtol=0, atol=2e-3)
    with (run / "metrics.csv").open() as file:
        assert {"loss", "flow", "normals"} <= set(next(csv.DictReader(file)))


def test_the_small_network_learns_on_latents(tmp_path: Path) -> None:
    """From nothing, on an autoencoder of another scale than Stable Diffusion's, which is kept."""
    autoencoder(scaling_factor=0.5).save_pretrained(tmp_path / "vae")
    words = ["depth", "train", f"autoencoder={tmp_path / 'vae'}", "widths=[32,32]", "layers=1", "side=32"]
    words += ["drawn=4", "steps=2", "batch_size=2", "workers=0", "validation=2", "trainer.accelerator=cpu"]
    assert main([*words, "-o", str(tmp_path / "run")]) == 0
    model = DepthFM.from_pretrained(tmp_path / "run" / "export")
    assert (model.config["output"], model.config["scale_factor"]) == ("depth", 0.5)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    expected = 0.5 * autoencoder().encode(picture).latent_dist.mode()  # type: ignore[operator]
    assert_close(model.encode(picture), expected)
    with pytest.raises(CheckpointError, match="absent"):
        make_module(settings(autoencoder=str(tmp_path / "absent")))


def test_latents_are_cached_by_the_command(tmp_path: Path) -> None:
    model = latent_network()
    module = DepthModule(network=model.config, side=32)
    config = settings(validation=0, shares=[1.0, 2.0])
    data = data_module(config, tmp_path / "run", [str(samples(tmp_path / "set"))], module)
    assert [type(part).__name__ for part in data.dataset.parts] == ["KeptLatents"] * 2  # type: ignore[union-attr]
    fit(module, data, config, tmp_path / "run")
    assert (tmp_path / "run" / "last.ckpt").is_file()


def test_settings_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, message in (
        ({"shares": [0.0]}, "all 0"),
        ({"autoencoder": "x", "features": "efficientnet-lite0"}, "on pixels"),
        ({"widths": [10]}, "multiples of 16"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(**changes).check()
    with pytest.raises(ConfigError, match="side=36 is no multiple of the network's 8"):
        make_module(settings(side=36))
    with pytest.raises(ConfigError, match="3 shares for drawn pictures and 0 folders"):
        data_module(settings(shares=[1.0, 1.0, 1.0]), tmp_path, [], tiny())
    assert main(["depth", "train", str(tmp_path / "absent"), "shares=[0,1]", "-o", str(tmp_path / "r")]) == 2
    assert "is no folder" in capsys.readouterr().err.splitlines()[-1]


class OneBatch(Dataset[dict[str, torch.Tensor]]):
    endless = True

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index % 2] for name, value in batch(2).items()}


def test_loss_falls_on_a_fixed_batch(tmp_path: Path) -> None:
    config = settings(steps=40, learning_rate=3e-3, ema_decay=0.0, schedule="constant")
    fit(tiny(widths=[64, 64]), SuiteDataModule(OneBatch(), None, config, together), config, tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:3])


def test_validation_tells_the_error_of_depth(tmp_path: Path) -> None:
    module = tiny()
    found = module.validation_loss(batch(), generator(0))
    assert 0 < found["error"].item() < 3
    data = KeptPictures(tmp_path, 2, 32, 1, changed=False)
    assert torch.isfinite(module.validation_loss(together([data[0], data[1]]), generator(0))["error"])


def test_times_are_drawn_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """E[u^p] = 1 / (p + 1)."""
    for power in (1.0, 2.0):
        module, seen = tiny(time_power=power), []
        monkeypatch.setattr(module, "objective", lambda *values, seen=seen: seen.append(values[-1]) or {})
        many = {"rgb": torch.rand(400, 3, 32, 32), "depth": torch.rand(400, 1, 32, 32) + 1}
        module.loss(many, generator("times"))
        assert abs(float(seen[0].mean()) - 1 / (power + 1)) < 0.04


def test_scenes_are_drawn_in_single_precision(tmp_path: Path) -> None:
    """Also where the network computes in bf16, as the command for a GPU has it."""
    config = settings(drawn=0, precision="bf16", steps=2)
    module = tiny()
    fit(module, data_module(config, tmp_path, [], module), config, tmp_path)
    scenes = together([FreshScenes(0)[0], FreshScenes(0)[1]])
    with torch.autocast("cpu", torch.bfloat16):
        rgb, depth = module._drawn(scenes["scenes"], generator(0))
    assert rgb.dtype == depth.dtype == torch.float32


def test_kept_pictures_are_cropped_and_never_enlarged(tmp_path: Path) -> None:
    larger = KeptPictures(tmp_path, 2, 32, 1, drawn_side=40)
    whole = KeptPictures(tmp_path, 2, 32, 1, changed=False, drawn_side=40)
    seen = [larger[index] for index in range(8)]
    assert {tuple(item["rgb"].shape) for item in seen} == {(3, 32, 32)}
    assert {tuple(item["depth"].shape) for item in seen} == {(1, 32, 32)}
    assert len({float(item["depth"][torch.isfinite(item["depth"])].sum()) for item in seen}) > 4
    truth = torch.from_numpy(np.asarray(whole.depth[0, 0], np.float32))
    rows = ((torch.arange(32) + 0.5) * 40 / 32).long()
    assert torch.equal(whole[0]["depth"][0], truth[rows][:, rows])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_steps_on_the_renderer(tmp_path: Path) -> None:
    config = settings(
        drawn=64,
        steps=300,
        side=32,
        factor=2,
        batch_size=8,
        widths=[32, 64],
        learning_rate=2e-3,
        warmup_steps=20,
        log_every=10,
    )
    with seeded(0, "weights"):
        module = make_module(config)
    start = time.monotonic()
    fit(module, data_module(config, tmp_path, [], module), config, tmp_path)
    assert time.monotonic() - start < 1200
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
