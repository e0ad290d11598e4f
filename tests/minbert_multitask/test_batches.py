"""Batches: which examples they hold, in which order, and how they are padded."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.batches import Batches, TokenizedExamples
from minbert_multitask.data import Example
from minbert_multitask.tokenizer import SPECIAL_TOKENS, Tokenizer

TOKENIZER = Tokenizer([*SPECIAL_TOKENS, "a", "b"])


def examples(number, *, pairs=False):
    """Examples whose first sentence has as many words as 7 times their place, modulo 5."""
    return TokenizedExamples(
        [
            Example(
                str(i), "a " * (7 * i % 5), "b " * (3 * i % 4) if pairs else None, None if i == 3 else i / 2
            )
            for i in range(number)
        ],
        TOKENIZER,
    )


def stream(number, batch_size, *, task="sst", seed=0):
    return Batches(examples(number), task=task, batch_size=batch_size, seed=seed)


def ids(batches):
    return [batch.ids for batch in batches]


numbers = {"number": st.integers(1, 20), "batch_size": st.integers(1, 8), "seed": st.integers(0, 2**40)}


@given(**numbers, epoch=st.integers(0, 3))
def test_every_pass_holds_every_example_once(number, batch_size, seed, epoch):
    batches = stream(number, batch_size, seed=seed).epoch(epoch)
    for _ in range(3):
        one_pass = ids(islice(batches, -(-number // batch_size)))
        assert sorted(int(name) for batch in one_pass for name in batch) == list(range(number))
        assert all(len(batch) == batch_size for batch in one_pass[:-1])


@given(**numbers, epoch=st.integers(0, 3), start=st.integers(0, 30))
def test_an_epoch_goes_on_from_any_iteration_in_a_new_process(number, batch_size, seed, epoch, start):
    whole = ids(islice(stream(number, batch_size, seed=seed).epoch(epoch), start + 5))
    torch.manual_seed(start)  # the global generator has no say
    resumed = ids(islice(stream(number, batch_size, seed=seed).epoch(epoch, start=start), 5))
    assert resumed == whole[start:]


def test_the_global_generator_is_not_moved():
    before = torch.get_rng_state()
    ids(islice(stream(10, 3).epoch(0), 9))
    assert torch.equal(before, torch.get_rng_state())


def test_passes_epochs_tasks_and_seeds_have_different_orders():
    """Twelve orders of 50 examples; two of them are equal by chance once in 10^62."""
    orders = {
        tuple(name for batch in islice(batches.epoch(epoch, start=start), 10) for name in batch.ids)
        for batches in (stream(50, 5), stream(50, 5, task="sts"), stream(50, 5, seed=1))
        for epoch in (0, 1)
        for start in (0, 10)
    }
    assert len(orders) == 12


def test_every_example_comes_first_about_as_often():
    firsts = [stream(4, 1, seed=seed).at(0, 0).ids[0] for seed in range(400)]
    assert all(60 < firsts.count(str(i)) < 140 for i in range(4))


@given(indices=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_each_side_is_padded_to_its_longest_row(indices):
    batch = examples(10, pairs=True).collate(indices)
    for side, ids_, mask in (
        ([["a"] * (7 * i % 5) for i in indices], batch.input_ids, batch.attention_mask),
        ([["b"] * (3 * i % 4) for i in indices], batch.input_ids2, batch.attention_mask2),
    ):
        rows = [[2, *(5 if word == "a" else 6 for word in words), 3] for words in side]
        length = max(map(len, rows))
        assert ids_.tolist() == [row + [0] * (length - len(row)) for row in rows]
        assert mask.tolist() == [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    assert batch.ids == tuple(map(str, indices))
    expected = torch.tensor([float("nan") if i == 3 else i / 2 for i in indices])
    torch.testing.assert_close(batch.labels, expected, equal_nan=True)


def test_single_sentences_have_no_second_side():
    batch = examples(4).collate([0, 1])
    assert batch.input_ids2 is None
    assert batch.attention_mask2 is None
    moved = batch.to("meta")
    assert moved.input_ids.device.type == moved.labels.device.type == "meta"
    assert moved.ids == batch.ids
    assert moved.input_ids2 is None


@given(number=st.integers(1, 25), batch_size=st.integers(1, 9), pairs=st.booleans())
def test_map_returns_results_in_the_files_order(number, batch_size, pairs):
    tokenized, lengths, seen = examples(number, pairs=pairs), [], []

    def function(batch):
        masks = [batch.attention_mask, *([batch.attention_mask2] if pairs else [])]
        lengths.append(sum(int(mask.sum()) for mask in masks))
        seen.extend(batch.ids)
        return torch.tensor([[float(name), len(batch.ids)] for name in batch.ids])

    results = tokenized.map(function, batch_size=batch_size)
    assert results[:, 0].tolist() == list(range(number))
    assert sorted(map(int, seen)) == list(range(number))
    assert results[:, 1].max() <= batch_size
    if number % batch_size == 0:
        assert lengths == sorted(lengths, reverse=True)


def test_too_long_sentences_are_counted_once_for_each_side():
    tokenizer = Tokenizer([*SPECIAL_TOKENS, "a"], max_length=4)
    with pytest.warns(UserWarning, match="1 of 2 rows exceed 4 tokens") as caught:
        TokenizedExamples([Example("0", "a a a", "a", 1), Example("1", "a", "a", 1)], tokenizer)
    assert len(caught) == 1


@given(number=st.integers(1, 20), size=st.integers(1, 25))
def test_a_spread_is_even_and_in_order(number, size):
    whole = examples(number)
    places = [int(example.id) for example in whole.spread(size).examples]
    assert len(places) == min(size, number)
    steps = [b - a for a, b in zip(places, [*places[1:], number], strict=True)]
    assert places[0] == 0
    assert max(steps) - min(steps) <= 1


def test_a_part_keeps_examples_and_tokens_together():
    part = examples(9, pairs=True).part([7, 2])
    expected = examples(9, pairs=True).collate([7, 2])
    found = part.collate([0, 1])
    assert found.ids == expected.ids == ("7", "2")
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.input_ids2, expected.input_ids2)
