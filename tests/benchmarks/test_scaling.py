"""What a step sends, counted on real ranks and on simulated ones, is what the page says on paper."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.measure import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
SHAPES = [(8, 8), (8,)] * scaling.BLOCKS
P = 72 * scaling.BLOCKS


def bytes_of(found):
    return {kind: entry["bytes"] for kind, entry in found.items()}


def on_paper(way, parameters, tensors):
    plain, surgery = (
        bytes_of(scaling.expected(parameters, tensors, way, plain=plain)) for plain in (True, False)
    )
    return {"plain": plain, "surgery": surgery}


def counted(rank, world):
    return {"DDP": scaling.replicated(SHAPES), "FSDP2": scaling.sharded(SHAPES)}


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_send_what_is_on_paper(ranks, world):
    for found in ranks.run(counted, world):
        for way, steps in found.items():
            assert {k: bytes_of(v) for k, v in steps.items()} == on_paper(way, P, len(SHAPES))
        surgery, plain = found["FSDP2"]["surgery"], found["FSDP2"]["plain"]
        assert surgery["all-reduce"]["messages"] == 2  # the comparison and the Gramian
        assert surgery["all-gather"] == plain["all-gather"]
        assert surgery["reduce-scatter"]["messages"] == scaling.TASKS * plain["reduce-scatter"]["messages"]


@pytest.fixture(scope="module")
def results():
    return json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))


def test_simulated_ranks_send_what_is_on_paper(results):
    assert [case["ranks"] for case in results["counted"]] == [8, 64, 512]
    for case in results["counted"]:
        for way in ("DDP", "FSDP2"):
            found = {k: bytes_of(v) for k, v in case[way].items()}
            size = results["parameters"]
            if way == "FSDP2":  # the first dimension is filled up to shards of one length
                n = case["ranks"]
                size = sum(-(-first // n) * n * math.prod(rest) for first, *rest in scaling.CHOSEN)
            assert found == on_paper(way, size, results["tensors"])


def test_the_model_and_the_page_are_of_the_file(results):
    assert json.loads(json.dumps(scaling.modelled())) == results["modelled"]
    assert scaling.table(results) in PAGE.read_text(encoding="utf-8")
