"""Hypothesis profiles: `default`, which draws the same examples in every run, so that a change alone can fail
it; `deep` for `make test-deep`, which draws others each time; `mutations`, to which any failure will do."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.ranks import Ranks

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("default", max_examples=200, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=2_000, **_COMMON)
settings.register_profile("mutations", max_examples=200, phases=(Phase.explicit, Phase.generate), **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Ranks of torch.distributed, see tests/ranks.py: started at the first call, and shared by all tests."""
    torch_distributed = pytest.importorskip("torch.distributed")
    if not torch_distributed.is_available():
        pytest.skip("torch without distributed")
    started = Ranks(tmp_path_factory.mktemp("ranks"))
    yield started
    started.stop()
