"""``geo info``: what a scene, a folder of weights or a checkpoint holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_suite.core._version import __version__
from diffusion_suite.core.domain import Request
from diffusion_suite.core.facts import print_facts
from diffusion_suite.geo.io import Scene, open_scene
from diffusion_suite.geo.restoration.config import InfoConfig
from diffusion_suite.geo.restoration.outputs import scene_files


def run(request: Request) -> None:
    """Print what each input holds; without input, what comes with the package.

    Raises:
        SuiteError: an input that is neither a scene nor weights.
    """
    config: InfoConfig = request.config
    found = [facts for name in request.inputs or ["starter"] for facts in _facts(name, config)]
    if config.json:
        print(json.dumps(found if len(found) > 1 else found[0], indent=1))
        return
    for facts in found:
        print_facts(facts)


def _facts(name: str, config: InfoConfig) -> list[dict[str, Any]]:
    path = Path(name)
    if name == "starter" or (path.is_dir() and (path / "config.json").is_file()):
        return [folder_facts(name)]
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".safetensors"):
        return [weight_facts(path)]
    return [scene_facts(file, config) for file in scene_files([name])]


def scene_facts(file: str, config: InfoConfig) -> dict[str, Any]:
    """Size, type, spectral range, georeference, missing share and noise of a scene.

    Noise, stripes and the missing share are measured in its middle (512 x 512 pixels).
    """
    from diffusion_suite.geo.restoration.quality import assess

    with open_scene(file, config.key, config.nodata) as scene:
        quality = assess(scene)
        rows, cols, bands = scene.shape
        levels = np.array(quality.noise_bands)
        known = levels[np.isfinite(levels)]
        facts: dict[str, Any] = {
            "scene": file,
            "format": scene.format,
            "size": f"{rows} rows x {cols} columns x {bands} bands",
            "type": str(scene.dtype),
            **_georeference(scene),
            **_spectrum(scene),
            "nodata": None if scene.nodata is None else float(scene.nodata[~np.isnan(scene.nodata)][0]),
            "missing": f"{quality.missing:.2%}",
            "bands without data": _ranges(quality.dead_bands),
            "noise (median of bands)": float(np.round(np.median(known), 6)) if known.size else None,
            "noise / signal deviation": _number(quality.noise),
            "striping": _number(quality.striping),
        }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _georeference(scene: Scene) -> dict[str, Any]:
    meta = scene.meta
    facts: dict[str, Any] = {"CRS": str(meta.crs) if meta.crs else "none"}
    if meta.transform is not None:
        facts["pixel"] = f"{abs(meta.transform.a):g} x {abs(meta.transform.e):g}"
        facts["corner"] = f"{meta.transform.c:.10g}, {meta.transform.f:.10g}"
    if meta.scales and any(s != 1 for s in meta.scales):
        facts["scale"] = meta.scales[0]
    return facts


def _spectrum(scene: Scene) -> dict[str, Any]:
    if scene.wavelengths is None:
        return {"wavelengths": "not given"}
    low, high = float(scene.wavelengths.min()), float(scene.wavelengths.max())
    return {"wavelengths": f"{low:g} to {high:g} nm"}


def _ranges(bands: list[int]) -> str:
    parts: list[list[int]] = []
    for band in bands:
        if parts and band == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], band]
        else:
            parts.append([band])
    return ", ".join("-".join(map(str, part)) for part in parts)


def folder_facts(source: str) -> dict[str, Any]:
    """Settings, size and card of weights written by ``save_pretrained``, or of the starter."""
    from importlib.resources import as_file, files

    from diffusion_suite.core.checkpoints.pretrained import CARD, read_config
    from diffusion_suite.geo.restoration.eigen_prior import EigenPrior

    network = EigenPrior.from_pretrained(source)
    facts: dict[str, Any] = {"weights": source, "parameters": sum(p.numel() for p in network.parameters())}
    if source == "starter":
        package, _, inner = EigenPrior.starter.partition(":")
        with as_file(files(package).joinpath(inner)) as folder:
            config, card = read_config(folder), _text(folder / CARD)
    else:
        config, card = read_config(source), _text(Path(source) / CARD)
    facts |= {"class": config.pop("_class", ""), "written by": config.pop("_version", "")}
    return {**facts, **config, "suite": __version__, "card": card}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else "none"


def weight_facts(path: Path) -> dict[str, Any]:
    """Number of tensors and parameters of a weight file, and the settings of a training checkpoint."""
    if path.suffix.lower() == ".ckpt":
        from diffusion_suite.core.training.module import read_checkpoint

        content = read_checkpoint(path)
        state, steps = content["state_dict"], content.get("global_step")
        extra = {"steps": steps, **content.get("hyper_parameters", {})}
    else:
        from diffusion_suite.core.checkpoints import load_published

        state, extra = load_published(path), {}
        ranks = {key.split(".")[1] for key in state if key.startswith("image_net.")}
        if ranks:
            extra["layout"] = f"published VS2M of rank {len(ranks)}"
    count = sum(tensor.numel() for tensor in state.values())
    return {"weights": str(path), "tensors": len(state), "parameters": count, **extra}
