"""What an ensemble of DepthFM costs, next to the recipe of the published code.

Both run in one process on the same random weights and the same noise, and their outputs are compared. The
published recipe repeats the picture for every member, encodes each copy, keeps the state of the flow in the
type that the network computes in, decodes every member and averages. Ours encodes the picture once.

Networks have the layout of Stable Diffusion 2.1 with widths divided by `--share`, which keeps the shares of
encoder, network and decoder in the cost; `--share 1` is the full size (needs 5 GB and, on a CPU, minutes).

    python benchmarks/depth.py                                   # a minute or two on two cores
    python benchmarks/depth.py --share 1 --side 512 --device cuda
    python benchmarks/depth.py --weights depthfm-v1.ckpt --autoencoder vae --tiny taesd --pictures references

Only the last form can tell what an `AutoencoderTiny` costs in accuracy: that needs trained weights.
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
from torch import Tensor, nn

from diffusion_suite.core.seeding import generator, seeded
from diffusion_suite.depth.alignment import Estimate, align
from diffusion_suite.depth.config import NetworkKeys
from diffusion_suite.depth.io.maps import resized
from diffusion_suite.depth.load import load_network
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.metrics import score
from diffusion_suite.depth.pairs import pairs_in
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
    from diffusers import AutoencoderKL

    base, width = 320 // share, 128 // share
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
        autoencoder = AutoencoderKL(
            block_out_channels=[width, 2 * width, 4 * width, 4 * width],
            layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            latent_channels=4,
            norm_num_groups=min(32, width),
        )
    model.attach_autoencoder(autoencoder)
    return model.eval()


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
    """One network, on both autoencoders, in one precision.

    The memory layout of the weights is that of the recipe whose turn it is, changed outside the clock.
    """

    def __init__(self, options: argparse.Namespace, device: torch.device, precision: str) -> None:
        dtype = DTYPES[precision]
        self.device = device
        self.model = network(options.share).to(device, dtype)
        self.codecs = {False: self.model.codec}
        self.model.attach_autoencoder(tiny_autoencoder(options.share))
        self.codecs[True] = self.model.codec
        picture = torch.rand(1, 3, options.side, options.side, generator=generator("picture")) * 2 - 1
        self.picture = picture.to(device, dtype)

    def timed(self, recipe: str, noise: Tensor, steps: int) -> tuple[float, Tensor]:
        """Seconds and mean log-depth of one call."""
        layout = torch.contiguous_format if recipe == PUBLISHED else torch.channels_last
        self.model.codec = self.codecs[recipe == TINY]
        self.model.to(memory_format=layout)
        picture = self.picture.contiguous(memory_format=layout)
        run = published if recipe == PUBLISHED else ours
        self._wait()
        start = time.perf_counter()
        result = run(self.model, picture, noise, steps)
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


def accuracy(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Mean AbsRel and delta1 of trained weights with their autoencoder and with a tiny one."""
    found = {}
    for name, autoencoder in (("autoencoder", options.autoencoder), ("tiny", options.tiny)):
        settings = NetworkKeys(weights=options.weights, autoencoder=autoencoder, device=options.device)
        predictor = Predictor(load_network(options.weights, autoencoder), settings)
        scores = []
        for pair in pairs_in(options.pictures, split="test"):
            truth = pair.read()
            valid = np.isfinite(truth.depth)
            seen = predictor.predict([truth.rgb])[0]
            y = resized(seen.y, (truth.depth.shape[1], truth.depth.shape[0]))
            depth = align(Estimate(y, "log_depth"), truth.depth, valid, "affine").depth
            scores.append(score(depth, truth.depth, valid))
        found[name] = {
            "abs_rel": float(np.mean([one.abs_rel for one in scores])),
            "delta1": float(np.mean([one.delta1 for one in scores])),
        }
    return found


def printed(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| recipe | precision | steps x members | s | share of published time | difference of y |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        cells = [row.recipe, row.precision, f"{row.steps} x {row.members}", f"{row.seconds:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{row.share:.2f}", difference]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=int, default=4, choices=(1, 2, 4), help="divides all widths")
    parser.add_argument("--side", type=int, default=256, help="of the picture in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", default="32,bf16", help="with commas")
    parser.add_argument("--weights", help="trained weights, for the accuracy of a tiny autoencoder")
    parser.add_argument("--autoencoder", help="that goes with the weights")
    parser.add_argument("--tiny", help="an AutoencoderTiny for them")
    parser.add_argument("--pictures", help="folder of pictures with depth")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    device = torch.device(options.device)
    rows = compared(options, device)
    print(printed(rows))
    measured = accuracy(options) if options.weights else None
    if measured is not None:
        print(json.dumps(measured, indent=1))
    if options.json:
        machine = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        content = {"machine": machine, "share": options.share, "side": options.side}
        content |= {"rows": [asdict(row) for row in rows], "accuracy": measured}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
