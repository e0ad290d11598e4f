"""A library's import brings next to nothing beyond torch's: counted here, timed in the results file."""

import json
import sys

import pytest

from benchmarks import import_time

COMMITTED = json.loads(import_time.OUTPUT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("library", import_time.LIBRARIES)
def test_what_an_import_brings_is_a_few_modules_of_the_standard_library(library):
    brought = import_time.modules(library)
    assert {module.partition(".")[0] for module in brought} <= sys.stdlib_module_names
    assert len(brought) <= 8, brought


@pytest.mark.parametrize("library", import_time.LIBRARIES)
def test_the_committed_run_is_under_five_percent_of_torchs_import(library):
    assert COMMITTED[library]["share"]["median"] < 0.05
    assert COMMITTED[library]["share"]["high"] < 0.05
    assert COMMITTED["measured_with"]["versions"].keys() >= {"python", "torch", library}


def test_the_share_is_the_librarys_time_over_torchs():
    times = import_time.times("smartreg")
    assert times["share"] == pytest.approx(times["library_ms"] / times["torch_ms"])
    assert 0 < times["library_ms"] < times["torch_ms"]
