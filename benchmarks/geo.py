"""What the restoration of one hyperspectral cube costs, next to DDS2M as it was published.

The cube: Indian Pines (AVIRIS), the part and the quiet bands of the demo, each band scaled to [0, 1], white
noise of 0.1. Every method is told the noise level, as the published code must be. All run in one process. The
published recipe's time is that of its steps with a network; those before the first of them are not counted.

    python benchmarks/geo.py                 # a few minutes: the published recipe from its seconds per step
    python benchmarks/geo.py --full          # runs the published recipe to its end, half an hour of a CPU
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diffusion_suite.core import seeding
from diffusion_suite.core.inverse import Identity
from diffusion_suite.geo.restoration.chain import ChainStep, reverse_process
from diffusion_suite.geo.restoration.dds2m import DDS2M
from diffusion_suite.geo.restoration.demo import CROP, QUIET_BANDS, indian_pines
from diffusion_suite.geo.restoration.fit import restore_fit
from diffusion_suite.geo.restoration.measurement import Whitened, signal_subspace
from diffusion_suite.geo.restoration.metrics import score
from diffusion_suite.geo.restoration.network import VS2M
from diffusion_suite.geo.restoration.paper import PUBLISHED, PUBLISHED_RANK
from diffusion_suite.geo.restoration.simulate import degrade, parse
from diffusion_suite.geo.restoration.statistics import gather

Cube = npt.NDArray[np.float32]

SIGMA = 0.1
PUBLISHED_STEPS = 1001
PUBLISHED_PSNR = 31.63
"""What the published code reaches on the whole cube at the end of its 1001 steps with a network, dB."""


@dataclass
class Row:
    """One line of the table; times in seconds, PSNR in dB.

    Attributes:
        method: what ran.
        device: where.
        psnr: at the end; None where the recipe was not run to its end.
        seconds: to the end; extrapolated from `per_step` where psnr is None.
        to_published: until the estimate reached the published recipe's final PSNR; None if it never did.
        per_step: one step with the network, mean.
        share: time to the published PSNR (else to the end) over the whole time of the published form.
    """

    method: str
    device: str
    psnr: float | None
    seconds: float
    to_published: float | None = None
    per_step: float | None = None
    share: float | None = None


class Clock:
    """Seconds since the start, those spent on scoring left out."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.left_out = device, 0.0
        self.start = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def read(self) -> float:
        return self._now() - self.start - self.left_out

    def score(self, clean: Cube, restored: Cube) -> float:
        before = self._now()
        psnr = score(clean, restored, clip=True).psnr
        self.left_out += self._now() - before
        return psnr


class OneByOne(nn.Module):
    """VS2M as published: a pair of networks for each rank, run one after another."""

    def __init__(self, rank: int, height: int, width: int, bands: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(VS2M(1, height, width, bands, seed=index) for index in range(rank))

    def factors(self) -> tuple[Tensor, Tensor]:
        images, spectra = zip(*(pair.factors() for pair in self.pairs), strict=True)  # type: ignore[operator]
        return torch.cat(images), torch.cat(spectra)

    def combine(self, images: Tensor, spectra: Tensor) -> Tensor:
        return (spectra.T @ images.flatten(1)).reshape(-1, *images.shape[1:])


def host_work(clean: Cube) -> Callable[[ChainStep], None]:
    """What the published code does on the host after each step: copies, the product again, three PSNRs."""
    target, (height, width, bands) = clean.transpose(2, 0, 1), clean.shape
    images = np.ones((height * width, PUBLISHED_RANK), np.float32)
    spectra = np.ones((PUBLISHED_RANK, bands), np.float32)

    def work(step: ChainStep) -> None:
        state = step.estimate.cpu().numpy()
        column_major = state.transpose(1, 2, 0).reshape(-1, bands, order="F")
        torch.from_numpy(np.ascontiguousarray(column_major)).to(step.estimate.device)
        product = (images @ spectra).reshape(height, width, bands, order="F").transpose(2, 0, 1)
        for estimate in (state, product, np.clip(state, 0, 1)):
            np.mean([-10 * np.log10(np.mean((a - b) ** 2)) for a, b in zip(estimate, target, strict=True)])

    return work


def published(noisy: Cube, clean: Cube, device: torch.device, merged: bool, steps: int, full: bool) -> Row:
    """The published recipe, merged as ours or as it was; without `full` only some of its steps are timed."""
    height, width, bands = noisy.shape
    network = (
        VS2M(PUBLISHED_RANK, height, width, bands)
        if merged
        else OneByOne(PUBLISHED_RANK, height, width, bands)
    )
    settings = PUBLISHED["denoise"]
    if not merged:
        # A weight that changes nothing: the total variation is computed and differentiated, as published.
        settings = replace(settings, tv=1e-30, diagnostics=True)
    if not full:
        settings = replace(settings, start=1)
    after, clock = None if merged else host_work(clean), Clock(device)
    ticks: list[float] = []
    reached: list[float] = []

    def callback(step: ChainStep) -> bool:
        if step.loss is None:
            return False
        if after is not None:
            after(step)
        ticks.append(clock.read())
        if full and not reached and len(ticks) % 25 == 0:
            psnr = clock.score(clean, step.estimate.permute(1, 2, 0).cpu().numpy())
            reached.extend([clock.read()] if psnr >= PUBLISHED_PSNR else [])
        return not full and len(ticks) > steps

    y = torch.from_numpy(2 * noisy - 1).permute(2, 0, 1)[None].contiguous().to(device)
    noise = seeding.generator("benchmark", device=device)
    operator = Identity(bands, height, width)
    cube, _ = reverse_process(network.to(device), operator, y, 2 * SIGMA, settings, noise, callback)  # type: ignore[arg-type]
    per_step = float(np.mean(np.diff(ticks)))
    name = "published, ranks merged" if merged else "published, as it was"
    if not full:
        return Row(name, device.type, None, per_step * PUBLISHED_STEPS, per_step=per_step)
    psnr = clock.score(clean, cube.permute(1, 2, 0).cpu().numpy())
    return Row(name, device.type, psnr, clock.read(), reached[0] if reached else None, per_step)


def mode(name: str, noisy: Cube, clean: Cube, device: torch.device, weights: str) -> Row:
    """One of our modes, whole, with the weights loaded before the clock starts."""
    model = DDS2M(mode=name, weights=weights, device=device.type)  # type: ignore[arg-type]
    if name != "subspace":
        _ = model.prior
    clock = Clock(device)
    restored = model.restore(noisy, task="denoise", sigma=SIGMA)
    seconds = clock.read()
    psnr = clock.score(clean, restored.cube)
    return Row(name, device.type, psnr, seconds, seconds if psnr >= PUBLISHED_PSNR else None)


def fitted(noisy: Cube, clean: Cube, device: torch.device) -> Row:
    """The fit from nothing, with the time its estimate first reached the published PSNR."""
    clock = Clock(device)
    observed = np.ones(noisy.shape, bool)
    mean = gather([(noisy, observed)]).mean
    measured = Whitened.of(noisy, observed, mean, np.full(noisy.shape[-1], SIGMA, np.float32))
    reached: list[float] = []

    def callback(_: int, cube: Cube) -> None:
        seconds = clock.read()
        if not reached and clock.score(clean, cube) >= PUBLISHED_PSNR:
            reached.append(seconds)

    found, log = restore_fit(measured, signal_subspace(measured, None), device=device, callback=callback)
    seconds = clock.read()
    steps = sum(max(errors) for errors in log["withheld_error"])
    psnr = clock.score(clean, found.values())
    return Row("fit", device.type, psnr, seconds, reached[0] if reached else None, seconds / steps)


def printed(rows: list[Row]) -> str:
    """The table in Markdown."""

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = [
        "| method | device | PSNR, dB | s | s to published PSNR | s a step | share of published time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [cell(row.psnr, ".2f"), cell(row.seconds, ".1f"), cell(row.to_published, ".1f")]
        cells += [cell(row.per_step, ".3f"), cell(row.share, ".2%")]
        lines.append("| " + " | ".join([row.method, row.device, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="rows and columns of the cube, 128 at most")
    parser.add_argument("--steps", type=int, default=5, help="steps of the published recipe that are timed")
    parser.add_argument("--full", action="store_true", help="run the published recipe to its end")
    parser.add_argument("--modes", default="subspace,prior,default,fit", help="which of ours, with commas")
    parser.add_argument("--weights", default="starter", help="of prior and default")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    scene, _ = indian_pines()
    clean = scene[CROP, CROP][: options.size, : options.size, QUIET_BANDS].astype(np.float32)
    clean = (clean - clean.min((0, 1))) / np.ptp(clean, (0, 1))
    noisy = degrade(clean, parse(f"denoise:{SIGMA}"), seed=options.seed).cube
    rows = []
    for device in [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available():
        of_device = [
            published(noisy, clean, device, merged, options.steps, options.full) for merged in (False, True)
        ]
        for name in options.modes.split(","):
            of_device.append(
                fitted(noisy, clean, device)
                if name == "fit"
                else mode(name, noisy, clean, device, options.weights)
            )
        for row in of_device:
            row.share = (row.to_published or row.seconds) / of_device[0].seconds
        rows += of_device
    print(printed(rows))
    if options.json:
        machine = {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "cpu": platform.processor(),
        }
        options.json.write_text(
            json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1)
        )


if __name__ == "__main__":
    main()
