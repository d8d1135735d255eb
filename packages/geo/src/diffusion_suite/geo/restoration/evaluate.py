"""``geo evaluate``: scenes against clean ones, modes against each other, or a report without reference."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import atomic_path, prepare_output
from diffusion_suite.core.progress import say, track
from diffusion_suite.geo.io import SUFFIXES, Scene, open_scene
from diffusion_suite.geo.restoration.config import EvaluateConfig
from diffusion_suite.geo.restoration.metrics import HALO, Scorer, Scores, band_range, score
from diffusion_suite.geo.restoration.outputs import new_folder, scene_files
from diffusion_suite.geo.restoration.plots import Look, save_bars, save_lines, save_panels, save_spectra
from diffusion_suite.geo.restoration.predict import make_method
from diffusion_suite.geo.restoration.quality import Quality, assess
from diffusion_suite.geo.restoration.simulate import Degradation, Degraded, degrade, parse

if TYPE_CHECKING:
    from diffusion_suite.geo.restoration.dds2m import Task

Values = npt.NDArray[np.float32]
Rows = list[dict[str, Any]]

DEFAULT_FOLDER = "evaluation"
SIMULATED_SAMPLES = 1 << 26
FIGURES = ("psnr", "ssim", "sam", "ergas")


def run(request: Request) -> None:
    """Evaluate the scenes that the request names: a table, scores.json, pictures.

    Raises:
        SuiteError: unusable input, or the scores exist already.
    """
    config: EvaluateConfig = request.config
    degradation = parse(config.simulate) if config.simulate else None
    files = scene_files(request.inputs)
    folder = Path(request.output or DEFAULT_FOLDER)
    with new_folder(folder):
        rows: Rows = []
        prepare_output([folder / "scores.json"], config.overwrite)
        for file in files:
            with open_scene(file, config.key, config.nodata) as scene:
                if degradation is not None:
                    rows += compare_modes(scene, degradation, config, folder)
                elif config.reference is not None:
                    rows.append(against_reference(scene, config, folder))
                else:
                    rows += report(scene, config, folder)
        _write_json(folder / "scores.json", rows, request)
    _print_table(rows)
    say(f"scores and pictures are in {folder}")


def against_reference(scene: Scene, config: EvaluateConfig, folder: Path) -> dict[str, Any]:
    """Figures of a restored scene against its clean one, read block by block."""
    reference = str(config.reference)
    if Path(reference).is_dir():
        reference = str(_namesake(scene.path, Path(reference)))
    with open_scene(reference, config.key, config.nodata) as clean:
        if clean.shape != scene.shape:
            shapes = [" x ".join(map(str, one.shape)) for one in (scene, clean)]
            raise InputError(
                f"{scene.path} is {shapes[0]} but {clean.path} is {shapes[1]}", "give scenes of one size"
            )
        found = _score_files(clean, scene, config.ratio)
        true, restored = clean.sample()[0], scene.sample()[0]
    look = Look.of(true, scene.wavelengths)
    name = scene.path.stem
    save_panels(
        folder / f"{name}_compared.png", {"restored": look.image(restored), "clean": look.image(true)}
    )
    bands = {"PSNR": found.psnr_bands}
    save_lines(folder / f"{name}_psnr.png", bands, scene.wavelengths, "PSNR in dB")
    return {"scene": scene.path.name, **found.as_dict()}


def _namesake(path: Path, folder: Path) -> Path:
    stem = path.stem.removesuffix("_restored")
    for candidate in sorted(folder.iterdir()):
        if candidate.stem in (stem, path.stem) and candidate.suffix.lower() in SUFFIXES - {".hdr"}:
            return candidate
    raise InputError(f"{folder} holds no clean scene for {path.name}", f"name it {stem}{path.suffix}")


def _score_files(clean: Scene, restored: Scene, ratio: int) -> Scores:
    scorer = Scorer(*band_range(clean.blocks()), ratio=ratio)
    rows, cols, bands = clean.shape
    height = max(64, (1 << 22) // (cols * bands))
    tops = range(0, rows, height)
    for top in track(tops, "blocks", total=len(tops)):
        bottom = min(rows, top + height)
        first, last = max(0, top - HALO), min(rows, bottom + HALO)
        window = (slice(first, last), slice(0, cols))
        true, seen = clean.read(*window)
        scorer.add(true, restored.read(*window)[0], seen, slice(top - first, bottom - first))
    return scorer.scores()


def compare_modes(scene: Scene, degradation: Degradation, config: EvaluateConfig, folder: Path) -> Rows:
    """Degrade a clean scene, restore it by every mode, and compare."""
    rows, cols, bands = scene.shape
    if rows * cols * bands > SIMULATED_SAMPLES:
        raise InputError(
            f"{scene.path} has {rows} x {cols} x {bands} samples, too many for a simulation in memory",
            f"cut out at most {SIMULATED_SAMPLES // bands} pixels",
        )
    clean = scene.read(slice(0, rows), slice(0, cols))[0]
    if not np.isfinite(clean).any():
        raise InputError(f"{scene.path}: all samples are nodata or NaN", "check nodata=VALUE")
    degraded = degrade(clean, degradation, config.simulate_sigma, config.seed)
    results = {"degraded": _as_it_is(degraded, degradation.factor)}
    seconds = {"degraded": 0.0}
    for mode in track(config.modes, "modes", total=len(config.modes)):
        start = time.perf_counter()
        results[mode] = _restore(degraded, degradation, config, mode)
        seconds[mode] = time.perf_counter() - start
    scores = {mode: score(clean, cube, ratio=degradation.factor) for mode, cube in results.items()}
    name = f"{scene.path.stem}_{str(degradation).replace(':', '_')}"
    shown = {**results, "degraded": degraded.cube.repeat(degradation.factor, 0).repeat(degradation.factor, 1)}
    _comparison_pictures(folder, name, clean, shown, scores, scene.wavelengths)
    shared = {"scene": scene.path.name, "simulate": str(degradation)}
    return [
        {**shared, "mode": mode, **found.as_dict(), "seconds": round(seconds[mode], 2)}
        for mode, found in scores.items()
    ]


def _restore(degraded: Degraded, degradation: Degradation, config: EvaluateConfig, mode: str) -> Values:
    result = make_method(config, mode).restore(
        degraded.cube,
        task=cast("Task", degradation.task),
        sigma=degraded.sigma if config.sigma_known else None,
        factor=degradation.factor if degradation.factor > 1 else None,
        seed=config.seed,
    )
    cube: Values = result.cube
    return cube


def _as_it_is(degraded: Degraded, factor: int) -> Values:
    """The degraded cube itself: pixels repeated, missing samples at the mean of their band."""
    seen = np.isfinite(degraded.cube)
    mean = np.where(seen, degraded.cube, 0).sum(axis=(0, 1)) / np.maximum(seen.sum(axis=(0, 1)), 1)
    filled = np.where(seen, degraded.cube, mean).astype(np.float32)
    return filled.repeat(factor, axis=0).repeat(factor, axis=1)


def _comparison_pictures(
    folder: Path,
    name: str,
    clean: Values,
    results: Mapping[str, Values],
    scores: Mapping[str, Scores],
    wavelengths: npt.NDArray[np.float64] | None,
) -> None:
    look = Look.of(clean, wavelengths)
    panels = {
        f"{mode}, {scores[mode].psnr:.2f} dB": look.image(np.where(np.isfinite(clean), cube, np.nan))
        for mode, cube in results.items()
    }
    save_panels(folder / f"{name}_compared.png", {**panels, "clean": look.image(clean)})
    best = max(set(results) - {"degraded"}, key=lambda mode: scores[mode].psnr)
    curves = {"degraded": results["degraded"], best: results[best], "clean": clean}
    save_spectra(folder / f"{name}_spectra.png", curves, wavelengths, "value in the file")
    titles = {"psnr": "PSNR in dB", "ssim": "SSIM", "sam": "SAM in degrees", "ergas": "ERGAS"}
    bars = {titles[f]: {mode: float(getattr(s, f)) for mode, s in scores.items()} for f in FIGURES}
    save_bars(folder / f"{name}_scores.png", bars)
    bands = {mode: found.psnr_bands for mode, found in scores.items()}
    save_lines(folder / f"{name}_psnr.png", bands, wavelengths, "PSNR in dB")


def report(scene: Scene, config: EvaluateConfig, folder: Path) -> Rows:
    """Figures that need no clean scene, before and after where both are given."""
    found: dict[str, Quality] = {}
    if config.before is not None:
        with open_scene(config.before, config.key, config.nodata) as before:
            if before.shape[2] != scene.shape[2]:
                raise InputError(
                    f"{before.path} has {before.shape[2]} bands but {scene.path} has {scene.shape[2]}",
                    "give the scene before restoration",
                )
            found[before.path.name] = assess(before)
    found[scene.path.name] = assess(scene)
    curves = {name: quality.noise_bands for name, quality in found.items()}
    save_lines(folder / f"{scene.path.stem}_noise.png", curves, scene.wavelengths, "noise, unit of the file")
    rows: Rows = []
    for name, quality in found.items():
        bands = [None if np.isnan(level) else level for level in quality.noise_bands]
        rows.append({"scene": name, **_finite(quality.summary()), "noise_bands": bands})
    return rows


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in values.items()}


def _write_json(path: Path, rows: Rows, request: Request) -> None:
    record = {"scores": rows, "config": request.config_name, "config_hash": request.config_hash}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _print_table(rows: Rows) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = [name for name in rows[0] if not name.endswith("_bands")]
    table = Table(box=None, header_style="bold")
    for name in shown:
        table.add_column(name, justify="left" if name in ("scene", "simulate", "mode") else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in shown))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
