"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for path in ROOT.glob("packages/*/src/diffusion_suite/*/**/*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[3:]
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.docs
@pytest.mark.parametrize("name", [module_of(path) for path in FILES])
def test_examples(name: str) -> None:
    import numpy as np
    import torch

    found = doctest.testmod(importlib.import_module(name), extraglobs={"np": np, "torch": torch})
    assert found.attempted
    assert not found.failed
