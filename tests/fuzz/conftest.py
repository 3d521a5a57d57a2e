"""How long inputs are made up for: shortly and the same in `make test`, long and differently in `make soak`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SECONDS_VARIABLE = "EDGECLS_FUZZ_SECONDS"
SECONDS = float(os.environ.get(SECONDS_VARIABLE, "0"))
"""For each kind of file; 0 means the short form."""
_CALM = {"deadline": None, "suppress_health_check": list(HealthCheck)}

settings.register_profile("short", max_examples=150, derandomize=True, **_CALM)
settings.register_profile("soak", max_examples=3_000, **_CALM)
settings.load_profile("soak" if SECONDS else "short")
