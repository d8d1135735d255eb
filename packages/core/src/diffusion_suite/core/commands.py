"""The commands of the core itself, as a domain record: import paths only, nothing heavy."""

from __future__ import annotations

from diffusion_suite.core.domain import Command, Domain

DOMAIN = Domain(
    name="core",
    help="what the domains share: train an encoder on your files, compare sets of files",
    configs="diffusion_suite.core.configs",
    systems={
        "core": {
            "pretrain": Command(
                help="train an encoder of pictures on a folder, without labels",
                schema="diffusion_suite.core.encoders.config:PretrainConfig",
                run="diffusion_suite.core.encoders.pretrain:run",
                inputs="FOLDER ...",
                examples=("diffusion-suite core pretrain pictures/ -o runs/encoder",),
            ),
            "evaluate": Command(
                help="distance, fidelity, diversity and memorisation of generated against real files",
                schema="diffusion_suite.core.metrics.config:EvaluateConfig",
                run="diffusion_suite.core.metrics.evaluate:run",
                inputs="REAL FAKE",
                examples=("diffusion-suite core evaluate real/ fake/ --metrics [fd,kd,precision]",),
            ),
        }
    },
)
