"""The encoder with its heads: pairs as two plain forwards, pooling written out, padding without effect."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from minbert_multitask.batches import Batch
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.heads import PARAPHRASE_HEADS, SIMILARITY_HEADS, SentimentHead
from minbert_multitask.model import MultitaskModel

PAD, VOCABULARY, D = 3, 20, 8
CONFIG = BertConfig(
    vocab_size=VOCABULARY,
    hidden_size=D,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
    pad_token_id=PAD,
    initializer_range=0.3,
)
CLS, MEAN, MAX, JOINT = (
    EXPERIMENTS[row] for row in ("cosine-2d+1", "cosine-2d+1-mean", "max-pooling", "joint-pairs")
)
POOLED = {
    "cls": lambda hidden: hidden[0],
    "mean": lambda hidden: sum(hidden) / len(hidden),
    "max": lambda hidden: torch.stack([max(column) for column in hidden.T]),
}
TASKS = ("sst", "qqp", "sts")


def model_of(experiment=CLS):
    torch.manual_seed(0)
    return MultitaskModel(BertModel(CONFIG), experiment).double().eval()


def side(lengths, seed):
    """Token ids and their mask, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    return ids, mask


def batch_of(task, first=(5, 2, 7), second=(3, 9, 1)):
    ids, mask = side(first, 1)
    ids2, mask2 = side(second, 2) if task != "sst" else (None, None)
    labels = torch.tensor([1.0, 0.0, 1.0])[: len(first)]
    return Batch(
        ids=("a", "b", "c")[: len(first)],
        labels=labels,
        input_ids=ids,
        attention_mask=mask,
        input_ids2=ids2,
        attention_mask2=mask2,
    )


def plain_sentences(model, ids, mask, pooling):
    """A sentence at a time, without padding."""
    rows = []
    for row, length in zip(ids, mask.sum(1).tolist(), strict=True):
        (hidden,) = model.encoder(row[None, :length], torch.ones(1, length)).last_hidden_state
        rows.append(POOLED[pooling](hidden))
    return torch.stack(rows)


@pytest.mark.parametrize("experiment", [CLS, MEAN, MAX], ids=["cls", "mean", "max"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("lengths", [((5, 2, 7), (3, 9, 1)), ((4, 4, 4), (4, 4, 4)), ((6,), (2,))])
def test_outputs_are_the_heads_of_each_sentence_encoded_alone(experiment, task, lengths):
    model, batch = model_of(experiment), batch_of(task, *lengths)
    sides = [(batch.input_ids, batch.attention_mask)]
    if task != "sst":
        sides.append((batch.input_ids2, batch.attention_mask2))
    sentences = [plain_sentences(model, *each, experiment.pooling) for each in sides]
    for found, expected in zip(model.sentences(task, batch), sentences, strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model(task, batch), model.heads[task](*sentences))


@pytest.mark.parametrize("task", TASKS)
def test_the_forward_is_its_two_halves(task):
    model, batch = model_of(), batch_of(task)
    embeddings, masks = model.embed(task, batch)
    assert torch.equal(model.outputs(task, embeddings, masks), model(task, batch))
    if task == "sst":
        assert embeddings.shape == (3, 7, D)
        assert torch.equal(masks, batch.attention_mask)
        embeddings = (embeddings,)
    else:
        assert [e.shape for e in embeddings] == [(3, 9, D)] * 2
        assert [mask.sum(1).tolist() for mask in masks] == [[5, 2, 7], [3, 9, 1]]
    for e in embeddings:  # the block ends with a layer norm, which is new here
        torch.testing.assert_close(e.mean(-1), torch.zeros_like(e.mean(-1)))
        torch.testing.assert_close(e.var(-1, correction=0), torch.ones_like(e.mean(-1)))


@pytest.mark.parametrize("task", ["qqp", "sts"])
@pytest.mark.parametrize("lengths", [((5, 2, 7), (3, 9, 1)), ((4, 4, 4), (4, 4, 4)), ((6,), (2,))])
def test_joint_pairs_are_encoded_as_one_row_whose_second_sentence_has_token_type_1(task, lengths):
    model, batch = model_of(JOINT), batch_of(task, *lengths)
    expected = []
    for index, (first, second) in enumerate(zip(*lengths, strict=True)):
        a, b = batch.input_ids[index, :first], batch.input_ids2[index, :second]
        pair = torch.cat([a, b[1:]])[None]  # the second's [CLS] is left out
        types = torch.tensor([[0] * first + [1] * (second - 1)])
        expected.append(model.encoder(pair, torch.ones_like(pair), types).last_hidden_state[0, 0])
    (found,) = model.sentences(task, batch)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(model(task, batch), model.heads[task](torch.stack(expected)))


def test_a_joint_pair_longer_than_the_models_positions_loses_its_end():
    model = model_of(JOINT)
    long, cut = batch_of("qqp", (10,), (12,)), batch_of("qqp", (10,), (12,))
    cut = replace(cut, input_ids2=cut.input_ids2[:, :7], attention_mask2=cut.attention_mask2[:, :7])
    torch.testing.assert_close(model("qqp", long), model("qqp", cut))  # 10 + 12 - 1 > 16 = 10 + 7 - 1


def test_a_pair_is_one_forward_of_twice_the_rows():
    model = model_of()
    with patch.object(model.encoder, "encode", wraps=model.encoder.encode) as encode:
        model("qqp", batch_of("qqp"))
    assert [call.args[0].shape for call in encode.call_args_list] == [(6, 9, D)]


@pytest.mark.parametrize("experiment", [CLS, MEAN, MAX], ids=["cls", "mean", "max"])
@pytest.mark.parametrize("task", TASKS)
def test_more_padding_changes_nothing_whatever_it_holds(experiment, task):
    model, batch = model_of(experiment), batch_of(task)
    wider = {}
    for name in ("input_ids", "attention_mask", "input_ids2", "attention_mask2"):
        tensor = getattr(batch, name)
        if tensor is not None:
            wider[name] = torch.nn.functional.pad(tensor, (0, 4), value=11 if "ids" in name else 0)
    torch.testing.assert_close(model(task, replace(batch, **wider)), model(task, batch))


@pytest.mark.parametrize("task", TASKS)
def test_a_task_reaches_the_encoder_and_its_own_head_alone(task):
    model, batch = model_of(), batch_of(task)
    model.head(task).loss(model(task, batch), batch.labels).backward()
    reached = {
        name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and "heads" in name
    }
    assert reached == {task}
    untouched = {name for name, p in model.encoder.named_parameters() if p.grad is None}
    assert untouched
    assert all(name.startswith("pooler.") for name in untouched)


@pytest.mark.parametrize("row", list(EXPERIMENTS))
def test_every_row_has_its_heads_and_its_pooling(row):
    experiment = EXPERIMENTS[row]
    model = model_of(experiment)
    assert type(model.head("sst")) is SentimentHead
    assert type(model.head("qqp")) is PARAPHRASE_HEADS[experiment.paraphrase]
    assert type(model.head("sts")) is SIMILARITY_HEADS[experiment.similarity]
    assert model.pooling == experiment.pooling


def test_a_seed_gives_every_row_the_same_encoder_and_the_same_sentiment_head():
    models = [model_of(EXPERIMENTS[row]) for row in ("baseline", "cosine-2d+1-3x")]
    first, second = (m.state_dict() for m in models)
    assert all(torch.equal(first[name], second[name]) for name in first if "heads.sts" not in name)
