"""Make docs/pictures/depth.jpg, the picture of the depth package: python docs/pictures/depth.py."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from diffusion_suite.depth.demo import PHOTOGRAPHS, run

PATH = Path(__file__).with_suffix(".jpg")
ROWS = {"photograph": ".jpg", "depth (red is near)": "_color.png", "uncertainty": "_uncertainty.png"}
HEIGHT = 220


def main() -> None:
    """Predict the demo's photographs and lay the results out, a column each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="starter", help="as the setting of depth predict")
    weights = parser.parse_args().weights
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, weights)
        panels = {
            (row, picture): shown(folder / f"{picture}{ending}")
            for row, ending in ROWS.items()
            for picture in PHOTOGRAPHS
        }
    widths = [panels["photograph", picture].shape[1] for picture in PHOTOGRAPHS]
    figure = Figure(figsize=(sum(widths) / 100, len(ROWS) * HEIGHT / 100), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, hspace=0, wspace=0)  # type: ignore[call-arg]
    grid = figure.add_gridspec(len(ROWS), len(PHOTOGRAPHS), width_ratios=widths)
    for (row, picture), panel in panels.items():
        place = list(ROWS).index(row), list(PHOTOGRAPHS).index(picture)
        axes = figure.add_subplot(grid[place])
        axes.imshow(panel)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if place[1] == 0:
            axes.set_ylabel(row, fontsize=9)
    figure.savefig(PATH, dpi=100, facecolor="white", pil_kwargs={"quality": 88, "optimize": True})
    print(f"{PATH.name}: {PATH.stat().st_size // 1024} KB")


def shown(path: Path) -> np.ndarray:
    """A picture at the grid's height."""
    picture = Image.open(path).convert("RGB")
    width = round(picture.width * HEIGHT / picture.height)
    return np.asarray(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
