"""How well each mode restores one real cube, averaged over draws of the noise and the masks.

The cube: Indian Pines (AVIRIS), 128 x 128 pixels, the 31 quiet bands of the demo, each scaled to [0, 1]. It
is degraded in four ways, always with white noise of 0.1; restored with the noise level given and with it
estimated; and scored as the published code does, clipped to [0, 1]. No mode sees the clean cube.

    python benchmarks/quality_geo.py                             # all modes, 3 seeds: about an hour of a CPU
    python benchmarks/quality_geo.py --modes subspace --seeds 1  # a minute; replaces the rows of this mode
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from diffusion_suite.core._version import __version__
from diffusion_suite.geo.restoration.dds2m import DDS2M
from diffusion_suite.geo.restoration.demo import CROP, QUIET_BANDS, indian_pines
from diffusion_suite.geo.restoration.metrics import score
from diffusion_suite.geo.restoration.simulate import degrade, parse

Cube = npt.NDArray[np.float32]
Row = dict[str, str | int | float]

TASKS = ("denoise:0.1", "complete:0.3", "complete:0.1", "sr:4")
MODES = ("subspace", "fit", "prior", "default")
NOISE = 0.1
RESULTS = Path(__file__).parent / "results" / "quality_geo.json"


def clean_cube() -> Cube:
    """(128, 128, 31), each band scaled to [0, 1]."""
    scene, _ = indian_pines()
    cube = scene[CROP, CROP][..., QUIET_BANDS].astype(np.float32)
    return np.asarray((cube - cube.min((0, 1))) / np.ptp(cube, (0, 1)), np.float32)


def measure(clean: Cube, task: str, mode: str, sigma: str, seeds: int, weights: str) -> Row:
    """Mean figures of one mode over seeds.

    Args:
        clean: the cube.
        task: the loss, as `simulate` names it.
        mode: of the restoration.
        sigma: "given" or "estimated".
        seeds: how many draws of noise and mask.
        weights: of the prior.
    """
    loss = parse(task)
    model = DDS2M(mode=mode, weights=weights)  # type: ignore[arg-type]
    figures = []
    for seed in range(seeds):
        degraded = degrade(clean, loss, NOISE, seed)
        start = time.perf_counter()
        restored = model.restore(
            degraded.cube,
            task=loss.task,  # type: ignore[arg-type]
            sigma=degraded.sigma if sigma == "given" else None,
            factor=loss.factor if loss.factor > 1 else None,
            seed=seed,
        )
        seconds = time.perf_counter() - start
        found = score(clean, restored.cube, ratio=loss.factor, clip=True)
        figures.append((found.psnr, found.ssim, found.sam, found.ergas, seconds))
    psnr, ssim, sam, ergas, seconds = (float(round(value, 4)) for value in np.mean(figures, axis=0))
    return {
        "task": task, "mode": mode, "sigma": sigma, "seeds": seeds,
        "psnr": psnr, "ssim": ssim, "sam": sam, "ergas": ergas, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Measure, and write the rows beside those that other runs have left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modes", default=",".join(MODES), help="with commas between them")
    parser.add_argument("--tasks", default=",".join(TASKS), help="with commas between them")
    parser.add_argument("--sigma", default="given,estimated", help="with commas between them")
    parser.add_argument("--seeds", type=int, default=3, help="draws of noise and mask")
    parser.add_argument("--weights", default="starter", help="of prior and default")
    parser.add_argument("--json", type=Path, default=RESULTS, help="file to write the figures to")
    options = parser.parse_args()

    rows: list[Row] = json.loads(options.json.read_text())["rows"] if options.json.is_file() else []
    clean = clean_cube()
    wanted = [
        (task, mode, sigma)
        for mode in options.modes.split(",")
        for task in options.tasks.split(",")
        for sigma in options.sigma.split(",")
    ]
    for task, mode, sigma in wanted:
        row = measure(clean, task, mode, sigma, options.seeds, options.weights)
        print("  ".join(str(value) for value in row.values()), flush=True)
        rows = [old for old in rows if (old["task"], old["mode"], old["sigma"]) != (task, mode, sigma)] + [
            row
        ]
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "suite": __version__}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
