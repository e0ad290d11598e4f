"""torch.distributed.checkpoint, whose state dicts hold what an optimizer of torch has and nothing beside."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import load, save
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from gradsurgery import GSE, PCGrad

WRAPPERS = {"pcgrad": PCGrad, "gse": GSE}


def start(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    return model, WRAPPERS[name](torch.optim.AdamW(model.parameters(), lr=0.05))


def train(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(6, 4, generator=generator).double()
        targets = torch.randn(3, 6, 2, generator=generator).double()
        optimizer.zero_grad()
        optimizer.backward([lambda x=x, y=y: nn.functional.mse_loss(model(x), y) for y in targets])
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def innermost(optimizer):
    return optimizer.method.optimizer if isinstance(optimizer, GSE) else optimizer.optimizer


def state_of(model, optimizer):
    return {
        "model": model.state_dict(),
        "optimizer": get_optimizer_state_dict(model, innermost(optimizer)),
        "surgery": optimizer.state_dict()["gradsurgery"],
    }


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_inner_optimizer_and_the_surgerys_own_state_resume(name, tmp_path):
    whole = train(*start(name), range(6))
    model, optimizer = start(name)
    train(model, optimizer, range(3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        save(state_of(model, optimizer), checkpoint_id=tmp_path)

        model, optimizer = start(name)
        state = state_of(model, optimizer)
        load(state, checkpoint_id=tmp_path)
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, innermost(optimizer), state["optimizer"])
    without = copy.deepcopy((model, optimizer))
    optimizer.load_state_dict({**optimizer.state_dict(), "gradsurgery": state["surgery"]})
    assert all(map(torch.equal, train(model, optimizer, range(3, 6)), whole))
    assert not all(map(torch.equal, train(*without, range(3, 6)), whole))
