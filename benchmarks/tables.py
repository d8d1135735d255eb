"""Write the measured figures into the Markdown files that show them.

python benchmarks/tables.py            # after quality_geo.py, quality_depth.py, depth.py, ...
python benchmarks/tables.py --check    # fails when a file shows other figures than results/ holds
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

TASKS = {
    "denoise:0.1": "denoising",
    "complete:0.3": "completion, 30 %",
    "complete:0.1": "completion, 10 %",
    "sr:4": "super-resolution ×4",
}
MODES = {
    "subspace": "`subspace`",
    "fit": "`fit`",
    "prior": "`prior`",
    "default": "`default`",
}
# One draw of the same losses on the same cube: the authors' code to its last step, and the best of the
# classical pipelines that open licences allow: eigen-images by wavelets, twice by total variation inside
# plug-and-play, by wavelets and cubic convolution.
OTHERS: dict[str, dict[str, tuple[float, float, float]]] = {
    "DDS2M, published code": {
        "denoise:0.1": (31.63, 0.890, 3.21),
        "complete:0.3": (26.01, 0.717, 5.42),
        "complete:0.1": (16.35, 0.323, 18.92),
        "sr:4": (23.95, 0.583, 6.44),
    },
    "best simple method found": {
        "denoise:0.1": (32.24, 0.895, 3.21),
        "complete:0.3": (29.79, 0.839, 3.73),
        "complete:0.1": (27.27, 0.762, 4.66),
        "sr:4": (24.90, 0.650, 5.69),
    },
}


def summary(rows: list[dict[str, Any]]) -> str:
    """PSNR and spectral angle by task, the noise level given; seconds of the denoising."""
    lines = [
        "| PSNR in dB (spectral angle) | " + " | ".join(TASKS.values()) + " | seconds |",
        "|---|" + "---|" * (len(TASKS) + 1),
    ]
    for name, figures in OTHERS.items():
        cells = [f"{figures[task][0]:.2f} ({figures[task][2]:.1f}°)" for task in TASKS]
        lines.append("| " + " | ".join([name, *cells, ""]) + " |")
    for mode, name in MODES.items():
        found = {row["task"]: row for row in rows if row["mode"] == mode and row["sigma"] == "given"}
        if not found:
            continue
        cells = [
            f"{found[task]['psnr']:.2f} ({found[task]['sam']:.1f}°)" if task in found else ""
            for task in TASKS
        ]
        seconds = f"{found['denoise:0.1']['seconds']:.0f}" if "denoise:0.1" in found else ""
        lines.append("| " + " | ".join([name, *cells, seconds]) + " |")
    draws = sorted({row["seeds"] for row in rows if row["sigma"] == "given"})
    counted = "one draw" if draws == [1] else f"the mean of {' or '.join(map(str, draws))} draws"
    return "\n".join(lines) + f"\n\nOurs: {counted} of noise and mask; the other two: one draw."


def full(rows: list[dict[str, Any]]) -> str:
    """Everything that was measured."""
    lines = [
        "| loss | method | noise level | PSNR, dB | SSIM | SAM, degrees | ERGAS | s | draws |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, title in TASKS.items():
        for name, figures in OTHERS.items():
            psnr, ssim, sam = figures[task]
            lines.append(f"| {title} | {name} | given | {psnr:.2f} | {ssim:.3f} | {sam:.2f} | | | 1 |")
        for mode, name in MODES.items():
            for row in rows:
                if (row["task"], row["mode"]) == (task, mode):
                    figures = f"{row['psnr']:.2f} | {row['ssim']:.3f} | {row['sam']:.2f} | {row['ergas']:.2f}"
                    cells = f"{row['sigma']} | {figures} | {row['seconds']:.1f} | {row['seeds']}"
                    lines.append(f"| {title} | {name} | {cells} |")
    return "\n".join(lines)


DEPTH = {
    "ramp": "a ramp from the bottom to the top",
    "1 step": "starter, 1 step",
    "2 steps": "starter, 2 steps",
    "4 steps": "starter, 4 steps",
}


def depth(content: dict[str, Any]) -> str:
    """AbsRel and delta1 of each photograph, of all, and of drawn pictures."""
    photographs = list(dict.fromkeys(row["picture"] for row in content["rows"]))
    drawn = next(row["pictures"] for row in content["means"] if row["place"] == "drawn")
    titles = [*(name.replace("_", " ") for name in photographs), "mean", f"{drawn} drawn"]
    lines = [
        "| AbsRel (δ1) | " + " | ".join(titles) + " | rank correlation, drawn |",
        "|---|" + "---|" * (len(titles) + 1),
    ]
    for method, name in DEPTH.items():
        rows = {row["picture"]: row for row in content["rows"] if row["method"] == method}
        means = {row["place"]: row for row in content["means"] if row["method"] == method}
        chosen = [*(rows[picture] for picture in photographs), means["photographs"], means["drawn"]]
        cells = [f"{row['abs_rel']:.3f} ({row['delta1']:.2f})" for row in chosen]
        rank = means["drawn"].get("rank_correlation")
        lines.append("| " + " | ".join([name, *cells, "" if rank is None else f"{rank:.2f}"]) + " |")
    return "\n".join(lines)


def depth_cost(content: dict[str, Any]) -> str:
    """Times of the recipes of an ensemble."""
    lines = [
        "| recipe | precision | steps x members | s | share of published time | difference of y |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        off = "" if row["difference"] is None else f"{row['difference']:.1e}"
        run = f"{row['precision']} | {row['steps']} x {row['members']}"
        lines.append(f"| {row['recipe']} | {run} | {row['seconds']:.2f} | {row['share']:.2f} | {off} |")
    return "\n".join(lines)


def autoencoders(content: dict[str, Any]) -> str:
    """AbsRel and delta1 of DepthFM with its autoencoder, and with a tiny one."""
    lines = ["| AbsRel (δ1) | its own autoencoder | the tiny one |", "|---|---|---|"]
    found = {(row["autoencoder"], row["place"], row["method"]): row for row in content["rows"]}
    for name, place, method in found:
        if name == "full" and method != "ramp":
            both = [found[kind, place, method] for kind in ("full", "tiny")]
            cells = [f"{row['abs_rel']:.3f} ({row['delta1']:.3f})" for row in both]
            lines.append("| " + " | ".join([f"{both[0]['pictures']} {place}, {method}", *cells]) + " |")
    return "\n".join(lines)


def replaced(text: str, name: str, table: str) -> str:
    """The text with the table between `<!-- table: name -->` and `<!-- end -->`."""
    pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"there is no place for the table '{name}'")
    return pattern.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text)


def results(name: str) -> dict[str, Any]:
    """What a script measured."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 where figures differ"
    )
    options = parser.parse_args()
    rows = results("quality_geo")["rows"]
    stale = []
    for path, name, table in (
        (ROOT / "README.md", "geo", summary(rows)),
        (ROOT / "benchmarks" / "README.md", "quality", full(rows)),
        (ROOT / "packages" / "depth" / "README.md", "depth", depth(results("quality_depth"))),
        (ROOT / "benchmarks" / "README.md", "depth", depth(results("quality_depth"))),
        (ROOT / "benchmarks" / "README.md", "depth cost", depth_cost(results("depth"))),
        (
            ROOT / "benchmarks" / "README.md",
            "autoencoders",
            autoencoders(results("depth_autoencoders")),
        ),
    ):
        text = path.read_text(encoding="utf-8")
        fresh = replaced(text, name, table)
        if fresh != text and options.check:
            stale.append(path.relative_to(ROOT))
        elif fresh != text:
            path.write_text(fresh, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    if stale:
        sys.exit(
            f"{', '.join(map(str, stale))}: other figures than in results; run python benchmarks/tables.py"
        )


if __name__ == "__main__":
    main()
