"""A complete small domain, as a third party would write one."""

from diffusion_suite.core.domain import Command, Domain

DOMAIN = Domain(
    name="toy",
    help="noise for arrays",
    configs="diffusion_suite.toy.configs",
    systems={
        "noise": {
            "train": Command(
                "fit a layer", "diffusion_suite.toy.config:Train", "diffusion_suite.toy.run:train"
            ),
            "predict": Command(
                "add noise", "diffusion_suite.toy.config:Predict", "diffusion_suite.toy.run:predict"
            ),
            "info": Command(
                "tell a shape", "diffusion_suite.toy.config:Info", "diffusion_suite.toy.run:info"
            ),
        }
    },
)
