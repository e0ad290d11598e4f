"""Hypothesis profiles: `default`, which draws the same examples in every run, so that a change alone can fail
it; `deep` for `make test-deep`, which draws others each time; `mutations`, to which any failure will do."""

import os

from hypothesis import HealthCheck, Phase, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("default", max_examples=200, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=2_000, **_COMMON)
settings.register_profile("mutations", max_examples=200, phases=(Phase.explicit, Phase.generate), **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
