"""Cosines between task gradients, against the plain computation, and without a trace."""

import math
from functools import partial

import pytest
import torch
from minbert_multitask import probe
from torch import nn

TASKS = ("sst", "qqp", "sts")


@pytest.fixture
def modules():
    """A trunk of two layers, of which the last task reaches one, and heads that are not probed."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"trunk": nn.Linear(4, 3), "more": nn.Linear(3, 3), **{task: nn.Linear(3, 1) for task in TASKS}}
    ).double()


def shared(modules):
    return [*modules["trunk"].parameters(), *modules["more"].parameters()]


def loss_of(modules, task, seed, dropout=0.0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(5, size, generator=generator, dtype=torch.float64) for size in (4, 1))
    hidden = nn.functional.dropout(torch.tanh(modules["trunk"](x)), dropout)
    hidden = hidden if task == "sts" else torch.tanh(modules["more"](hidden))
    return nn.functional.mse_loss(modules[task](hidden), y)


def streams(modules, **options):
    """By task a callable whose calls take the seeds 0, 1, ... of that task."""
    calls = {task: iter(range(1000 * index, 1000 * index + 1000)) for index, task in enumerate(TASKS)}

    def loss(task):
        return loss_of(modules, task, next(calls[task]), **options)

    return {task: partial(loss, task) for task in TASKS}


def plain_gradient(modules, task, seed):
    modules.zero_grad()
    loss_of(modules, task, seed).backward()
    found = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in shared(modules)]
    )
    modules.zero_grad()
    return found


def plain_cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_cosines_are_the_plain_ones_and_the_null_compares_a_tasks_two_batches(modules):
    between, null = probe.cosines(shared(modules), streams(modules))
    first = {task: plain_gradient(modules, task, 1000 * index) for index, task in enumerate(TASKS)}
    second = {task: plain_gradient(modules, task, 1000 * index + 1) for index, task in enumerate(TASKS)}
    assert between == pytest.approx(
        {
            f"{a}-{b}": plain_cosine(first[a], first[b])
            for a, b in (("sst", "qqp"), ("sst", "sts"), ("qqp", "sts"))
        },
        abs=1e-12,
    )
    assert null == pytest.approx({task: plain_cosine(first[task], second[task]) for task in TASKS}, abs=1e-12)
    assert list(between) == ["sst-qqp", "sst-sts", "qqp-sts"]


def test_one_batch_twice_has_the_cosine_one_and_its_opposite_minus_one(modules):
    losses = {"sst": partial(loss_of, modules, "sst", 1), "sts": partial(loss_of, modules, "sts", 1)}
    losses["qqp"] = lambda: -loss_of(modules, "sst", 1)
    between, null = probe.cosines(shared(modules), losses)
    assert null == pytest.approx(dict.fromkeys(losses, 1.0))
    assert between["sst-qqp"] == pytest.approx(-1.0)
    assert between["qqp-sts"] == pytest.approx(-between["sst-sts"])


@pytest.mark.parametrize("with_gradients", [False, True])
def test_nothing_is_left_behind(modules, with_gradients):
    parameters = list(modules.parameters())
    if with_gradients:
        sum(loss_of(modules, task, 1) for task in TASKS).backward()
    before = [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in parameters]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    probe.cosines(shared(modules), streams(modules, dropout=0.5))
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, (value, gradient) in zip(parameters, before, strict=True):
        assert torch.equal(parameter, value)
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert all(p.requires_grad for p in parameters)


def test_the_generator_moves_between_the_evaluations(modules):
    losses = {task: partial(loss_of, modules, task, 1, dropout=0.5) for task in TASKS}
    _, null = probe.cosines(shared(modules), losses)
    assert all(cosine < 0.999 for cosine in null.values())  # two dropout masks, not one twice


def test_the_generator_goes_back_also_after_an_error(modules):
    def broken():
        torch.rand(3)
        raise RuntimeError("no batch")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no batch"):
        probe.cosines(shared(modules), {"sst": broken})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("factor", [0.0, math.nan, math.inf])
def test_a_gradient_of_zero_or_not_finite_has_no_cosine(modules, factor):
    losses = streams(modules)
    losses["qqp"] = lambda: factor * loss_of(modules, "qqp", 1)
    between, null = probe.cosines(shared(modules), losses)
    assert [name for name, cosine in between.items() if math.isnan(cosine)] == ["sst-qqp", "qqp-sts"]
    assert [task for task, cosine in null.items() if math.isnan(cosine)] == ["qqp"]


def test_tasks_without_a_common_parameter_have_no_conflict(modules):
    losses = streams(modules)
    losses["qqp"] = lambda: modules["more"](torch.ones(2, 3, dtype=torch.float64)).square().sum()
    between, _ = probe.cosines(shared(modules), losses)
    assert between["qqp-sts"] == 0.0
