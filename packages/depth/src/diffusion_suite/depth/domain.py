"""The depth domain as the command line sees it: import paths only, nothing heavy."""

from __future__ import annotations

from diffusion_suite.core.domain import Command, Domain

_ROOM = "diffusion_suite.depth"

DOMAIN = Domain(
    name="depth",
    help="depth from one picture: relative or metric, with uncertainty",
    configs=f"{_ROOM}.configs",
    demo=f"{_ROOM}.demo:run",
    systems={
        "depth": {
            "train": Command(
                help="train on drawn pictures, or on pictures with depth",
                schema=f"{_ROOM}.config:TrainDepthConfig",
                run=f"{_ROOM}.train:run",
            ),
            "predict": Command(
                help="depth of pictures (PNG, JPEG, TIFF, WebP, ...) and videos, at their own size",
                schema=f"{_ROOM}.config:PredictConfig",
                run=f"{_ROOM}.predict:run",
                examples=(
                    "diffusion-suite depth predict photo.jpg",
                    "diffusion-suite depth predict photos/ -o depths outputs=[tiff,points]",
                    "diffusion-suite depth predict room.jpg known=measured.csv",
                ),
            ),
            "evaluate": Command(
                help="measure predicted depth against true depth",
                schema=f"{_ROOM}.config:EvaluateConfig",
                run=f"{_ROOM}.evaluate:run",
            ),
            "convert": Command(
                help="published weights to ours, ours to the published layout",
                schema=f"{_ROOM}.config:ConvertConfig",
                run=f"{_ROOM}.convert:run",
            ),
            "info": Command(
                help="what a picture or a checkpoint holds",
                schema=f"{_ROOM}.config:InfoConfig",
                run=f"{_ROOM}.info:run",
            ),
        }
    },
)
