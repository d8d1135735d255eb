"""Every recorded case of DepthFM, by the runner of its kind.

`golden_runners/<part>.py` holds `RUNNERS`: kind -> function (case).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from diffusion_suite.core.testing import Case, cases, dispatch


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"depth_golden_runners.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = [load(path) for path in sorted((Path(__file__).parent / "golden_runners").glob("*.py"))]
RUNNERS = {kind: runner for part in PARTS for kind, runner in part.RUNNERS.items()}


@pytest.mark.parametrize("case", cases("depthfm"))
def test_case(case: Case) -> None:
    dispatch(case, RUNNERS)
