"""Every recorded case of the core, in float64 and in float32, by the runner of its kind.

`golden_runners/<room>.py` holds `RUNNERS`: kind -> function (case, dtype).
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from diffusion_suite.core.testing import Case, cases, dispatch

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_runners.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROOMS = [load(path) for path in sorted((Path(__file__).parent / "golden_runners").glob("*.py"))]
RUNNERS = {kind: runner for room in ROOMS for kind, runner in room.RUNNERS.items()}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", cases("core"))
def test_case(case: Case, precision: str) -> None:
    dispatch(case, {kind: functools.partial(run, dtype=DTYPES[precision]) for kind, run in RUNNERS.items()})
