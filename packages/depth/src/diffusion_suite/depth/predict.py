"""``depth predict``: pictures and videos in, depth out at their own size."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_suite.core._version import __version__
from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import CheckpointError, ConfigError, InputError, OutputError, SuiteError
from diffusion_suite.core.files import prepare_output
from diffusion_suite.core.manifest import Manifest
from diffusion_suite.core.progress import Progress, say
from diffusion_suite.depth.colour import table
from diffusion_suite.depth.config import PredictConfig
from diffusion_suite.depth.io.pictures import Picture, read_picture
from diffusion_suite.depth.outputs import Outputs, input_files, plan_outputs
from diffusion_suite.depth.result import known_depths, result
from diffusion_suite.depth.write import write_result

if TYPE_CHECKING:
    from diffusion_suite.depth.metric import Values
    from diffusion_suite.depth.predictor import Predictor, Seen


def run(request: Request) -> None:
    """Predict every picture and video that the request names; one that cannot be does not stop the others.

    Raises:
        SuiteError: one could not be predicted (after all others were).
    """
    config: PredictConfig = request.config
    table(config.colormap)
    planned = plan_outputs(input_files(request.inputs, request.output), request.output)
    job = Job(config, request.config_hash)
    job.run(planned)
    if len(job.failures) == 1:
        raise job.failures[0]
    for failure in job.failures:
        say(f"failed: {failure}")
    if job.failures:
        raise InputError(
            f"{len(job.failures)} of {len(planned)} inputs were not predicted", "each has its reason above"
        )


@dataclass(frozen=True)
class Task:
    """A picture that is read and waits for its turn."""

    file: Path
    outputs: Outputs
    picture: Picture
    known: Values | None


class Job:
    """One run over many files.

    Args:
        config: the settings.
        config_hash: hash of those that matter for the result.

    Attributes:
        failures: why inputs were not predicted.
    """

    def __init__(self, config: PredictConfig, config_hash: str) -> None:
        self.config, self.config_hash = config, config_hash
        self.failures: list[SuiteError] = []
        self.waiting: list[Task] = []

    @cached_property
    def predictor(self) -> Predictor:
        """The network, loaded when the first input needs it."""
        from diffusion_suite.depth.predictor import Predictor

        return Predictor.load(self.config)

    def run(self, planned: dict[Path, Outputs]) -> None:
        """Predict all inputs that earlier runs have not."""
        with Progress("depth", len(planned)) as bar:
            for file, outputs in planned.items():
                self._attempt(partial(self._take, file, outputs))
                bar.advance()
            self._flush()

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do work on one input; its failure is noted, that of the network or the disk ends the run."""
        try:
            work()
        except (CheckpointError, ConfigError):
            raise
        except SuiteError as error:
            self.failures.append(error)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            self.failures.append(InputError(str(error), "check the disk, its rights and its room"))

    def _take(self, file: Path, outputs: Outputs) -> None:
        done = self._manifest(outputs).finished(file, self.config_hash)
        first = outputs.path(outputs.kinds(self.config)[0])
        if done is not None and not self.config.overwrite and done.resolve() == first.resolve():
            say(f"{file}: done before, see {first}")
            return
        if outputs.video:
            self._prepare(outputs)
            self._video(file, outputs)
            return
        picture, known = read_picture(file), self.config.known
        points = None if known is None else known_depths(file, picture.size, known, self.config.known_unit)
        task = Task(file, outputs, picture, points)
        self._prepare(outputs)
        if self.predictor.is_large(task.picture.size):
            self._large(task)
            return
        if self.waiting and self._size(self.waiting[0]) != self._size(task):
            self._flush()
        self.waiting.append(task)
        if len(self.waiting) == self.config.batch_size:
            self._flush()

    def _prepare(self, outputs: Outputs) -> None:
        paths = {kind: outputs.path(kind) for kind in outputs.kinds(self.config)}
        frames = paths.pop("frames", None)
        if frames is not None and frames.exists() and not self.config.overwrite:
            raise OutputError(f"output {frames} exists already", "give overwrite=true, or another output")
        prepare_output(paths.values(), self.config.overwrite)

    def _size(self, task: Task) -> tuple[int, int]:
        return self.predictor.size(task.picture.size)

    def _flush(self) -> None:
        """Predict the pictures that wait."""
        tasks, self.waiting = self.waiting, []
        if not tasks:
            return
        start = time.perf_counter()
        found: list[Seen] = []
        self._attempt(lambda: found.extend(self.predictor.predict([task.picture.rgb for task in tasks])))
        share = (time.perf_counter() - start) / len(tasks)
        for task, seen in zip(tasks, found, strict=False):
            self._attempt(partial(self._finish, task, seen, share))

    def _large(self, task: Task) -> None:
        start = time.perf_counter()
        signature = {"input": str(task.file.absolute()), "settings": self.config_hash}
        seen = self.predictor.predict_large(task.picture.rgb, task.outputs.windows, signature)
        self._finish(task, seen, time.perf_counter() - start)

    def _finish(self, task: Task, seen: Seen, seconds: float) -> None:
        start = time.perf_counter()
        size, config = task.picture.size, self.config
        try:
            made = result(seen, size, config, task.known)
        except InputError as error:
            raise InputError(f"{task.file}: {error.problem}", error.remedy) from error
        made.facts.update(self._facts(task.file, size, (seen.y.shape[1], seen.y.shape[0])))
        write_result(made, seen, task.picture, task.outputs, config)
        seconds += time.perf_counter() - start
        self._note(task.file, task.outputs, seconds, {"depth": made.facts["depth"]})

    def _video(self, file: Path, outputs: Outputs) -> None:
        from diffusion_suite.depth.video import predict_video

        start = time.perf_counter()
        facts = predict_video(file, outputs, self.config, self.predictor)
        self._note(file, outputs, time.perf_counter() - start, facts)

    def _facts(self, file: Path, size: tuple[int, int], seen: tuple[int, int]) -> dict[str, Any]:
        return {
            "input": file.name,
            "width": size[0],
            "height": size[1],
            "predicted_at": list(seen),
            **run_facts(self.config),
        }

    def _note(self, file: Path, outputs: Outputs, seconds: float, more: dict[str, Any]) -> None:
        paths = [outputs.path(kind) for kind in outputs.kinds(self.config)]
        self._manifest(outputs).append(
            input=file,
            output=paths[0],
            seed=self.config.seed,
            config_hash=self.config_hash,
            seconds=seconds,
            files=[path.name for path in paths],
            **more,
        )
        say(f"{file}: {more['depth']} depth in {seconds:.1f} s, see {paths[0]}")

    @staticmethod
    def _manifest(outputs: Outputs) -> Manifest:
        return Manifest(outputs.folder / "manifest.jsonl")


def run_facts(config: PredictConfig) -> dict[str, Any]:
    """What the files of a run tell of how they were made."""
    names = ("weights", "steps", "members", "seed")
    return {name: getattr(config, name) for name in names} | {"version": __version__}
