"""Modules under torch.compile: their tasks are differentiated one after another, as anyone's are."""

import shutil
from functools import partial

import pytest
import torch
from torch import nn

from gradsurgery import GSE, PCGrad

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
BACKENDS = ["aot_eager", pytest.param("inductor", marks=needs_a_compiler)]
WRAPPERS = {"pcgrad": PCGrad, "gse": GSE}


@pytest.fixture(autouse=True)
def subnormals():
    """Inductor of torch 2.4 links -ffast-math, by which the process flushes subnormals to zero."""
    yield
    torch.set_flush_denormal(False)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))


def trained(module, loss, wrap=PCGrad, steps=3):
    """Returns the parameters after steps on two tasks, the loss a function of an input and of the task."""
    optimizer = wrap(torch.optim.AdamW(module.parameters(), lr=0.02))
    for step in range(steps):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        optimizer.backward([partial(loss, x, 0), partial(loss, x, 1)])
        optimizer.step()
    return [p.detach() for p in module.parameters()]


def loss_of(forward):
    return lambda x, k: forward(x).sum() if k == 0 else -forward(x).square().sum()


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_training_a_compiled_module(name, backend):
    module = network()
    expected = trained(module, loss_of(module), WRAPPERS[name])
    module = network()
    same(trained(module, loss_of(torch.compile(module, backend=backend)), WRAPPERS[name]), expected)


def test_training_by_compiled_losses():
    module = network()
    expected = trained(module, loss_of(module))
    module = network()
    same(trained(module, torch.compile(loss_of(module), backend="aot_eager")), expected)
