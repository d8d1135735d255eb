"""Which files a command reads and writes: inputs from names, folders, globs, manifests; outputs whole."""

from __future__ import annotations

import csv
import glob
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffusion_suite.core.errors import InputError, OutputError

MANIFEST_SUFFIXES = (".csv", ".jsonl")


def expand_inputs(inputs: Sequence[str], suffixes: Collection[str]) -> list[Path]:
    """The files that a command line names.

    Args:
        inputs: each a file, a folder (its files with one of ``suffixes``, sorted, not of its sub-folders), a
            glob such as ``"scenes/**/*.tif"``, or a manifest: ``.csv`` with a column ``input``, or ``.jsonl``
            with a key ``input`` a line; a manifest's relative names count from the manifest's folder.
        suffixes: endings that the command reads, with the dot, in small letters, e.g. ``{".tif", ".npy"}``.

    Returns:
        The files in the order named, each once.

    Raises:
        InputError: when a name leads to nothing, or a file has another ending.
    """
    if not inputs:
        raise InputError(
            "no input is given", f"name a file, a folder or a manifest of {_listed(suffixes)} files"
        )
    found: dict[Path, None] = {}
    for name in inputs:
        for path in _expand(name, suffixes):
            found.setdefault(path, None)
    return list(found)


def _expand(name: str, suffixes: Collection[str]) -> Iterable[Path]:
    path = Path(name)
    if path.is_dir():
        files = sorted(
            p for p in path.iterdir() if p.is_file() and _ends(p, suffixes) and not p.name.startswith(".")
        )
        if not files:
            raise InputError(
                f"folder {name} holds no {_listed(suffixes)} file", "name another folder, or a glob"
            )
        return files
    if path.is_file():
        if path.suffix.lower() in MANIFEST_SUFFIXES and path.suffix.lower() not in suffixes:
            return [_checked(item, suffixes, f"{name}: ") for item in read_manifest(path)]
        return [_checked(path, suffixes)]
    if glob.has_magic(name):
        files = sorted(
            p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file() and _ends(p, suffixes)
        )
        if not files:
            raise InputError(f"{name} matches no {_listed(suffixes)} file", "check the pattern, and quote it")
        return files
    raise InputError(f"{name} does not exist", "check the path")


def read_manifest(path: Path) -> list[Path]:
    """The inputs that a ``.csv`` or ``.jsonl`` manifest lists under ``input``.

    Raises:
        InputError: when it cannot be read, lacks ``input`` somewhere, or lists nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"manifest {path} cannot be read ({error})", "save it as UTF-8 text") from error
    if path.suffix.lower() == ".csv":
        rows: list[object] = list(csv.DictReader(text.splitlines()))
    else:
        rows = [
            _json_line(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()
        ]
    names = []
    for number, row in enumerate(rows, 1):
        value = row.get("input") if isinstance(row, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"manifest {path} has no input in entry {number}", "give each entry an input")
        names.append(path.parent / value.strip())
    if not names:
        raise InputError(f"manifest {path} lists nothing", "give it a column or key named input")
    return names


def _json_line(path: Path, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"manifest {path} line {number} is no JSON ({error.msg})", "write one object a line"
        ) from error


def _checked(path: Path, suffixes: Collection[str], prefix: str = "") -> Path:
    if not path.is_file():
        raise InputError(f"{prefix}{path} does not exist", "check the path")
    if not _ends(path, suffixes):
        raise InputError(
            f"{prefix}{path} is no {_listed(suffixes)} file", "convert it, or give it its right ending"
        )
    return path


def _ends(path: Path, suffixes: Collection[str]) -> bool:
    return any(path.name.lower().endswith(suffix) for suffix in suffixes)


def _listed(suffixes: Collection[str]) -> str:
    return ", ".join(sorted(suffixes))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` with the same ending, renamed to ``path`` when the block ends well.

    On any failure, an interrupt among them, the temporary file is removed and ``path`` stays what it was.

    Raises:
        OutputError: when nothing can be written in the folder.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    os.close(handle)
    part = Path(name)
    part.unlink()
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def prepare_output(paths: Iterable[Path], overwrite: bool = False) -> None:
    """Make sure before any work that the outputs can be written.

    Args:
        paths: files about to be written.
        overwrite: whether files that exist may be replaced.

    Raises:
        OutputError: when one exists and may not be replaced, is a folder, or its folder cannot be written in.
    """
    folders = set()
    for path in map(Path, paths):
        if path.is_dir():
            raise OutputError(f"output {path} is a folder", "give a file name, or another folder")
        if path.exists() and not overwrite:
            raise OutputError(f"output {path} exists already", "give overwrite=true, or another output")
        folders.add(path.parent)
    for folder in sorted(folders):
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Make a folder when missing, and make sure that files can be written in it.

    Raises:
        OutputError: when they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write in {folder} ({error.strerror or error})",
        "give another output folder, or make room or rights there",
    )
