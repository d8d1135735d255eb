"""Every recorded case of the core, in float64 and in float32, by the runner of its kind.

`golden_runners/<room>.py` holds `RUNNERS`: kind -> function (case, dtype).
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from diffusion_suite.core.testing import Case, cases, dispatch, runners

DTYPES = {"float64": torch.float64, "float32": torch.float32}


RUNNERS = runners(Path(__file__).parent / "golden_runners")


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", cases("core"))
def test_case(case: Case, precision: str) -> None:
    dispatch(case, {kind: functools.partial(run, dtype=DTYPES[precision]) for kind, run in RUNNERS.items()})
