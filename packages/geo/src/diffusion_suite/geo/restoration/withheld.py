"""Samples kept from a fit to judge it by, so that it stops without a clean cube."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.measurement import Whitened
from diffusion_suite.geo.restoration.noise import Flags, Values

SHARE = 0.015
"""Share of the observed samples that judge a fit or calibrate the uncertainty."""

EXPECTED, SPREAD = 1.3, 0.25
"""Error variance over the posterior variance before any sample is looked at, and its relative deviation.

The posterior does not count what lies outside the spectral subspace nor the errors of the spectra.
"""

NOISE_DOUBT = {"given": 0.01, "estimated": 0.06}
"""Relative error of the variance of the noise, which an error found on noisy samples inherits whole."""


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
        """Mean squared error of restored values (in units of the noise), the samples' noise included.

        It is 0 for a cube so small that no sample was withheld.
        """
        if not self.flags.any():
            return 0.0
        return float(np.mean((values[self.flags] - self.values) ** 2))


def calibration(error: float, predicted: float, count: int, noise: str) -> float:
    """Factor on the posterior standard deviation.

    The error found on noisy samples, less the noise, is worth little where it is small against the noise: it
    is weighed against what is expected by the variances of the two.

    Args:
        error: mean squared error on withheld samples in units of the noise, the noise's 1 taken off.
        predicted: mean posterior variance at these samples.
        count: of the samples.
        noise: whether its level was "given" or "estimated".
    """
    predicted = max(predicted, 1e-12)
    expected = EXPECTED * predicted
    doubt = np.hypot(np.sqrt(2 / count) * (1 + expected), NOISE_DOUBT[noise])
    share = 1 / (1 + (doubt / (SPREAD * expected)) ** 2)
    found = expected + share * (error - expected)
    return float(np.clip(np.sqrt(max(found, 0) / predicted), 0.5, 3))


def hold_out(measured: Whitened, seed: int) -> Flags:
    """Random flags on `SHARE` of the observed samples."""
    draw = numpy_generator(seed, "withheld").random(measured.observed.shape, dtype=np.float32)
    return np.asarray((draw < SHARE) & measured.observed)
