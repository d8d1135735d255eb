"""Every recorded case of DepthFM, by the runner of its kind.

`golden_runners/<part>.py` holds `RUNNERS`: kind -> function (case).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_suite.core.testing import Case, cases, dispatch, runners

RUNNERS = runners(Path(__file__).parent / "golden_runners")


@pytest.mark.parametrize("case", cases("depthfm"))
def test_case(case: Case) -> None:
    dispatch(case, RUNNERS)
