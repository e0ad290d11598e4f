"""Around every optimizer of torch, one task is its plain gradient: bit by bit what the bare one does."""

import pytest
import torch
from torch import nn, optim

import gradsurgery
from gradsurgery import GSE, Constant, GradientSurgery, PCGrad
from tests.gradsurgery.loops import OPTIMIZERS, PROBLEMS, REFUSED, VARIANTS, Network, bit_equal, result

STEPS = 100
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
    ),
]


def bare(problem, optimizer, updates=1, evaluations=1):
    """Trains without gradsurgery, by so many updates a step after so many evaluations of its loss."""
    for step in range(STEPS):
        for update in range(updates):
            if update < evaluations:
                optimizer.zero_grad()
                problem.loss(step).backward()
            optimizer.step()
    return result(problem, optimizer)


def wrapped(problem, optimizer):
    for step in range(STEPS):
        optimizer.zero_grad()
        optimizer.backward({"task": lambda step=step: problem.loss(step)})
        optimizer.step()
    return result(problem, optimizer)


def test_every_optimizer_of_torch_is_in_the_table():
    classes = vars(optim).values()  # __all__ is younger than torch 2.4
    names = {c.__name__ for c in classes if isinstance(c, type) and issubclass(c, optim.Optimizer)}
    assert names - {"Optimizer"} - REFUSED <= VARIANTS.keys()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_task_is_bit_equal_to_the_bare_optimizer(name, device):
    make = OPTIMIZERS[name]
    problem = Network(device)
    start = result(problem, make(problem.parameters()))
    expected = bare(problem, make(problem.parameters()))
    assert not bit_equal(start, expected[: len(start)])
    for options in ({}, {"scope": "all", "granularity": "parameter", "reduction": "mean"}):
        problem = Network(device)
        assert bit_equal(wrapped(problem, PCGrad(make(problem.parameters()), **options)), expected)


@pytest.mark.parametrize(("second", "evaluations"), [("recompute", 2), ("reuse", 1)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gse_of_one_task_is_two_updates_of_the_bare_optimizer(name, second, evaluations):
    make = OPTIMIZERS[name]
    problem = Network()
    expected = bare(problem, make(problem.parameters()), updates=2, evaluations=evaluations)
    problem = Network()
    assert bit_equal(wrapped(problem, GSE(make(problem.parameters()), second_update=second)), expected)


@pytest.mark.parametrize("kind", ["dtypes", "complex"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dtypes_in_one_optimizer(name, kind):
    make, problem = OPTIMIZERS[name], PROBLEMS[kind]()
    try:
        expected = bare(problem, make(problem.parameters()))
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"torch: {error}")
    for scope in ("shared", "all"):
        problem = PROBLEMS[kind]()
        assert bit_equal(wrapped(problem, PCGrad(make(problem.parameters()), scope=scope)), expected)


METHODS = {
    name: method
    for name in gradsurgery.__all__
    if isinstance(method := getattr(gradsurgery, name), type)
    and issubclass(method, GradientSurgery)
    and method not in (GradientSurgery, Constant)
}
METHODS["Constant"] = lambda optimizer, **options: Constant(optimizer, task_weights={"task": 1.0}, **options)


@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("name", METHODS)
def test_one_task_keeps_its_gradient_in_every_method(name, scope):
    problem = Network()
    expected = bare(problem, optim.AdamW(problem.parameters(), lr=0.05))
    problem = Network()
    inner = optim.AdamW(problem.parameters(), lr=0.05)
    assert bit_equal(wrapped(problem, METHODS[name](inner, scope=scope)), expected)


@pytest.mark.parametrize("wrap", [PCGrad, GSE])
def test_optimizers_that_cannot_are_refused_in_one_sentence(wrap):
    model = nn.Embedding(5, 2, sparse=True)
    with pytest.raises(TypeError, match=r"got LBFGS, whose step\(\) evaluates the losses again") as info:
        wrap(optim.LBFGS(model.parameters()))
    assert "\n" not in str(info.value)
    optimizer = wrap(optim.SparseAdam(model.parameters()))
    with pytest.raises(ValueError, match="gradient surgery takes dense gradients") as info:
        optimizer.backward({"task": lambda: model(torch.tensor([1])).sum()})
    assert "\n" not in str(info.value)
    assert model.weight.grad is None
