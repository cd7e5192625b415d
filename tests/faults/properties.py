"""Settings of property-based tests: seconds in the gate, as long as HYPOTHESIS_EXAMPLES says."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SETTINGS = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "60")),
    deadline=None,
    print_blob=True,  # how to run a failure again
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
