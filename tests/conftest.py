"""Settings of the whole test run."""

import os

from hypothesis import HealthCheck, settings

# Before torch is imported: threads that spin while they wait are slow on a machine that other work shares.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=_CHECKS
)
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=_CHECKS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
