"""A sharded run saved on 2 ranks by torch.distributed.checkpoint goes on, on 4, as one process would have."""

import pickle
import warnings

import pytest
import torch
from torch.distributed.checkpoint import load, save
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from gradsurgery import GSE, GradVac, NashMTL, PCGrad
from tests.gradsurgery import joined
from tests.versions import needs_fully_shard

pytestmark = needs_fully_shard
METHODS = {
    "PCGrad": PCGrad,
    "GradVac": lambda inner, **options: GradVac(inner, beta=0.5, **options),
    "NashMTL": lambda inner, **options: NashMTL(inner, update_every=4, **options),
    "GSE": lambda inner, **options: GSE(PCGrad(inner, reduction="mean", **options)),
}
HALF, END = range(3), range(3, joined.STEPS)


class Used(joined.Model):
    """Of an unused parameter torch's own state has no entry to load."""

    def __init__(self):
        super().__init__()
        del self.unused


def adam_around(name, module, seed=5):
    inner = torch.optim.AdamW(module.parameters(), lr=joined.LR)
    return METHODS[name](inner, generator=torch.Generator().manual_seed(seed)), inner


def state_of(module, optimizer, inner):
    return {
        "model": module.state_dict(),
        "optimizer": get_optimizer_state_dict(module, inner),
        "surgery": pickle.dumps(optimizer.state_dict()["gradsurgery"]),
    }


def first_half(rank, world, name, folder):
    module = joined.fsdp(Used)
    optimizer, inner = adam_around(name, module, joined.seed_of(rank))
    joined.train(module, optimizer, joined.part_of(rank, world), steps=HALF)
    save(state_of(module, optimizer, inner), checkpoint_id=folder)


def second_half(rank, world, name, folder):
    module = joined.fsdp(Used)
    optimizer, inner = adam_around(name, module, joined.seed_of(rank) + 1)
    state = state_of(module, optimizer, inner)
    load(state, checkpoint_id=folder)
    module.load_state_dict(state["model"])
    set_optimizer_state_dict(module, inner, state["optimizer"])
    optimizer.load_state_dict({**optimizer.state_dict(), "gradsurgery": pickle.loads(state["surgery"])})
    return joined.train(module, optimizer, joined.part_of(rank, world), steps=END)


@pytest.mark.parametrize("name", METHODS)
def test_saved_on_two_ranks_and_loaded_on_four(ranks, tmp_path, name):
    module = Used()
    optimizer, _ = adam_around(name, module)
    expected = joined.train(module, optimizer, joined.batch)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        ranks.run(first_half, 2, name, tmp_path)
        joined.check(ranks.run(second_half, 4, name, tmp_path), expected)
