"""How good the depth of the starter weights is, on photographs with true depth and on drawn pictures.

    python benchmarks/quality_depth.py                           # scikit-image's motorcycle, drawn pictures
    python benchmarks/quality_depth.py --pictures FOLDER         # photographs with depth of your own as well
    python benchmarks/quality_depth.py --json benchmarks/results/quality_depth.json

Each prediction is fitted to the truth by scale and shift, and is that of `depth evaluate` with its defaults
(4 members). The ramp, which rises from the bottom to the top whatever the picture shows, is what a network
has to beat. Drawn pictures are of other seeds than those of the training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffusion_suite.core.cli import main as command_line
from diffusion_suite.depth.demo import samples

STEPS = ("1 step", "2 steps", "4 steps")
FIGURES = ("abs_rel", "delta1", "rank_correlation")


def evaluated(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Rows of `depth evaluate`, a picture and method each."""
    fixed = ["more_steps=[1,4]", "alignments=[affine]", "pictures=false", "overwrite=true"]
    code = command_line(["depth", "evaluate", *words, *fixed, "-o", str(folder)])
    if code:
        raise SystemExit(code)
    rows: list[dict[str, Any]] = json.loads((folder / "scores.json").read_text())["pictures"]
    return rows


def motorcycle(folder: Path) -> Path:
    """The photograph of scikit-image with its true depth, as a folder that `depth evaluate` reads."""
    photographs, truth = samples()
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(photographs["motorcycle"]).save(folder / "rgb" / "motorcycle.png")
    np.save(folder / "depth" / "motorcycle.npy", truth)
    return folder


def brief(rows: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """The figures that are kept of rows."""
    return [
        {"place": place, "picture": row["picture"], "method": row["method"]}
        | {name: round(row[name], 4) for name in FIGURES if row.get(name) is not None}
        for row in rows
    ]


def means(rows: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """Means by method, each picture of the same weight."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == method]
        entry: dict[str, Any] = {"place": place, "pictures": len(chosen), "method": method}
        for name in FIGURES:
            values = [row[name] for row in chosen if row.get(name) is not None]
            if values:
                entry[name] = round(float(np.mean(values)), 4)
        found.append(entry)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", nargs="*", default=[], help="folders of photographs with depth")
    parser.add_argument("--drawn", type=int, default=96, help="number of drawn pictures")
    parser.add_argument("--weights", default="starter", help="as the setting of depth predict")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    weights = f"weights={options.weights}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single = str(motorcycle(folder / "motorcycle"))
        photographs = evaluated(folder / "photographs", *(options.pictures or [single]), weights)
        drawn = evaluated(folder / "drawn", f"drawn={options.drawn}", weights) if options.drawn else []
    rows = brief(photographs, "photograph")
    total = means(photographs, "photographs") + means(drawn, "drawn")
    for row in total:
        print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "means": total}, indent=1) + "\n")


if __name__ == "__main__":
    main()
