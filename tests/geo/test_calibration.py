"""The factor on the posterior standard deviation."""

import pytest

from diffusion_suite.geo.restoration.withheld import EXPECTED, calibration


def test_many_samples_and_a_large_error_are_believed() -> None:
    assert calibration(4.0, 1.0, 10**6, "given") == pytest.approx(2.0, rel=0.02)


def test_few_samples_and_a_small_error_are_not() -> None:
    for error in (-0.05, 0.05):
        assert calibration(error, 0.01, 1000, "estimated") == pytest.approx(EXPECTED**0.5, rel=0.05)


def test_an_estimated_noise_level_is_believed_less() -> None:
    given, estimated = (calibration(0.2, 0.05, 10**5, noise) for noise in ("given", "estimated"))
    assert given > estimated > EXPECTED**0.5
