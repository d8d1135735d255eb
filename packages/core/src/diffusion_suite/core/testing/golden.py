"""Golden cases: tensors recorded from a reference, run by kind.

A case is a folder ``<system>/<name>`` with ``case.json`` (its ``system``, its ``kind``, settings, tolerance),
``io.safetensors`` and perhaps ``weights.safetensors``. One test module a system runs them all, so that a case
of another size, rank or seed needs no new code::

    @pytest.mark.parametrize("case", cases("dds2m"))
    def test_golden(case):
        dispatch(case, {"operator": check_operator, "schedule": check_schedule})
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet
    from torch import Tensor

VARIABLE = "DIFFUSION_SUITE_GOLDEN"


@dataclass(frozen=True)
class Case:
    """One recorded case.

    Attributes:
        path: its folder.
        config: the content of its ``case.json``.
    """

    path: Path
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """What it records, by which its runner is chosen."""
        return str(self.config.get("kind", ""))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs and outputs, from ``io.safetensors``; read when first asked for."""
        return _read(self.path / "io.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights: its own ``weights.safetensors``, or that of the case that ``weights_from`` names."""
        source = self.config.get("weights_from")
        own = self.path / "weights.safetensors"
        return _read(own if own.exists() or not source else self.path.parent / str(source) / own.name)


def cases(system: str, folder: Path | None = None) -> list[ParameterSet]:
    """All cases of a system, as parameters of a test.

    Args:
        system: its name, as in ``case.json``.
        folder: the repository's folder of cases; None takes the ``golden`` folder beside the calling test's
            package or above it. The folders in the environment variable ``DIFFUSION_SUITE_GOLDEN`` (separated
            as in ``PATH``) are added; each holds ``<system>/<name>/case.json`` or ``<name>/case.json``.

    Raises:
        FileNotFoundError: when a named folder is missing, or there is no case at all.
    """
    roots = [_beside(Path(inspect.stack()[1].filename)) if folder is None else folder]
    roots += [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    found: dict[str, ParameterSet] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"no folder of golden cases at {root}")
        for path in sorted({*root.glob("*/case.json"), *root.glob(f"{system}/*/case.json")}):
            config = json.loads(path.read_text(encoding="utf-8"))
            if config.get("system") == system:
                name = f"{path.parent.name}-{_digest(path.parent)}"
                found.setdefault(name, pytest.param(Case(path.parent, config), id=name))
    if not found:
        raise FileNotFoundError(f"no golden case of {system} in {', '.join(map(str, roots))}")
    return list(found.values())


def dispatch(case: Case, runners: Mapping[str, Callable[[Case], None]]) -> None:
    """Run a case with the runner of its kind; a kind without one fails the test."""
    runner = runners.get(case.kind)
    if runner is None:
        pytest.fail(
            f"{case.path} is of kind {case.kind!r}, which has no runner (there are {', '.join(runners)})"
        )
    runner(case)


def runners(folder: Path) -> dict[str, Callable[..., None]]:
    """Runners by kind from the files of a folder, each with a dict `RUNNERS`.

    Raises:
        ValueError: when two files claim a kind.
    """
    found: dict[str, Callable[..., None]] = {}
    for path in sorted(folder.glob("*.py")):
        own: dict[str, Callable[..., None]] = runpy.run_path(str(path))["RUNNERS"]
        if twice := own.keys() & found.keys():
            raise ValueError(f"{path} has a second runner of {', '.join(sorted(twice))}")
        found |= own
    return found


def _beside(module: Path) -> Path:
    for parent in module.parents:
        if (parent / "golden").is_dir():
            return parent / "golden"
    raise FileNotFoundError(f"no folder named golden beside {module} or above it")


def _digest(folder: Path) -> str:
    """Six digits of what the case holds: a case found twice runs once, a changed one runs too."""
    digest = hashlib.blake2b(digest_size=3)
    for path in _files(folder):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.iterdir() if path.is_file()))


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(path))
