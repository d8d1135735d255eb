"""Make docs/pictures/geo.png, the picture of README: python docs/pictures/geo.py [--mode default]."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffusion_suite.geo.restoration.dds2m import DDS2M
from diffusion_suite.geo.restoration.demo import CROP, QUIET_BANDS, indian_pines
from diffusion_suite.geo.restoration.metrics import score
from diffusion_suite.geo.restoration.plots import Look, draw_spectra
from diffusion_suite.geo.restoration.simulate import degrade, parse

PATH = Path(__file__).with_suffix(".png")


def main() -> None:
    """Degrade, restore, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="default", help="of the restoration")
    mode = parser.parse_args().mode
    scene, centres = indian_pines()
    clean, wavelengths = scene[CROP, CROP][..., QUIET_BANDS].astype(np.float32), centres[QUIET_BANDS]
    degraded = degrade(clean, parse("denoise:0.1")).cube
    restored = DDS2M(mode).restore(degraded).cube
    panels = {
        f"degraded, {score(clean, degraded).psnr:.1f} dB": degraded,
        f"restored, {score(clean, restored).psnr:.1f} dB": restored,
        "clean": clean,
    }
    look = Look.of(clean, wavelengths)
    figure = Figure(figsize=(12.4, 2.75), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 4, width_ratios=[1, 1, 1, 1.35])
    for place, (title, cube) in zip(grid, panels.items(), strict=False):
        axes = figure.add_subplot(place)
        axes.imshow(look.image(cube), interpolation="nearest")
        axes.set_title(title, loc="left", fontsize=10, pad=4)
        axes.set_axis_off()
    axes = figure.add_subplot(grid[3])
    axes.spines[["top", "right"]].set_visible(False)
    draw_spectra(axes, {"degraded": degraded, "restored": restored, "clean": clean}, wavelengths)
    axes.tick_params(labelsize=8)
    figure.savefig(PATH, dpi=110, facecolor="white", bbox_inches="tight", pad_inches=0.04)
    print(f"{PATH.name}: {PATH.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
