"""A training run of its own process, for the test that runs it on two: FOLDER DEVICES BATCH_SIZE."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from pairs_on_disk import room
from pictures_on_disk import drawn
from torch.utils.data import Dataset

from diffusion_suite.core import seeding
from diffusion_suite.core.training import SuiteDataModule, fit
from diffusion_suite.depth.config import TrainDepthConfig
from diffusion_suite.depth.mixture import together
from diffusion_suite.depth.module import DepthModule


class Pictures(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        rgb = torch.from_numpy(drawn(32, 32, index)).permute(2, 0, 1) / 255
        return {"rgb": rgb, "depth": torch.from_numpy(room(32, 32, index)).float()[None], "number": index}


class AtGivenTimes(DepthModule):
    """Items carry their noise and time, because those of a step are keyed by the rank."""

    def loss(self, batch, generator):
        latent, target, cells = self.latents(batch, generator)
        noise = torch.stack(
            [
                torch.randn(latent.shape[1:], generator=seeding.generator("item", int(n)))
                for n in batch["number"]
            ]
        )
        return self.objective(latent, target, cells, noise, (batch["number"] % 4) / 4)


def main(folder: str, devices: str, size: str) -> None:
    config = TrainDepthConfig(
        steps=6,
        batch_size=int(size),
        workers=0,
        warmup_steps=2,
        learning_rate=1e-4,
        ema_decay=0.9,
        precision="64",
        trainer={"accelerator": "cpu", "devices": int(devices)},
    )
    with seeding.seeded(0, "weights"):
        module = AtGivenTimes([32, 32], 1, 1, side=32, normals_weight=0.2, normals_from=0.0)
    fit(module, SuiteDataModule(Pictures(), None, config, together), config, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
