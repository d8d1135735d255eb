"""What a Fréchet distance costs, next to torchmetrics' route through general eigenvalues.

Both routes in one process, in float64, the fastest of some runs each, in turn. The clock starts from moments
(means and covariances, which torchmetrics' metric keeps) or from features. Variances fall as 1/rank; where
they are "steep", by twelve orders of magnitude, our route needs singular values to keep its digits.

    python benchmarks/core.py                       # d = 2048, n = 5000: about a minute
    python benchmarks/core.py --widths 256,512      # seconds
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from diffusion_suite.core import seeding
from diffusion_suite.core.metrics import Moments, frechet_distance


@dataclass
class Row:
    """One line of the table.

    Attributes:
        width: features an item, d.
        items: of each set, n.
        case: what the clock starts from, and what is special.
        device: where.
        ours: seconds.
        torchmetrics: seconds.
        ratio: torchmetrics' over ours.
        difference: of the two distances, relative.
    """

    width: int
    items: int
    case: str
    device: str
    ours: float
    torchmetrics: float
    ratio: float
    difference: float


def features(items: int, width: int, name: str, steep: bool, device: torch.device) -> Tensor:
    """Correlated features whose variances fall as 1/rank, or by twelve orders of magnitude."""
    draw = seeding.generator("benchmark", name, width, items)
    ranks = torch.arange(1, width + 1, dtype=torch.float64)
    scales = torch.logspace(0, -6, width, dtype=torch.float64) if steep else ranks.rsqrt()
    mixing = torch.randn(width, width, generator=draw, dtype=torch.float64) / width**0.5
    values = torch.randn(items, width, generator=draw, dtype=torch.float64) * scales
    mixed: Tensor = values if steep else values @ (torch.eye(width) + mixing)
    return mixed.to(device)


def fastest(
    own: Callable[[], float], other: Callable[[], float], runs: int, device: torch.device
) -> list[tuple[float, float]]:
    """Least seconds of some runs and the result, of both, run in turn."""
    found = [(float("inf"), 0.0), (float("inf"), 0.0)]
    for _ in range(runs):
        for place, run in enumerate((own, other)):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            value = run()
            found[place] = (min(found[place][0], time.perf_counter() - start), value)
    return found


Given = Tensor | Moments


def theirs(real: Given, fake: Given) -> float:
    """torchmetrics' distance; of features, after their means and covariances."""
    one, two = (Moments(x.mean(0), x.T.cov()) if isinstance(x, Tensor) else x for x in (real, fake))
    return float(_compute_fid(one.mean, one.covariance, two.mean, two.covariance))


def measured(width: int, items: int, runs: int, device: torch.device) -> list[Row]:
    """Both routes, from moments and from features, of many and of few items."""
    cases = {
        "moments": items,
        "moments, steep": items,
        "features": items,
        "features, few": width // 2,
    }
    rows = []
    for case, count in cases.items():
        sets: list[Given] = [features(count, width, name, "steep" in case, device) for name in ("a", "b")]
        if case.startswith("moments"):
            sets = [Moments.of(x) for x in sets if isinstance(x, Tensor)]
        own, other = partial(frechet_distance, *sets), partial(theirs, *sets)
        (ours, value), (seconds, reference) = fastest(own, other, runs, device)
        difference = abs(value - reference) / abs(reference)
        rows.append(Row(width, count, case, device.type, ours, seconds, seconds / ours, difference))
    return rows


def printed(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| d | n | from | device | ours, s | torchmetrics, s | ratio | relative difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [str(row.width), str(row.items), row.case, row.device, f"{row.ours:.2f}"]
        cells += [f"{row.torchmetrics:.2f}", f"{row.ratio:.1f}", f"{row.difference:.1e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", default="1024,2048", help="features an item, with commas")
    parser.add_argument("--items", type=int, help="of each set; 5000 for d = 2048, else in proportion")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, of which the fastest counts")
    parser.add_argument("--threads", type=int, help="threads of torch; as many as it takes itself")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    warnings.filterwarnings("ignore", "fewer than")
    if options.threads:
        torch.set_num_threads(options.threads)
    devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
    rows: list[Row] = []
    for device in devices:
        for width in map(int, options.widths.split(",")):
            items = options.items or round(width * 5000 / 2048)
            rows += measured(width, items, options.runs, device)
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
