"""Ranks that share each batch train what one process trains, in float64, dropout and noise included."""

from functools import partial

import pytest
import torch
from minbert_multitask.batches import Batches
from minbert_multitask.bert import BertModel
from minbert_multitask.experiments import EXPERIMENTS, TASKS
from minbert_multitask.inputs import DataSource, Inputs
from minbert_multitask.model import MultitaskModel
from minbert_multitask.settings import Settings
from minbert_multitask.shares import Share
from minbert_multitask.train import Trainer

# 24 examples a task: batches of 7, 7, 7 and 3, so that two ranks have unequal shares and four ranks too few.
SETTINGS = Settings(
    epochs=1, iterations=4, batch_size=7, lr=1e-3, seed=5, device="cpu", train_eval_size=6, probe_every=3
)
ROWS = (
    *("baseline", "gse", "cosine-2d+1-mean", "smart-gse", "smart-library"),
    *("uncertainty", "dwa", "joint-pairs"),
)


def train(inputs, row):
    """Returns the trained weights, what a checkpoint holds of the rest, and the predictions on dev."""
    torch.manual_seed(SETTINGS.seed)
    model = MultitaskModel(BertModel.from_pretrained(inputs.weights), EXPERIMENTS[row]).double()
    trainer = Trainer(
        EXPERIMENTS[row], SETTINGS, model=model, tokens=inputs.tokens, report=lambda done, note: None
    )
    trainer.train(save=lambda: None)
    return trainer.state_dict()


def on_ranks(rank, world, rows, data, weights):
    inputs = Inputs.load(DataSource("small", data), weights)
    return [train(inputs, row) for row in rows]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("world", "rows"), [(2, ROWS), (4, ("multitask", "smart"))])
def test_ranks_train_what_one_process_trains(ranks, world, rows, small_data, small_weights, small_inputs):
    states = ranks.run(on_ranks, world, rows, small_data, small_weights, seconds=200)
    for index, row in enumerate(rows):
        alone = train(small_inputs, row)
        for state in (of_rank[index] for of_rank in states):
            close(state["model"], alone["model"])
            close(state["best_dev"], alone["best_dev"])
            close(state["loss_sums"], alone["loss_sums"])
            close(state["updater"].get("balance", {}), alone["updater"].get("balance", {}))
            assert torch.equal(state["generators"]["cpu"], alone["generators"]["cpu"]), row
            for mine, right in zip(state["conflicts"], alone["conflicts"], strict=True):
                assert mine["cosines"] == pytest.approx(right["cosines"], rel=1e-6)
        assert all(torch.equal(x, y) for x, y in zip_states(states[0][index], states[-1][index])), row


def zip_states(a, b):
    return zip(a["model"].values(), b["model"].values(), strict=True)


def predict(rank, world, data, weights):
    inputs = Inputs.load(DataSource("small", data), weights)
    return [inputs.tokens[task, "dev"].map(lambda b: b.input_ids.sum(1), batch_size=5) for task in TASKS]


def test_every_rank_has_the_predictions_of_all(ranks, small_data, small_weights, small_inputs):
    expected = [
        small_inputs.tokens[task, "dev"].map(lambda b: b.input_ids.sum(1), batch_size=5) for task in TASKS
    ]
    for found in ranks.run(predict, 2, small_data, small_weights):
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("world", [2, 3, 7, 9])
def test_the_shares_are_the_batch(small_inputs, world):
    for task in TASKS:
        batch = Batches(small_inputs.tokens[task, "train"], task=task, batch_size=7, seed=5).at(0, 0)
        shares = [Share(batch, rank=rank, world=world) for rank in range(world)]
        ones = [share.loss(lambda b: torch.ones(())).item() for share in shares]
        assert sum(ones) / world == pytest.approx(1.0)
        full = [share for share, one in zip(shares, ones, strict=True) if one]
        assert len(full) == min(world, 7)
        assert [i for share in full for i in share.batch.ids] == list(batch.ids)
        assert torch.equal(torch.cat([share.batch.input_ids for share in full]), batch.input_ids)
        assert all(share.batch.share == len(share.batch.ids) / 7 for share in shares)


def test_attention_is_torchs_with_the_masks_that_torch_draws(small_inputs):
    """On the CPU, where torch computes the formula too."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, 2, 4, 8, dtype=torch.float64)
    mask = (torch.arange(4) < torch.tensor([4, 3, 2, 1, 4, 4])[:, None])[:, None, None, :]
    batch = small_inputs.tokens["sst", "train"].collate(range(6))

    def attend(rows):
        q, k, v, m = (tensor[rows] for tensor in (query, key, value, mask))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=m, dropout_p=0.4)

    torch.manual_seed(1)
    whole = attend(slice(None))
    for rank, rows in enumerate((slice(0, 3), slice(3, 6))):
        part = partial(attend, rows)
        torch.manual_seed(1)
        loss = Share(batch, rank=rank, world=2).loss(lambda _, part=part: part())
        torch.testing.assert_close(loss, whole[rows], rtol=1e-12, atol=1e-12)
