"""Build backend of the meta-distribution: hatchling, plus one rule for pip inside a checkout.

pip cannot be told where the sibling distributions of a checkout lie: ``pip install '.[geo]'`` would look
for them on an index. So when pip drives the build and the siblings are there, their requirements point at
the folders beside this one. For ``pip install -e`` they point at editable wheels built here, because a
requirement cannot ask for an editable install while pip does install an editable wheel. Every other tool
(build, uv, a release) sees the plain requirements.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.build import build_sdist, get_requires_for_build_editable
from hatchling.builders.wheel import WheelBuilder

__all__ = ["build_editable", "build_sdist", "build_wheel", "get_requires_for_build_editable"]

ROOT = Path(__file__).resolve().parents[1]
SIBLING = re.compile(r"diffusion-suite-(\w+)(\[[\w,-]+\])?~=.*")


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Build the wheel of metadata; siblings of a checkout are installed as copies."""
    return _build(wheel_directory, editable=False)


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Build the wheel of metadata; siblings of a checkout are installed editable."""
    return _build(wheel_directory, editable=True)


def _build(wheel_directory: str, editable: bool) -> str:
    builder = WheelBuilder(str(ROOT))
    # pip sets the variable for each build that it drives, and sdists hold no packages/core.
    if (ROOT / "packages/core/pyproject.toml").is_file() and "PIP_BUILD_TRACKER" in os.environ:
        config = builder.metadata.config
        config["tool"]["hatch"]["metadata"] = {"allow-direct-references": True}
        project = config["project"]
        project["dependencies"] = [_place(needed, editable) for needed in project["dependencies"]]
        extras = project["optional-dependencies"]
        project["optional-dependencies"] = {
            extra: [_place(needed, editable) for needed in needs] for extra, needs in extras.items()
        }
    return os.path.basename(next(builder.build(directory=wheel_directory, versions=["standard"])))


def _place(requirement: str, editable: bool) -> str:
    match = SIBLING.fullmatch(requirement)
    if match is None:
        return requirement
    place = ROOT / "packages" / match[1]
    if editable:
        builder = WheelBuilder(str(place))
        place = Path(next(builder.build(directory=str(ROOT / "build"), versions=["editable"])))
    return f"diffusion-suite-{match[1]}{match[2] or ''} @ {place.as_uri()}"
