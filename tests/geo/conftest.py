"""Lets the tests of this folder share scenes_on_disk.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
