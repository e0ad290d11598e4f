"""The declarations of the rows, against the paper's table."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.experiments import (
    EXPERIMENTS,
    TASKS,
    ParaphraseHeadName,
    Pooling,
    SimilarityHeadName,
    SmartPreset,
    Update,
    select,
)
from minbert_multitask.protocol import CLAIMS

# The rows of the table: name, update, similarity head, pooling, SMART, iterations' multiple.
PAPER = [
    ("baseline", "separate", "linear", "cls", None, 1),
    ("multitask", "sum", "linear", "cls", None, 1),
    ("gs", "pcgrad", "linear", "cls", None, 1),
    ("gse", "gse", "linear", "cls", None, 1),
    ("cosine-embedding", "gse", "cosine-embedding", "cls", None, 1),
    ("cosine-d", "gse", "cosine-d", "cls", None, 1),
    ("cosine-2d+1", "gse", "cosine-2d+1", "cls", None, 1),
    ("cosine-2d+1-mean", "gse", "cosine-2d+1", "mean", None, 1),
    ("smart", "sum", "linear", "cls", "paper", 1),
    ("smart-gse", "gse", "linear", "cls", "paper", 1),
    ("gse-3x", "gse", "linear", "cls", None, 3),
    ("cosine-2d+1-3x", "gse", "cosine-2d+1", "cls", None, 3),
    ("smart-3x", "sum", "linear", "cls", "paper", 3),
]
OURS = [
    ("zero-shot", "none", "linear", "mean", None, 1),
    ("gse-reuse", "gse-reuse", "linear", "cls", None, 1),
    ("smart-library", "sum", "linear", "cls", "smart-pytorch", 1),
]
BEYOND = [
    *(
        (name, name, "linear", "cls", None, 1)
        for name in (
            "cagrad",
            "upgrad",
            "mgda",
            "nash-mtl",
            "aligned-mtl",
            "imtl-g",
            "config",
            "uncertainty",
            "dwa",
        )
    ),
    ("mean-pooling", "sum", "linear", "mean", None, 1),
    ("max-pooling", "sum", "linear", "max", None, 1),
    ("agreement", "sum", "agreement", "cls", None, 1),
    ("joint-pairs", "sum", "joint", "cls", None, 1),
    ("masked-lm", "sum", "linear", "cls", None, 1),
    ("best", "sum", "cosine-scaled", "mean", None, 12),
    ("smart-bregman", "sum", "linear", "cls", "paper", 1),
    ("smart-gse-bregman", "gse", "linear", "cls", "paper", 1),
    ("smart-calibrated", "sum", "linear", "cls", "paper", 1),
]
NAMES = [row[0] for row in PAPER + OURS + BEYOND]


def declared(row):
    return (row.name, row.update, row.similarity, row.pooling, row.smart, row.epoch_multiple)


def test_the_papers_thirteen_rows_come_first_and_in_its_order_then_ours():
    assert [declared(row) for row in EXPERIMENTS.values()] == PAPER + OURS + BEYOND
    assert list(EXPERIMENTS) == NAMES
    groups = [row.group for row in EXPERIMENTS.values()]
    assert groups == ["paper"] * 13 + ["beside"] * 3 + ["beyond"] * len(BEYOND)


def test_the_rows_with_another_paraphrase_head():
    heads = {name: row.paraphrase for name, row in EXPERIMENTS.items() if row.paraphrase != "linear"}
    assert heads == {"agreement": "agreement", "joint-pairs": "joint", "best": "agreement"}


def test_one_row_is_trained_on_masked_tokens_first():
    assert [name for name, row in EXPERIMENTS.items() if row.masked_lm] == ["masked-lm"]


def test_the_learning_rate_falls_in_the_row_that_is_in_no_claim():
    assert [name for name, row in EXPERIMENTS.items() if row.lr_decay] == ["best"]
    assert not any("best" in (claim.row, claim.reference) for claim in CLAIMS)


def test_the_rows_with_the_second_half_of_smart_and_with_an_epsilon_of_their_own():
    weights = {name: row.bregman_weight for name, row in EXPERIMENTS.items() if row.bregman_weight}
    assert weights == {"smart-bregman": 1.0, "smart-gse-bregman": 1.0}
    assert [name for name, row in EXPERIMENTS.items() if row.smart_calibrated] == ["smart-calibrated"]


def test_the_penalty_weighs_five_everywhere():
    assert {row.smart_weight for row in EXPERIMENTS.values()} == {5.0}


def test_every_row_says_in_one_line_what_it_is():
    lines = [row.what for row in EXPERIMENTS.values()]
    assert len(set(lines)) == len(lines)
    assert all(line and "\n" not in line and len(line) <= 95 for line in lines)


def test_every_choice_is_used_by_some_row():
    for attribute, choices in (
        ("update", [name for choice in get_args(Update) for name in get_args(choice)]),
        ("similarity", get_args(SimilarityHeadName)),
        ("paraphrase", get_args(ParaphraseHeadName)),
        ("pooling", get_args(Pooling)),
        ("smart", (None, *get_args(SmartPreset))),
    ):
        assert {getattr(row, attribute) for row in EXPERIMENTS.values()} == set(choices)


def test_tasks_are_in_the_order_of_the_baselines_updates():
    assert TASKS == ("sst", "qqp", "sts")


@given(st.lists(st.sampled_from(NAMES)))
def test_select_keeps_the_order_asked_for_and_drops_repetitions(names):
    assert [row.name for row in select(names)] == list(dict.fromkeys(names))


def test_select_knows_the_groups():
    assert [row.name for row in select(["paper"])] == NAMES[:13]
    assert [row.name for row in select(["all"])] == NAMES
    assert [row.name for row in select(["beside", "beyond"])] == NAMES[13:]
    assert [row.name for row in select(["zero-shot", "gse", "paper"])][:3] == ["zero-shot", "gse", "baseline"]
    assert len(select(["smart-3x", "all", "paper"])) == len(NAMES)


def test_what_a_row_was_and_is():
    row = EXPERIMENTS["cosine-2d+1-mean"]
    former = row.definition()
    assert row.changed(former) == row.changed({}) == {}
    assert row.changed({**former, "similarity": "linear"}) == {"similarity": ("linear", "cosine-2d+1")}
    assert row.changed({**former, "gone": 3}) == {"gone": (3, None)}
    del former["pooling"]  # as if rows had got it since
    assert row.changed(former) == {"pooling": ("cls", "mean")}


@pytest.mark.parametrize("name", ["pcgrad", "GSE", "", "cosine-2d", "all "])
def test_an_unknown_row_is_refused_with_the_names_there_are(name):
    with pytest.raises(ValueError, match=f"^no row is named '{name}'; choose from ") as caught:
        select(["gse", name])
    assert str(caught.value).split("choose from ")[1].split(", ") == [
        "all",
        "paper",
        "beside",
        "beyond",
        *NAMES,
    ]
