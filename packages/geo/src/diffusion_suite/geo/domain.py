"""The geo domain as the command line sees it: import paths only, nothing heavy."""

from __future__ import annotations

from diffusion_suite.core.domain import Command, Domain

_ROOM = "diffusion_suite.geo.restoration"

DOMAIN = Domain(
    name="geo",
    help="hyperspectral scenes: remove noise and stripes, fill gaps, sharpen",
    configs="diffusion_suite.geo.configs",
    default="default",
    systems={
        "restoration": {
            "train": Command(
                help="train the image prior that mode=prior uses",
                schema=f"{_ROOM}.config:TrainPriorConfig",
                run=f"{_ROOM}.train:run",
            ),
            "predict": Command(
                help="restore scenes (GeoTIFF, COG, ENVI, NetCDF, .mat, .npz, .npy), same format out",
                schema=f"{_ROOM}.config:PredictConfig",
                run=f"{_ROOM}.predict:run",
            ),
            "evaluate": Command(
                help="measure restored scenes against clean ones, or compare modes on a simulated loss",
                schema=f"{_ROOM}.config:EvaluateConfig",
                run=f"{_ROOM}.evaluate:run",
            ),
            "convert": Command(
                help="scene to another format, or weights to safetensors",
                schema=f"{_ROOM}.config:ConvertConfig",
                run=f"{_ROOM}.convert:run",
            ),
            "info": Command(
                help="what a scene or a checkpoint holds",
                schema=f"{_ROOM}.config:InfoConfig",
                run=f"{_ROOM}.info:run",
            ),
        }
    },
    demo=f"{_ROOM}.demo:run",
)
