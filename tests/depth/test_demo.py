"""The demo shows and measures scikit-image's photographs, whatever the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_suite.depth import demo

pytest.importorskip("skimage")


def test_demo(network: Path, tmp_path: Path) -> None:
    shown, measured = demo.run(tmp_path, str(network))
    assert len(shown.pictures) == 4
    for picture in shown.pictures:
        assert Image.open(picture.path).width > 800
    assert [row["fitted"] for row in measured.table] == list(demo.ROWS.values())


def test_the_motorcycle_is_metres_away() -> None:
    photographs, truth = demo.samples()
    assert photographs["motorcycle"].shape[:2] == truth.shape
    assert 2.1 < np.nanmin(truth) < np.nanmax(truth) < 5.1
