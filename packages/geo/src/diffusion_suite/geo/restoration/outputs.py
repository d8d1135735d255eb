"""Which files a predict run reads and writes, and what a failure leaves behind: nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffusion_suite.core.errors import OutputError
from diffusion_suite.core.files import expand_inputs
from diffusion_suite.geo.io import SUFFIXES, data_file, sidecars

DEFAULT_FOLDER = "restored"
_WRITABLE = SUFFIXES - {".hdr"}


@dataclass(frozen=True)
class Outputs:
    """The files made from one scene.

    Attributes:
        scene: the restored scene.
    """

    scene: Path

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.scene.parent

    @property
    def stem(self) -> str:
        """How their names begin: that of the restored scene without ``_restored``."""
        return self.scene.stem.removesuffix("_restored")

    @property
    def uncertainty(self) -> Path:
        """Standard deviation of each sample."""
        return self.scene.with_name(f"{self.stem}_uncertainty{self.scene.suffix}")

    def picture(self, name: str) -> Path:
        """A picture: ``quicklook``, ``before_after``, ``spectra`` or ``uncertainty``."""
        return self.scene.with_name(f"{self.stem}_{name}.png")

    @property
    def windows(self) -> Path:
        """Folder of the windows finished so far, hidden, gone when the scene is done."""
        return self.scene.with_name(f".{self.scene.name}.windows")

    def files(self, uncertainty: bool, pictures: bool) -> list[Path]:
        """Everything that is written."""
        scenes = [self.scene, *([self.uncertainty] if uncertainty else [])]
        names = ["quicklook", "before_after", "spectra", *(["uncertainty"] if uncertainty else [])]
        aside = [extra for scene in scenes for extra in sidecars(scene)]
        return scenes + aside + ([self.picture(name) for name in names] if pictures else [])


def scene_files(inputs: Sequence[str]) -> list[str]:
    """The scenes that a command line names, each once, an ENVI pair as one.

    ``file#key`` stays as it is: it names one variable of a file.

    Raises:
        InputError: a name leads to nothing.
    """
    found: dict[str, None] = {}
    for name in inputs:
        file, mark, key = name.rpartition("#")
        if mark and not Path(name).exists() and Path(file).is_file():
            found.setdefault(f"{expand_inputs([file], SUFFIXES)[0]}#{key}")
            continue
        for path in expand_inputs([name], SUFFIXES):
            found.setdefault(str(data_file(path)))
    if not found:
        expand_inputs(inputs, SUFFIXES)
    return list(found)


def plan_outputs(files: Sequence[str], output: str | None) -> dict[str, Outputs]:
    """Where each scene goes.

    Args:
        files: the scenes.
        output: a file (one scene only; its ending chooses the format), a folder, or None for ``restored``.

    Raises:
        OutputError: several scenes for one file, or two scenes that would get the same name.
    """
    target = Path(output or DEFAULT_FOLDER)
    if target.suffix.lower() in _WRITABLE and not target.is_dir():
        if len(files) > 1:
            raise OutputError(f"-o {target} is one file for {len(files)} scenes", "name a folder")
        planned = {files[0]: Outputs(target)}
    else:
        planned = {file: Outputs(target / _restored_name(file)) for file in files}
    twice = [path for path, count in Counter(o.scene for o in planned.values()).items() if count > 1]
    if twice:
        raise OutputError(
            f"several inputs would be written to {twice[0]}", "restore them into different folders"
        )
    for file, outputs in planned.items():
        if Path(file).exists() and outputs.scene.exists() and outputs.scene.samefile(file):
            raise OutputError(f"{file} would be replaced by its own result", "name another output")
    return planned


def _restored_name(file: str) -> str:
    path, _, key = file.partition("#") if not Path(file).exists() else (file, "", "")
    source = Path(path)
    suffix = source.suffix if source.suffix.lower() in _WRITABLE else ".img"
    return f"{source.stem}{'_' + key if key else ''}_restored{suffix}"


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Take away the folders that were made for an output when nothing came of it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in missing:
            try:
                path.rmdir()
            except OSError:
                break
        raise
