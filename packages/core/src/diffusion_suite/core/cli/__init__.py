"""The command line of the suite: ``diffusion-suite DOMAIN COMMAND [INPUT ...] [key=value ...]``."""

from diffusion_suite.core.cli.main import main

__all__ = ["main"]
