"""Lets the tests of this folder share pictures_on_disk.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny network that was never trained."""
    from pictures_on_disk import save_network

    return save_network(tmp_path_factory.mktemp("weights"))
