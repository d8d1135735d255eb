"""Which files a predict run reads and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_suite.core.errors import OutputError
from diffusion_suite.core.files import expand_inputs
from diffusion_suite.core.manifest import Manifest
from diffusion_suite.depth.config import PredictConfig
from diffusion_suite.depth.io.pictures import SUFFIXES as PICTURES
from diffusion_suite.depth.io.videos import SUFFIXES as VIDEOS

DEFAULT_FOLDER = "depths"
ENDINGS = {
    "npy": "_depth.npy",
    "tiff": "_depth.tif",
    "png16": "_depth.png",
    "color": "_color.png",
    "grey8": "_grey8.png",
    "log_depth": "_log_depth.npy",
    "uncertainty": "_uncertainty.npy",
    "uncertainty_picture": "_uncertainty.png",
    "normals": "_normals.npy",
    "normals_picture": "_normals.png",
    "points": "_points.ply",
    "facts": "_depth.json",
}
VIDEO_ENDINGS = {"color": "_color.mp4", "grey16": "_depth.mkv", "frames": "_frames", "facts": "_depth.json"}
_BY_SUFFIX = {".npy": "npy", ".tif": "tiff", ".tiff": "tiff", ".png": "png16", ".ply": "points"}
_VIDEO_BY_SUFFIX = {".mp4": "color", ".mkv": "grey16"}


@dataclass(frozen=True)
class Outputs:
    """The files made from one picture or video.

    Attributes:
        folder: where they lie.
        stem: how their names begin.
        video: whether the input is a video.
        named: the file that the user named, and which of the outputs it is.
    """

    folder: Path
    stem: str
    video: bool = False
    named: tuple[Path, str] | None = None

    def path(self, kind: str) -> Path:
        """The file of a kind, see `ENDINGS`."""
        if self.named is not None and self.named[1] == kind:
            return self.named[0]
        return self.folder / f"{self.stem}{(VIDEO_ENDINGS if self.video else ENDINGS)[kind]}"

    def kinds(self, config: PredictConfig) -> list[str]:
        """What is written, the one that stands for all first."""
        first = [] if self.named is None else [self.named[1]]
        if self.video:
            return list(dict.fromkeys([*first, *config.video, "facts"]))
        kinds = [*first, *config.outputs]
        if config.uncertainty and config.members > 1:
            kinds += ["uncertainty", "uncertainty_picture"]
        if "normals" in kinds:
            kinds.append("normals_picture")
        return list(dict.fromkeys([*kinds, "facts"]))

    @property
    def windows(self) -> Path:
        """Folder of the windows finished so far, hidden, gone when the picture is done."""
        return self.folder / f".{self.stem}.windows"


def input_files(inputs: Sequence[str], output: str | None) -> list[Path]:
    """The pictures and videos that a command line names, without what earlier runs wrote.

    Raises:
        InputError: a name leads to nothing.
    """
    files = expand_inputs(inputs, PICTURES | VIDEOS)
    written: set[Path] = set()
    for folder in {file.parent for file in files} | {_folder(output)}:
        for entry in Manifest(folder / "manifest.jsonl").entries():
            written |= {(folder / str(name)).absolute() for name in entry.get("files", [])}
    named = {Path(name).absolute() for name in inputs}
    return [file for file in files if file.absolute() in named or file.absolute() not in written]


def _folder(output: str | None) -> Path:
    target = Path(output or DEFAULT_FOLDER)
    known = target.suffix.lower() in {*_BY_SUFFIX, *_VIDEO_BY_SUFFIX} and not target.is_dir()
    return target.parent if known else target


def plan_outputs(files: Sequence[Path], output: str | None) -> dict[Path, Outputs]:
    """Where the results of each file go.

    Args:
        files: pictures and videos.
        output: a file (for one input; its ending chooses the format), a folder, or None for `depths`.

    Raises:
        OutputError: several inputs for one file, two inputs of one name, or a result that would replace its
            own input.
    """
    target = Path(output or DEFAULT_FOLDER)
    planned: dict[Path, Outputs] = {}
    for file in files:
        video = file.suffix.lower() in VIDEOS
        kind = (_VIDEO_BY_SUFFIX if video else _BY_SUFFIX).get(target.suffix.lower())
        if kind is not None and not target.is_dir():
            if len(files) > 1:
                raise OutputError(f"-o {target} is one file for {len(files)} inputs", "name a folder")
            planned[file] = Outputs(target.parent, target.stem.removesuffix("_depth"), video, (target, kind))
        else:
            planned[file] = Outputs(target, file.stem, video)
    counts = Counter((outputs.folder, outputs.stem) for outputs in planned.values())
    for file, outputs in planned.items():
        if counts[outputs.folder, outputs.stem] > 1:
            raise OutputError(
                f"several inputs are called {file.stem}", "predict them into different folders, or rename one"
            )
        if outputs.named is not None and outputs.named[0].absolute() == file.absolute():
            raise OutputError(f"{file} would be replaced by its own result", "name another output")
    return planned
