"""Settings of the commands."""

from dataclasses import dataclass

from diffusion_suite.core.config import opt
from diffusion_suite.core.training.config import TrainConfig


@dataclass
class Train(TrainConfig):
    width: int = opt(3, "features", ge=1)


@dataclass
class Predict:
    strength: float = opt(0.1, "standard deviation of the noise", ge=0)
    seed: int = opt(0, "seed of the noise")
    overwrite: bool = opt(False, "replace outputs", hashed=False)


@dataclass
class Info:
    digits: int = opt(3, "digits shown", ge=1)
