"""``python -m diffusion_suite.core.cli``."""

import sys

from diffusion_suite.core.cli.main import main

sys.exit(main())
