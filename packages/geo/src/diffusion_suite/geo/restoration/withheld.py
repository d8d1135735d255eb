"""Samples kept from a fit to judge it by, so that it stops without a clean cube."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.measurement import Whitened
from diffusion_suite.geo.restoration.noise import Flags, Values

SHARE = 0.015
"""Share of the observed samples that judge a fit or calibrate the uncertainty."""


@dataclass(frozen=True)
class Withheld:
    """Samples kept from the fit to judge it by.

    Attributes:
        flags: (rows, columns, bands).
        values: samples under the flags, in units of the noise.
    """

    flags: Flags
    values: Values

    def error(self, values: Values) -> float:
        """Mean squared error of restored values (in units of the noise), the samples' noise included."""
        return float(np.mean((values[self.flags] - self.values) ** 2))


def hold_out(measured: Whitened, seed: int) -> Flags:
    """Random flags on `SHARE` of the observed samples."""
    draw = numpy_generator(seed, "withheld").random(measured.observed.shape, dtype=np.float32)
    return np.asarray((draw < SHARE) & measured.observed)
