"""Recorded cases of the method: networks, noising, the flow, ensembles, pictures, training pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core.flow_matching import Pairs, cosine_signal, flow_loss
from diffusion_suite.core.schedulers import FieldStep
from diffusion_suite.core.testing import Case
from diffusion_suite.depth.autoencoders import make_autoencoder
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.predictor import Seen, processing_size, shrunk
from diffusion_suite.depth.published import Published
from diffusion_suite.depth.published_unet import unet_settings
from diffusion_suite.depth.write import published_grey

DTYPES = (torch.float64, torch.float32)
SCALES = {"standard": "standard", "rescaled": "token_rescaled"}


def close(found: Tensor, expected: Tensor, tolerance: Mapping[str, float], name: str) -> None:
    bounds = {"atol": tolerance.get("atol", 0.0), "rtol": tolerance.get("rtol", 0.0)}
    assert_close(found.double(), expected.double(), **bounds, msg=lambda text: f"{name}: {text}")


def published_unet(model: DepthFM, settings: dict[str, Any], state: Mapping[str, Tensor]) -> None:
    """Put weights by their published names into a model's network."""
    Published(model.config["noising_step"], torch.zeros(0), settings, state).fill(model.unet)


def network(case: Case, scale: str, text: Tensor) -> DepthFM:
    """The network alone: of `tiny.ckpt`, or of recorded weights."""
    files = [case.path / name for name in case.config.get("files", {})]
    if files:
        model = DepthFM.from_published(files[0], attention_scale=scale)
        assert unet_settings(case.config["config"]["ldm_hparams"]) == model.config["unet"]
    else:
        settings = unet_settings(case.config["config"]["ldm_hparams"])
        model = DepthFM(settings, 0, text_tokens=text.shape[1], attention_scale=scale)
        published_unet(model, settings, case.weights)
    return model.eval()


def whole(case: Case, text: Tensor) -> DepthFM:
    """Network and autoencoder of recorded weights."""
    config = case.config["config"]
    place = str(case.config.get("weights", ""))
    source = case.path / place if place.startswith("..") else case.path / "weights.safetensors"
    weights = load_file(source)
    settings = unet_settings(config["ldm_hparams"])
    model = DepthFM(
        settings,
        0,
        config["noising_step"],
        scale_factor=config["scale_factor"],
        text_tokens=text.shape[1],
        attention_scale=config.get("attention_scale", "standard"),
    )
    published_unet(model, settings, part(weights, "model."))
    autoencoder = make_autoencoder({"_class_name": "AutoencoderKL", **config["vae_config"]})
    autoencoder.load_state_dict(part(weights, "vae."))
    model.attach_autoencoder(autoencoder)
    assert model.text_embedding is not None
    model.text_embedding.copy_(text)
    return model.eval()


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


@torch.no_grad()
def unet_forward(case: Case) -> None:
    recorded, tolerance = case.tensors, case.config["tolerance"]
    checked = {"x", "context", "context_ca", "t"}
    for scale, name in SCALES.items():
        for dtype in DTYPES:
            given = {key: recorded[key].to(dtype) for key in ("x", "context", "context_ca", "t")}
            model = network(case, name, given["context_ca"]).to(dtype)
            model.text_embedding = given["context_ca"]
            parts = {"t_sinusoid": "time_proj", "t_emb": "time_embedding", f"mid_{scale}": "mid_block"}
            with watched(model.unet, parts) as seen:
                seen[f"v_{scale}"] = velocity(model, given)
            for key, value in seen.items():
                close(value, recorded[key], tolerance, f"{key} in {dtype}")
            checked |= seen.keys()
    assert checked == recorded.keys()


@contextmanager
def watched(network: nn.Module, parts: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of a network's parts by key, as they come."""
    seen: dict[str, Tensor] = {}
    for key, module in parts.items():
        network.get_submodule(module).register_forward_hook(
            lambda _, __, output, key=key: seen.__setitem__(key, output)
        )
    yield seen


def velocity(model: DepthFM, given: Mapping[str, Tensor]) -> Tensor:
    """One text for the batch goes the model's way, others straight to the network."""
    if len(given["context_ca"]) == 1:
        return model.velocity(given["x"], given["t"], given["context"])
    state = torch.cat([given["x"], given["context"]], 1)
    return model.unet(state, given["t"], encoder_hidden_states=given["context_ca"]).sample


def q_sample(case: Case) -> None:
    recorded, config = case.tensors, case.config["config"]
    steps = recorded["t"].tolist()
    signal = torch.stack([cosine_signal(step / config["n_diffusion_timesteps"]) for step in steps])
    assert_close(signal, recorded["alpha_bar_float64"], atol=1e-12, rtol=1e-12)
    for step in steps:
        model = pixels(step * 1000 / config["n_diffusion_timesteps"])
        for dtype in DTYPES:
            found = model.source(recorded["x_start"].to(dtype), recorded["noise"].to(dtype))
            close(found, recorded[f"x_t_{step}"], case.config["tolerance"], f"step {step} in {dtype}")
    inputs = {"t", "alpha_bar_float64", "noise", "x_start"}
    assert recorded.keys() == inputs | {f"x_t_{step}" for step in steps}


def pixels(noising_step: float) -> DepthFM:
    blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    sizes = {"block_out_channels": [8], "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 4}
    return DepthFM({**blocks, **sizes}, 1, noising_step)


@torch.no_grad()
def generate(case: Case) -> None:
    recorded, tolerance = case.tensors, case.config["tolerance"]
    runs: dict[str, dict[str, Tensor]] = {}
    for name, value in recorded.items():
        run, dot, key = name.partition(".")
        if dot:
            runs.setdefault(run, {})[key] = value
    paths = {name for name in recorded if name.startswith("trajectory_")}
    assert {name for name in recorded if "." not in name} == {"image", "empty_text_embedding"} | paths
    for dtype in DTYPES:
        model = whole(case, recorded["empty_text_embedding"]).to(dtype)
        image = recorded["image"].to(dtype)
        for name, run in runs.items():
            found = re.fullmatch(r"steps(\d+)(?:_ens(\d+))?", name)
            assert found, name
            made = stages(model, image, run["noise"].to(dtype), int(found[1]))
            assert run.keys() <= made.keys() | {"noise"}
            for key in run.keys() - {"noise"}:
                kind = "depth" if key == "depth" else "latents"
                close(made[key], run[key], tolerance[kind], f"{name}.{key} in {dtype}")
        for name in paths:
            steps, inner = map(int, re.fullmatch(r"trajectory_steps(\d+)_n(\d+)", name).groups())
            noise = runs[f"steps{steps}"]["noise"].to(dtype)
            close(trajectory(model, image, noise, steps, inner), recorded[name], tolerance["latents"], name)


def stages(model: DepthFM, image: Tensor, noise: Tensor, steps: int) -> dict[str, Tensor]:
    """Everything on the way, as recorded; members of an ensemble are rows of the noise."""
    latent = model.codec.encode(image)
    repeated = latent.repeat_interleave(len(noise) // len(image), 0)
    start = model.source(repeated, noise)
    end = model.flow(start, repeated, steps)
    grouped = noise.unflatten(0, (len(image), -1))
    members = model.ensemble(image, grouped, steps)
    prediction = model.predict(image, steps=steps, noise=grouped)
    assert_close(prediction.spread, members.std(1, correction=0))
    if len(noise) == len(image):
        assert_close(model(image, noise, steps), prediction.log_depth)
    return {
        "image_latent": repeated,
        "x_source": start,
        "depth_latent": end,
        "decoded": model.codec.decode(end),
        "log_depth": members.flatten(0, 1),
        "depth": prediction.depth(),
    }


def trajectory(model: DepthFM, image: Tensor, noise: Tensor, steps: int, inner: int) -> Tensor:
    """States at 0, 1 and `inner` even times between, on the straight lines between steps."""
    latent = model.codec.encode(image)
    states: list[FieldStep] = []
    end = model.flow(model.source(latent, noise), latent, steps, states.append)
    grid = [*(state.x for state in states), end]
    seen = []
    for time in torch.linspace(0, 1, inner + 2, dtype=torch.float64).tolist():
        place = min(int(time * steps + 1e-9), steps - 1)
        seen.append(grid[place].lerp(grid[place + 1], time * steps - place))
    return torch.stack(seen)


@torch.no_grad()
def predict_picture(case: Case) -> None:
    recorded, tolerance = case.tensors, case.config["tolerance"]
    text = load_file(case.path / case.config["empty_text_embedding"])["empty_text_embedding"]
    rgb = recorded["image_uint8_hwc"].numpy()
    size = (rgb.shape[1], rgb.shape[0])
    names = {name.partition(".")[0] for name in recorded if name.startswith("res")}
    told = re.search(r"(\d+) Euler steps", case.config["case"])
    steps = int(told[1]) if told else 2
    for dtype in DTYPES:
        model = whole(case, text).to(dtype)
        for name in names:
            limit = max(0, int(name.removeprefix("res")))
            small = shrunk(rgb, processing_size(size, limit, 64))
            picture = torch.from_numpy(small.transpose(2, 0, 1)[None].astype(np.float64) / 127.5 - 1).float()
            assert torch.equal(picture, recorded[f"{name}.input"]) or tolerance["input"]["atol"] > 0
            close(picture, recorded[f"{name}.input"], tolerance["input"], f"{name}.input")
            noise = recorded[f"{name}.noise"].to(dtype)[:, None]
            found = model.predict(picture.to(dtype), steps=steps, noise=noise)
            close(found.depth(), recorded[f"{name}.depth"], tolerance["depth"], f"{name}.depth in {dtype}")
            seen = Seen(found.log_depth[0, 0].float().numpy(), found.spread[0, 0].float().numpy())
            grey = published_grey(seen, size).astype(int)
            assert np.abs(grey - recorded[f"{name}.gray_uint8"].numpy()).max() <= 1, f"{name}.gray_uint8"


def flow_training(case: Case) -> None:
    recorded, config, tolerance = case.tensors, case.config["config"], case.config["tolerance"]
    assert config["sigma_min"] == 0
    model = pixels(config["noising_step"])
    for dtype in DTYPES:
        given = {name: value.to(dtype) for name, value in recorded.items()}
        start = model.source(given["image_latent"], given["noise"])
        close(start, recorded["x0"], tolerance, "x0")
        pairs = Pairs(start, given["depth_latent"], {"latent": given["image_latent"]})
        seen: dict[str, Tensor] = {}

        def toy(x: Tensor, s: Tensor, latent: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            seen["xt"] = x
            seen["toy_velocity"] = 0.3 * x - 0.2 * latent + s.view(-1, 1, 1, 1)
            return seen["toy_velocity"]

        seen["loss"] = flow_loss(toy, pairs, given["t"])
        seen["ut"] = given["depth_latent"] - start
        for name, value in seen.items():
            close(value, recorded[name], tolerance, f"{name} in {dtype}")


RUNNERS = {
    "checkpoint": unet_forward,
    "unet_forward": unet_forward,
    "q_sample": q_sample,
    "generate": generate,
    "ensemble": generate,
    "predict_picture": predict_picture,
    "flow_training": flow_training,
}
