"""``geo predict``: scenes in, restored scenes out, window by window, with memory bounded by the window."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import InputError, SuiteError
from diffusion_suite.core.files import prepare_output
from diffusion_suite.core.manifest import Manifest
from diffusion_suite.core.progress import say, track
from diffusion_suite.core.seeding import key
from diffusion_suite.core.windows import (
    Window,
    WindowStore,
    assemble,
    bytes_needed,
    check_room,
    scaled,
    stream,
)
from diffusion_suite.geo.io import Scene, SceneWriter, create_scene, open_scene
from diffusion_suite.geo.restoration.config import PredictConfig, RestoreKeys
from diffusion_suite.geo.restoration.masks import MaskedScene, hidden_by_mask
from diffusion_suite.geo.restoration.outputs import Outputs, new_folder, plan_outputs, scene_files
from diffusion_suite.geo.restoration.survey import Survey, read_sigma, survey, wanted

if TYPE_CHECKING:
    from diffusion_suite.geo.restoration.dds2m import DDS2M, Mode, Task

Values = npt.NDArray[np.float32]
Sigma = float | npt.NDArray[np.float32] | None
_SLAB_BYTES = 1 << 25

SCENE_SAMPLES, SAMPLE_SIDE = 4, 256
"""Windows of a large scene that the prior is fitted to, and their largest side in pixels."""


def run(request: Request) -> None:
    """Restore every scene that the request names; a scene that cannot be does not stop the others.

    Raises:
        SuiteError: a scene could not be restored (after all others were).
    """
    config: PredictConfig = request.config
    planned = plan_outputs(scene_files(request.inputs), request.output)
    failed = 0
    for file, outputs in planned.items():
        try:
            restore_file(file, outputs, config, request.config_hash)
        except (SuiteError, OSError) as error:
            if len(planned) == 1 or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
                raise
            failed += 1
            say(f"error: {error}")
    if failed:
        raise InputError(f"{failed} of {len(planned)} scenes were not restored", "each has its reason above")


def restore_file(file: str, outputs: Outputs, config: PredictConfig, config_hash: str) -> None:
    """Restore one scene file, unless that was done before.

    Args:
        file: path, or path#key.
        outputs: where the result goes.
        config: the settings.
        config_hash: hash of the settings that matter for the result.

    Raises:
        SuiteError: unusable input or output; nothing is left behind.
    """
    manifest = Manifest(outputs.folder / "manifest.jsonl")
    done = manifest.finished(file, config_hash)
    if done is not None and not config.overwrite and done.resolve() == outputs.scene.resolve():
        say(f"{file}: done before, see {outputs.scene}")
        return
    start = time.perf_counter()
    with open_inputs(file, config) as scene, new_folder(outputs.folder):
        sigma = read_sigma(config.sigma, scene.shape[2])
        prepare_output(outputs.files(config.uncertainty, config.pictures), config.overwrite)
        found = survey(scene, config)
        method = make_method(config, config.mode)
        restore_scene(scene, found, method, outputs, config, sigma, config_hash)
        if config.pictures:
            from diffusion_suite.geo.restoration.plots import result_pictures

            result_pictures(scene, outputs, config.uncertainty)
    seconds = time.perf_counter() - start
    facts = {"mode": config.mode, "task": found.task, "windows": len(found.windows), "missing": found.missing}
    manifest.append(
        input=file, output=outputs.scene, seed=config.seed, config_hash=config_hash, seconds=seconds, **facts
    )
    say(f"{file}: {found.task} in {seconds:.1f} s, see {outputs.scene}")


def open_inputs(file: str, config: PredictConfig) -> Scene:
    """The scene, seen through its mask where one is given."""
    scene = open_scene(file, config.key, config.nodata)
    if config.mask is None:
        return scene
    with ExitStack() as stack:
        stack.callback(scene.close)
        mask = stack.enter_context(open_scene(config.mask))
        masked = MaskedScene(scene, mask)
        stack.pop_all()
    return masked


def make_method(config: RestoreKeys, mode: str) -> DDS2M:
    """The restoration of that mode with the settings that are given."""
    from diffusion_suite.geo.restoration.dds2m import DDS2M

    names = ("rank", "steps", "runs", "weights", "device", "precision", "compile")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return DDS2M(cast("Mode", mode), **given)


def restore_scene(
    scene: Scene,
    found: Survey,
    method: DDS2M,
    outputs: Outputs,
    config: PredictConfig,
    sigma: Sigma,
    config_hash: str,
) -> None:
    """Restore the windows that are not yet done, blend them and write the scene.

    Finished windows of a scene of several outlive a failure: the same command goes on from there.
    """
    shape = (scene.shape[0] * found.factor, scene.shape[1] * found.factor)
    larger = scaled(found.windows, found.factor)
    layers = scene.shape[2] * (2 if config.uncertainty else 1) + 1
    signature = _signature(scene, found, config, config_hash)
    store = WindowStore(outputs.windows, signature, clear=config.overwrite)
    try:
        todo = [window for window in larger if not store.has(window.index)]
        scenes = scene.dtype.itemsize + (4 if config.uncertainty else 0)
        check_room(
            outputs.folder, bytes_needed(todo, (layers,)) + math.prod((*shape, scene.shape[2])) * scenes
        )
        if config.mode == "default" and todo and len(larger) > 1 and found.factor == 1:
            method.fit_scene(_samples(scene, found), found.statistics, sigma, config.seed)
        finished = stream(
            found.windows, lambda w: restore_window(scene, w, found, method, config, sigma), store
        )
        for _ in track(finished, "windows", total=len(found.windows)):
            pass
        write_scene(scene, found, assemble(larger, store, shape, slab_bytes=_SLAB_BYTES), outputs, config)
    except (SuiteError, OSError):
        if len(found.windows) == 1 or not any(store.has(window.index) for window in found.windows):
            store.remove()
        raise
    store.remove()


def _samples(scene: Scene, found: Survey) -> Iterator[Values]:
    """The middles of a few windows spread over the scene, NaN where missing."""
    chosen = found.windows[:: max(1, len(found.windows) // SCENE_SAMPLES)][:SCENE_SAMPLES]
    for window in chosen:
        rows, cols = (_middle(part) for part in window.slices)
        values, seen = scene.read(rows, cols)
        if seen.any():
            yield np.where(seen, values, np.nan)


def _middle(part: slice) -> slice:
    spare = max(0, part.stop - part.start - SAMPLE_SIDE) // 2
    return slice(part.start + spare, part.stop - spare)


def restore_window(
    scene: Scene,
    window: Window,
    found: Survey,
    method: DDS2M,
    config: PredictConfig,
    sigma: Sigma,
) -> Values:
    """One window restored: its samples, their standard deviations if asked for, and a layer of ones.

    The layer is zero where a window holds no observation at all, so that it has no say where windows overlap.

    Returns:
        (h * factor, w * factor, layers) float32.
    """
    rows, cols = window.slices
    values, seen = scene.read(rows, cols)
    height, width = values.shape[0] * found.factor, values.shape[1] * found.factor
    layers = values.shape[2] * (2 if config.uncertainty else 1) + 1
    packed = np.zeros((height, width, layers), dtype=np.float32)
    if not seen.any():
        return packed
    result = method.restore(
        values,
        task=cast("Task", found.task),
        sigma=sigma,
        factor=found.factor if found.task == "sr" else None,
        seed=config.seed if len(found.windows) == 1 else key(config.seed, "window", window.index),
        statistics=found.statistics,
    )
    bands = values.shape[2]
    lost = [
        band + 1 for band in np.flatnonzero(seen.any(axis=(0, 1))) if np.isnan(result.cube[..., band]).any()
    ]
    if lost:
        place = f"rows {rows.start}-{rows.stop}, columns {cols.start}-{cols.stop}"
        raise InputError(f"{scene.path}: no result for bands {lost} at {place}", "try another mode or window")
    packed[..., :bands] = result.cube
    if config.uncertainty:
        packed[..., bands:-1] = result.uncertainty
    packed[..., -1] = 1
    return packed


def write_scene(
    scene: Scene,
    found: Survey,
    slabs: Iterable[tuple[slice, Values]],
    outputs: Outputs,
    config: PredictConfig,
) -> None:
    """Write the restored scene, and its uncertainty if asked for, slab by slab."""
    with ExitStack() as stack:
        writer = stack.enter_context(create_scene(outputs.scene, scene, factor=found.factor))
        spread = None
        if config.uncertainty:
            how: dict[str, Any] = {"factor": found.factor, "dtype": np.float32, "spread": True}
            spread = stack.enter_context(create_scene(outputs.uncertainty, scene, **how))
        for rows, slab in slabs:
            _write_slab(scene, found, config.fill, rows, slab, writer, spread)


def _write_slab(
    scene: Scene,
    found: Survey,
    fill: str,
    rows: slice,
    slab: Values,
    writer: SceneWriter,
    spread: SceneWriter | None,
) -> None:
    bands, factor = scene.shape[2], found.factor
    source, cols = slice(rows.start // factor, -(-rows.stop // factor)), slice(0, scene.shape[1])
    stored = scene.read_stored(source, cols)
    seen = scene.observed(stored, source, cols)
    keep = wanted(seen, hidden_by_mask(scene, source, cols), found.live, found.task, fill)
    first = rows.start - source.start * factor
    keep = keep.repeat(factor, axis=0).repeat(factor, axis=1)[first : first + slab.shape[0]]
    share = slab[..., -1:]
    keep = keep & (share > 0)
    share = np.where((share > 0) & (share < 0.9999), share, 1)
    nothing = np.float32(np.nan)
    writer.write(
        rows.start, np.where(keep, slab[..., :bands] / share, nothing), stored if factor == 1 else None
    )
    if spread is not None:
        spread.write(rows.start, np.where(keep, slab[..., bands:-1] / share, nothing))


def _signature(scene: Scene, found: Survey, config: PredictConfig, config_hash: str) -> dict[str, Any]:
    """What the windows depend on: another input, mask, window plan or setting makes them useless."""
    names = [scene.path, *(Path(text.partition("#")[0]) for text in (config.mask, config.sigma) if text)]
    files = [(str(f.absolute()), f.stat().st_size, f.stat().st_mtime_ns) for f in names if f.is_file()]
    return {
        "files": files,
        "windows": [[(s.start, s.stop) for s in w.slices] for w in found.windows],
        "factor": found.factor,
        "settings": config_hash,
    }
