"""What the domains of diffusion-suite share: command line, training, checkpoints, windows, schedulers."""

from diffusion_suite.core._version import __version__

__all__ = ["__version__"]
