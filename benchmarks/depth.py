"""What an ensemble of DepthFM costs, next to the recipe of the published code.

Both run in one process on the same random weights and the same noise, and their outputs are compared. The
published recipe repeats the picture for every member, encodes each copy, keeps the state of the flow in the
type that the network computes in, decodes every member and averages. Ours encodes the picture once.

Networks have the layout and size of Stable Diffusion 2.1; `--share` divides all widths, where little memory
or patience is at hand, and with them the share of what is computed in convolutions.

    python benchmarks/depth.py                                   # minutes on two cores, 12 GB
    python benchmarks/depth.py --share 4                         # a minute
    python benchmarks/depth.py --side 512 --device cuda

What an `AutoencoderTiny` costs in accuracy needs trained weights: `depth_autoencoders.py` measures it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import autoencoders, depth_cost, results
from torch import Tensor, nn

from diffusion_suite.core.seeding import generator, seeded
from diffusion_suite.depth.autoencoders import STABLE_DIFFUSION, make_autoencoder
from diffusion_suite.depth.config import NetworkKeys
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.predictor import Predictor

PUBLISHED, OURS, TINY = "published recipe", "ours", "ours, tiny autoencoder"
RECIPES = (PUBLISHED, OURS, TINY)
DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Row:
    """One line of the table.

    Attributes:
        recipe: what ran.
        precision: 32 or bf16.
        steps, members: of the ensemble.
        seconds: least of the rounds.
        share: of the published recipe's time, the median over rounds of ratios within a round.
        difference: greatest absolute difference of the mean log-depth from the published recipe's in the
            first precision.
    """

    recipe: str
    precision: str
    steps: int
    members: int
    seconds: float
    share: float
    difference: float | None = None


def network(share: int) -> DepthFM:
    """The published layout with random weights, on an `AutoencoderKL`."""
    base = 320 // share
    widths = [base, 2 * base, 4 * base, 4 * base]
    unet: dict[str, Any] = {
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "attention_head_dim": [width // (base // 5) for width in widths],
        "cross_attention_dim": 1024 // share,
        "use_linear_projection": True,
        "norm_num_groups": 32 if base % 32 == 0 else 16,
    }
    with seeded("benchmark"):
        model = DepthFM(unet, 0, text_tokens=77)
        assert model.text_embedding is not None
        model.text_embedding = torch.randn(model.text_embedding.shape)
    model.attach_autoencoder(full_autoencoder(share))
    return model.eval()


def full_autoencoder(share: int) -> nn.Module:
    """Stable Diffusion's `AutoencoderKL` with random weights, its widths divided."""
    width = 128 // share
    widths = [width, 2 * width, 4 * width, 4 * width]
    shape = {"block_out_channels": widths, "norm_num_groups": min(32, width)}
    with seeded("full"):
        return make_autoencoder({**STABLE_DIFFUSION, **shape}).eval()


def tiny_autoencoder(share: int) -> nn.Module:
    """An `AutoencoderTiny` with random weights."""
    from diffusers import AutoencoderTiny

    widths = [64 // share] * 4
    with seeded("tiny"):
        return AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths).eval()


@torch.no_grad()
def published(model: DepthFM, picture: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Mean log-depth (1, 1, h, w) by the recipe of the published code; noise (members, channels, h, w)."""
    copies = picture.expand(len(noise), -1, -1, -1)
    latent = model.codec.encode(copies)
    x = model.alpha * latent + model.sigma * noise.to(latent.dtype)
    for step in range(steps):
        s = torch.full((len(x),), step / steps, device=x.device)
        x = x + model.velocity(x, s, latent) / steps
    return model.codec.decode(x).float().mean(1, keepdim=True).mean(0, keepdim=True)


def ours(model: DepthFM, picture: Tensor, noise: Tensor, steps: int) -> Tensor:
    """The same by our ensemble."""
    return model.ensemble(picture, noise[None], steps).float().mean(1)


class Bench:
    """One network in one precision: as published, and as `depth predict` has it, on both autoencoders."""

    def __init__(self, options: argparse.Namespace, device: torch.device, precision: str) -> None:
        dtype = DTYPES[precision]
        self.device = device
        plain, own, tiny = (network(options.share) for _ in RECIPES)
        tiny.unet = own.unet
        tiny.attach_autoencoder(tiny_autoencoder(options.share))
        settings = NetworkKeys(device=str(device), precision=precision)
        self.models = {
            PUBLISHED: plain.to(device, dtype),
            OURS: Predictor(own, settings).model,
            TINY: Predictor(tiny, settings).model,
        }
        picture = torch.rand(1, 3, options.side, options.side, generator=generator("picture")) * 2 - 1
        self.picture = picture.to(device, dtype)

    def timed(self, recipe: str, noise: Tensor, steps: int) -> tuple[float, Tensor]:
        """Seconds and mean log-depth of one call."""
        run = published if recipe == PUBLISHED else ours
        self._wait()
        start = time.perf_counter()
        result = run(self.models[recipe], self.picture, noise, steps)
        self._wait()
        return time.perf_counter() - start, result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def compared(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Times of the recipes, taken in turns, so that a busy machine slows all of them alike."""
    rows = []
    exact: dict[tuple[int, int], Tensor] = {}
    for precision in options.precisions.split(","):
        bench = Bench(options, device, precision)
        for steps, members in ((2, 4), (1, 1)):
            shape = (members, 4, options.side // 8, options.side // 8)
            noise = torch.randn(shape, generator=generator("noise")).to(device)
            seconds: dict[str, list[float]] = {name: [] for name in RECIPES}
            results: dict[str, Tensor] = {}
            for turn in range(options.rounds + options.warmup):
                for name in RECIPES:
                    took, results[name] = bench.timed(name, noise, steps)
                    if turn >= options.warmup:
                        seconds[name].append(took)
            right = exact.setdefault((steps, members), results[PUBLISHED])
            for name, taken in seconds.items():
                ratio = float(np.median(np.array(taken) / np.array(seconds[PUBLISHED])))
                off = None if name == TINY else float((results[name] - right).abs().max())
                rows.append(Row(name, precision, steps, members, min(taken), ratio, off))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=int, default=1, choices=(1, 2, 4), help="divides all widths")
    parser.add_argument("--side", type=int, default=256, help="of the picture in pixels")
    parser.add_argument("--rounds", type=int, default=2, help="timed rounds")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", default="32,bf16", help="with commas")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    device = torch.device(options.device)
    rows = compared(options, device)
    content = {"share": options.share, "side": options.side, "rows": [asdict(row) for row in rows]}
    print(depth_cost(content))
    print("\nAccuracy with a tiny autoencoder, as depth_autoencoders.py measured it:\n")
    print(autoencoders(results("depth_autoencoders")))
    if options.json:
        machine = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n")


if __name__ == "__main__":
    main()
