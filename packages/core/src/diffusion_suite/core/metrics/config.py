"""Settings of ``core evaluate``: imports neither torch nor NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_suite.core.config import opt
from diffusion_suite.core.errors import ConfigError

METRICS = {
    "fd": "Fréchet distance",
    "fd_infinity": "Fréchet distance extrapolated to infinitely many generated items",
    "kd": "kernel distance, mean over subsets",
    "kd_full": "kernel distance of all items at once",
    "precision": "share of generated items among the real ones",
    "recall": "share of real items among the generated ones",
    "density": "how many real balls hold a generated item, over k",
    "coverage": "share of real items with a generated one nearby",
    "realism": "median realism of the generated items",
    "vendi": "effective number of different items, generated and real",
    "sliced_wasserstein": "closed approximation of the sliced Wasserstein distance",
    "dimension_mle": "intrinsic dimension by Levina and Bickel, generated and real",
    "dimension_two_nn": "intrinsic dimension by two nearest neighbours, generated and real",
    "authpct": "percentage of generated items that copy no training item",
    "ct": "C_T: below 0, generated items lie nearer to training items than test items do",
}
"""Every metric of the command, with what it says."""

MEMORISATION = ("authpct", "ct")
"""Those that need a training and a test set as well."""


@dataclass
class EvaluateConfig:
    """Settings of ``core evaluate``."""

    metrics: list[str] = opt(
        ["fd", "kd", "precision", "recall", "density", "coverage"], "what to compute", choices=tuple(METRICS)
    )
    encoder: str = opt(
        "pixels",
        "what turns pictures into features: pixels (one size only, says little of how pictures look), or an "
        "encoder: efficientnet-lite0, a folder, a hub id such as facebook/dinov2-large",
    )
    cache: str | None = opt(
        None, "folder that keeps what an encoder said of a picture for the next time", hashed=False
    )
    download: bool = opt(False, "let the encoder of a hub id be fetched", hashed=False)
    encoder_name: str | None = opt(
        None, "what results call the encoder; null = its own name, 'features' for files of features"
    )
    train: str | None = opt(None, "pictures or features that the generator was trained on: for authpct, ct")
    test: str | None = opt(None, "real ones that it was not trained on: for authpct, ct")
    key: str | None = opt(None, "array to read in a .npz file that holds several")
    k: int = opt(5, "neighbours of precision, recall, density, coverage and realism", ge=1)
    subsets: int = opt(100, "subsets of kd", ge=1)
    subset_size: int = opt(1000, "items of a subset of kd, at most those of the smaller set", ge=2)
    order: float = opt(
        1.0, "order of the Vendi score; .inf counts the commonest kind alone", ge=0, finite=False
    )
    cells: int = opt(3, "cells of ct", ge=1)
    bootstrap: int = opt(20, "resamples behind each standard error; 0 = none, and faster", ge=0)
    batch_size: int = opt(32, "pictures that the encoder takes at once", ge=1, hashed=False)
    device: str = opt("auto", "auto, cpu, cuda, cuda:1 or mps", hashed=False)
    seed: int = opt(0, "of subsets, cells and resamples")
    overwrite: bool = opt(False, "replace the file of results", hashed=False)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.metrics:
            raise ConfigError("metrics is empty", f"choose from {', '.join(METRICS)}", key="metrics")
        if self.bootstrap == 1:
            raise ConfigError("bootstrap=1 gives no spread", "give 0, or 20 or more", key="bootstrap")
        wanted = [name for name in self.metrics if name in MEMORISATION]
        missing = [name for name in ("train", "test") if getattr(self, name) is None]
        if wanted and missing:
            raise ConfigError(
                f"'{wanted[0]}' tells copies of training items from new ones and needs "
                f"{' and '.join(missing)} beside REAL and FAKE",
                f"give {' '.join(f'{name}=FOLDER' for name in missing)}",
                key="metrics",
            )
