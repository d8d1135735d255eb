"""What `depth evaluate` measures: pictures with truth from folders or drawn, maps predicted earlier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import expand_inputs
from diffusion_suite.core.seeding import key
from diffusion_suite.depth.alignment import Estimate, Kind
from diffusion_suite.depth.config import EvaluateConfig
from diffusion_suite.depth.io.maps import read_numbers
from diffusion_suite.depth.io.pictures import SUFFIXES as PICTURES
from diffusion_suite.depth.measure import Case, Guess, case_of, fitting
from diffusion_suite.depth.pairs import Pair, beside, pairs_in
from diffusion_suite.depth.protocols import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from diffusion_suite.depth.predictor import Predictor

_ENDINGS = (
    ("_log_depth", (".npy",)),
    ("_depth", (".npy", ".tif", ".tiff", ".png")),
    ("", (".npy", ".tif", ".tiff", ".png")),
)
_DRAWN_AT_ONCE = 4
ALLOWANCE = 1e-3


def protocol_of(config: EvaluateConfig) -> Protocol:
    """The protocol that the settings name, with their range of depth."""
    protocol = PROTOCOLS[config.protocol] if config.protocol else Protocol()
    nearest = protocol.nearest if config.nearest is None else config.nearest
    farthest = protocol.farthest if config.farthest is None else config.farthest
    return replace(protocol, nearest=nearest, farthest=farthest)


def pairs_of(inputs: list[str], config: EvaluateConfig) -> list[Pair]:
    """The pairs that the inputs name.

    Args:
        inputs: folders of pictures with depth, or, with `reference`, pictures.
        config: the settings.

    Raises:
        InputError: there is none, a truth is missing, or two have one name.
    """
    if config.reference is not None:
        pairs = beside(expand_inputs(inputs, PICTURES), Path(config.reference), config.unit)
    elif not inputs:
        raise InputError("no input is given", "name folders of pictures with depth, or give drawn=48")
    else:
        pairs = [pair for name in inputs for pair in pairs_in(name, config.unit, split="test")]
    names = [pair.name for pair in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"several pictures are called {twice[0]}", "measure their folders one by one")
    return pairs


def cases(inputs: list[str], config: EvaluateConfig) -> Iterator[tuple[Case, Pair | None]]:
    """Everything to be measured, one by one; drawn pictures have no pair."""
    count = 0
    if inputs or not config.drawn:
        protocol = protocol_of(config)
        pairs = pairs_of(inputs, config)
        for pair in pairs[: config.limit or None]:
            yield case_of(pair, protocol, config.lidar), pair
            count += 1
    for case in drawn_cases(config):
        if config.limit and count >= config.limit:
            return
        yield case, None
        count += 1


def drawn_cases(config: EvaluateConfig) -> Iterator[Case]:
    """Drawn pictures by the settings' seed; the sky is not measured, nor pictures of nothing but sky."""
    from diffusion_suite.depth.data import draw

    protocol = protocol_of(config)
    for first in range(0, config.drawn, _DRAWN_AT_ONCE):
        numbers = range(first, min(first + _DRAWN_AT_ONCE, config.drawn))
        for number, rgb, depth in zip(
            numbers, *draw(key(config.seed, "evaluation"), numbers, config.side), strict=True
        ):
            truth = depth[0].numpy()
            valid = protocol.valid(truth)
            if valid.any():
                colours = (rgb.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
                bounds = (protocol.nearest, protocol.farthest)
                yield Case(f"drawn_{number:04d}", colours, truth, valid, bounds)


def stored_guess(case: Case, pair: Pair, config: EvaluateConfig) -> Guess:
    """The map predicted earlier for a picture.

    Raises:
        InputError: there is none.
    """
    folder = Path(str(config.predictions))
    stem = pair.picture.stem
    places = [
        (folder, pair.name),
        (folder / pair.name, stem),
        (folder / pair.name, pair.name),
        (folder, stem),
    ]
    for place, name in places:
        for ending, suffixes in _ENDINGS:
            for suffix in suffixes:
                path = place / f"{name}{ending}{suffix}"
                if path.is_file() and path.resolve() not in (pair.truth.resolve(), pair.picture.resolve()):
                    return _stored(case, path, config.kind)
    raise InputError(
        f"{folder} holds no prediction of {pair.name}", f"name it {pair.name}.npy, or {pair.name}_depth.png"
    )


def _stored(case: Case, path: Path, kind: str) -> Guess:
    numbers = read_numbers(path)
    if numbers.shape != case.truth.shape:
        height, width = numbers.shape
        if abs(height * case.truth.shape[1] - width * case.truth.shape[0]) > 2 * max(case.truth.shape):
            raise InputError(
                f"{path} is {height} x {width} but its truth is {' x '.join(map(str, case.truth.shape))}",
                "give a prediction of the same view",
            )
    largest = float(np.iinfo(numbers.dtype).max) if numbers.dtype.kind in "ui" else 1.0
    if kind == "auto":
        kind = _kind(path, float(numbers.min()) / largest, float(numbers.max()) / largest)
    values = numbers.astype(np.float32)
    if kind == "relative":
        values /= largest
    return Guess(Estimate(fitting(case, values), cast("Kind", kind)))


def _kind(path: Path, least: float, greatest: float) -> str:
    """What a map holds, by its name and its range; whole numbers span 0 to 1 only if they reach the top."""
    if path.stem.endswith("_log_depth"):
        return "log_depth"
    reaches = path.suffix != ".png" or greatest > 0.99
    return "relative" if reaches and least >= -ALLOWANCE and greatest <= 1 + ALLOWANCE else "depth"


def network_guess(case: Case, predictor: Predictor, folder: Path) -> Guess:
    """What the network makes of a picture, as `depth predict` would."""
    import time

    import torch

    from diffusion_suite.depth.predictor import Seen

    on_gpu = predictor.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(predictor.device)
    start = time.perf_counter()
    height, width = case.rgb.shape[:2]
    seen: Seen
    if predictor.is_large((width, height)):
        seen = predictor.predict_large(case.rgb, folder / f".{case.name}.windows", {"input": case.name})
    else:
        seen = predictor.predict([case.rgb])[0]
    seconds = time.perf_counter() - start
    spread = fitting(case, seen.spread) if predictor.settings.members > 1 else None
    megabytes = torch.cuda.max_memory_allocated(predictor.device) / 2**20 if on_gpu else None
    return Guess(Estimate(fitting(case, seen.y), "log_depth"), spread, seconds, megabytes)
