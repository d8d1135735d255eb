"""The depth domain as the command line sees it: import paths only, nothing heavy."""

from __future__ import annotations

from diffusion_suite.core.domain import Command, Domain

_ROOM = "diffusion_suite.depth"

DOMAIN = Domain(
    name="depth",
    help="depth from one picture: relative or metric, with uncertainty",
    configs=f"{_ROOM}.configs",
    systems={
        "depth": {
            "train": Command(
                help="train on drawn pictures, or on pictures with depth",
                schema=f"{_ROOM}.config:TrainDepthConfig",
                run=f"{_ROOM}.train:run",
            ),
        }
    },
)
