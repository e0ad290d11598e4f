"""Activation checkpointing, of both kinds: the forward is run again in the backward of each task."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradsurgery import GSE, PCGrad

CHECKPOINTED = {"without reentering": False, "reentrant": True}


class Model(nn.Module):
    """Blocks with dropout under two heads; counts the calls of its blocks."""

    def __init__(self, use_reentrant=None):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.3)) for _ in "ab")
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))
        self.use_reentrant = use_reentrant
        self.calls = 0
        self.blocks[1].register_forward_pre_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def forward(self, x):
        for block in self.blocks:
            if self.use_reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return x


def tasks(model):
    """Returns callables, each with a forward of its own."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, 4, generator=generator), torch.randn(2, 6, 1, generator=generator)

    def task(k):
        def loss():
            # A reentrant checkpoint has a gradient only where its input has one.
            outputs = model.heads[k](model(x[k].clone().requires_grad_()))
            return nn.functional.mse_loss(outputs, 3 * y[k])

        return loss

    return [task(0), task(1)]


def losses(model):
    return [task() for task in tasks(model)]


def losses_of_one_forward(model):
    hidden = model(torch.ones(6, 4, requires_grad=True))
    return [head(hidden).sub(k - 1).square().mean() for k, head in enumerate(model.heads)]


FORMS = {"callables": tasks, "losses": losses, "losses of one forward": losses_of_one_forward}
WRAPPERS = {
    "pcgrad": PCGrad,
    "recompute": GSE,
    "reuse": lambda inner: GSE(inner, second_update="reuse"),
}


def trained(model, wrap, form, steps=3):
    optimizer = wrap(torch.optim.AdamW(model.parameters(), lr=0.02))
    torch.manual_seed(2)  # of the dropout masks
    for _ in range(steps):
        optimizer.zero_grad()
        optimizer.backward(FORMS[form](model))
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", CHECKPOINTED)
def test_checkpointed_activations_change_nothing(kind, form, name):
    if name == "recompute" and form != "callables":
        pytest.skip("to recompute, GSE takes callables")
    plain, model = Model(), Model(CHECKPOINTED[kind])
    expected = trained(plain, WRAPPERS[name], form)
    found = trained(model, WRAPPERS[name], form)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert model.calls > plain.calls  # its forwards were run again
