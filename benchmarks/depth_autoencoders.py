"""What a tiny autoencoder costs DepthFM in accuracy, next to the autoencoder that its latents come from.

    python benchmarks/depth_autoencoders.py -o runs/tiny       # two hours of two cores, from nothing
    python benchmarks/depth_autoencoders.py --weights depthfm-v1.ckpt --autoencoder vae --tiny taesd

The first form trains three networks on drawn pictures, in the layout of Stable Diffusion with widths divided
by 4, as `depth.py` times them: an `AutoencoderKL`, an `AutoencoderTiny` that learns to make and to read its
latents, and DepthFM on those of the first. What is trained already in the folder is not trained again. Both
forms then measure DepthFM with each of the two by `depth evaluate`, on drawn pictures of other seeds and on
photographs with true depth (`--pictures FOLDER ...`; without, scikit-image's motorcycle). Without arguments
the figures of the last measurement are shown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from quality_depth import evaluated, means, motorcycle
from tables import autoencoders, results
from torch import Tensor, nn

from depth import full_autoencoder, tiny_autoencoder
from diffusion_suite.core.cli import main as command_line
from diffusion_suite.core.training import SuiteDataModule, SuiteModule, TrainConfig, fit
from diffusion_suite.depth.autoencoders import load_autoencoder, scale_of
from diffusion_suite.depth.data import KeptPictures
from diffusion_suite.depth.mixture import together
from diffusion_suite.depth.normalise import log_depth

SHARE = 4
DRAWN, DRAWN_SIDE = 8000, 128
STEPS = {"full": 2400, "tiny": 1600, "depth": 2400}


def both(batch: dict[str, Tensor]) -> Tensor:
    """Pictures, then their log-depths as pictures, (2 batch, 3, height, width) in about [-1, 1]."""
    return torch.cat([2 * batch["rgb"] - 1, log_depth(batch["depth"]).expand(-1, 3, -1, -1)])


class FullModule(SuiteModule):
    """An `AutoencoderKL`, by absolute error and a slight pull of its latents to a normal distribution."""

    def __init__(self, share: int = SHARE) -> None:
        super().__init__()
        self.model = full_autoencoder(share).train()

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Of a batch of pictures with depth."""
        pictures = both(batch)
        found = self.model.encode(pictures).latent_dist
        noise = torch.randn(found.mean.shape, generator=generator, device=self.device)
        errors = (self.model.decode(found.mean + found.std * noise).sample - pictures).abs()
        rgb, depth = (part.mean() for part in errors.chunk(2))
        divergence = found.kl().mean() / found.mean[0].numel()
        return {"loss": rgb + depth + 1e-4 * divergence, "rgb": rgb, "depth": depth, "kl": divergence}


class TinyModule(SuiteModule):
    """An `AutoencoderTiny` that makes and reads the latents of another autoencoder.

    Args:
        full: folder of that.
        share: divides the widths.
    """

    def __init__(self, full: str, share: int = SHARE) -> None:
        super().__init__()
        self.model = tiny_autoencoder(share).train()
        self.full = load_autoencoder(full).requires_grad_(False)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Of a batch of pictures with depth: errors of latents, and of pictures from drawn true ones."""
        pictures = both(batch)
        with torch.no_grad():
            found = self.full.encode(pictures).latent_dist
            noise = torch.randn(found.mean.shape, generator=generator, device=self.device)
            right, spread = scale_of(self.full) * found.mean, scale_of(self.full) * found.std
        latents = (self.model.encode(pictures).latents - right).square().mean()
        errors = (self.model.decode(right + spread * noise).sample - pictures).abs()
        rgb, depth = (part.mean() for part in errors.chunk(2))
        return {"loss": latents + rgb + depth, "latents": latents, "rgb": rgb, "depth": depth}


def trained(module: SuiteModule, folder: Path, drawn: Path, steps: int, side: int) -> nn.Module:
    """The autoencoder of a module, trained, with its averaged weights."""
    pictures = KeptPictures(drawn, DRAWN, side, 0, drawn_side=DRAWN_SIDE)
    config = TrainConfig(
        steps=steps,
        batch_size=512 // side,
        workers=0,
        learning_rate=1e-3,
        warmup_steps=100,
        ema_decay=0.99,
        precision="bf16",
        checkpoint_every=200,
        trainer={"gradient_clip_val": 1.0},
    )
    last = fit(module, SuiteDataModule(pictures, None, config, collate=together), config, folder)
    best: nn.Module = type(module).from_checkpoint(last).model  # type: ignore[assignment]
    return best


@torch.no_grad()
def deviation(model: Any, drawn: Path) -> float:
    """Standard deviation of the latents of pictures and depths."""
    pictures = KeptPictures(drawn, DRAWN, DRAWN_SIDE, 0)
    batch = together([pictures[index] for index in range(64)])
    return float(model.encode(both(batch)).latent_dist.mode().std())


def train(folder: Path) -> dict[str, str]:
    """Train what is missing in a folder, and tell where the three networks are."""
    drawn = folder / "depth" / "drawn"
    places = {"weights": folder / "depth" / "export", "full": folder / "full", "tiny": folder / "tiny"}
    if not (places["full"] / "config.json").exists():
        full: Any = trained(FullModule(), folder / "run-full", drawn, STEPS["full"], DRAWN_SIDE // 2)
        full.register_to_config(scaling_factor=1 / deviation(full, drawn))
        full.save_pretrained(places["full"])
    if not (places["tiny"] / "config.json").exists():
        module = TinyModule(str(places["full"]))
        tiny: Any = trained(module, folder / "run-tiny", drawn, STEPS["tiny"], DRAWN_SIDE)
        tiny.save_pretrained(places["tiny"])
    if not places["weights"].exists():
        words = [f"autoencoder={places['full']}", f"drawn={DRAWN}", f"side={DRAWN_SIDE}"]
        words += ["widths=[96,160,224]", "attention_from=1", "layers=1", "time_power=2.0", "workers=0"]
        words += [f"steps={STEPS['depth']}", "batch_size=32", "learning_rate=6e-4", "precision=bf16"]
        words += ["checkpoint_every=500", "validate_every=2000", "trainer.gradient_clip_val=1.0"]
        if command_line(["depth", "train", *words, "-o", str(folder / "depth")]):
            raise SystemExit("the training of DepthFM failed")
    return {name: str(place) for name, place in places.items()}


def measured(places: dict[str, str], pictures: list[str], drawn: int) -> list[dict[str, Any]]:
    """Mean figures of DepthFM with each autoencoder."""
    rows = []
    for name in ("full", "tiny"):
        words = [f"weights={places['weights']}", f"autoencoder={places[name]}"]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            chosen = pictures or [str(motorcycle(folder / "motorcycle"))]
            found = means(evaluated(folder / "photographs", *chosen, *words), "photographs")
            if drawn:
                found += means(evaluated(folder / "drawn", f"drawn={drawn}", *words), "drawn")
        rows += [{"autoencoder": name, **row} for row in found]
    return rows


def main() -> None:
    """Train what is missing, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="folder to train in")
    parser.add_argument("--weights", help="trained weights of DepthFM, instead of training")
    parser.add_argument("--autoencoder", help="that goes with them")
    parser.add_argument("--tiny", help="an AutoencoderTiny for them")
    parser.add_argument("--pictures", nargs="*", default=[], help="folders of photographs with depth")
    parser.add_argument("--drawn", type=int, default=96, help="number of drawn pictures")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    given = {"weights": options.weights, "full": options.autoencoder, "tiny": options.tiny}
    if any(given.values()) and not all(given.values()):
        parser.error("give --weights, --autoencoder and --tiny, or none of them")
    if not any(given.values()) and options.output is None:
        print(autoencoders(results("depth_autoencoders")))
        return
    places = given if options.weights else train(options.output)
    content = {"rows": measured(places, options.pictures, options.drawn)}
    print(autoencoders(content))
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
