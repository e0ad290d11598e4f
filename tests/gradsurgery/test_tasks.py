"""Losses and callables, in mappings and sequences, at once or by micro-batches; their memory and faults."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradsurgery import PCGrad
from tests.gradsurgery.reference import (
    QUARTER,
    Model,
    batches,
    gradients,
    same,
    sgd,
    tasks,
    written_out,
)


def test_mappings_sequences_losses_and_callables_are_the_same(model):
    data = batches()
    expected = written_out(model, data)

    def own_backward(task):
        def back_propagate():
            task().backward()

        return back_propagate

    by_name = tasks(model, data)
    forms = [
        by_name,
        list(by_name.values()),
        {name: task() for name, task in by_name.items()},
        tuple(task() for task in by_name.values()),
        {name: own_backward(task) for name, task in by_name.items()},
        [by_name["task0"](), by_name["task1"], own_backward(by_name["task2"])],
    ]
    for form in forms:
        optimizer = PCGrad(sgd(model))
        optimizer.zero_grad()
        optimizer.backward(form)
        same(gradients(model), expected)


def test_losses_of_one_shared_forward(model):
    data = batches()
    x = data[0][0]
    data = [(x, y) for _, y in data]
    hidden = torch.tanh(model.trunk(x))
    losses = [nn.functional.mse_loss(head(hidden), y) for head, (_, y) in zip(model.heads, data, strict=True)]
    expected = written_out(model, data)
    PCGrad(sgd(model)).backward(losses)
    same(gradients(model), expected)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        losses[0].backward()


def test_backward_returns_the_losses_without_their_graphs(model):
    by_name = tasks(model, batches())
    expected = {name: task().item() for name, task in by_name.items()}
    by_name["task2"] = lambda: expected and model.trunk.weight.sum().backward()
    values = PCGrad(sgd(model)).backward(by_name)
    assert values.pop("task2") is None
    assert {name: value.item() for name, value in values.items()} == {
        k: expected[k] for k in ("task0", "task1")
    }
    assert not any(value.requires_grad for value in values.values())


@QUARTER
@given(parts=st.integers(1, 4), kind=st.sampled_from(["callables", "losses"]), mean=st.booleans())
def test_accumulated_micro_batches_equal_one_big_batch(parts, kind, mean):
    torch.manual_seed(0)
    model = Model().double()
    data = batches(12)
    expected = written_out(model, data, share=1 / 3 if mean else 1.0)
    before = torch.ones_like(model.trunk.weight)
    model.trunk.weight.grad = before.clone()
    optimizer = PCGrad(sgd(model), reduction="mean" if mean else "sum")
    for part in range(parts):
        micro = [(x.chunk(parts)[part], y.chunk(parts)[part]) for x, y in data]
        by_name = {name: lambda task=task: task() / parts for name, task in tasks(model, micro).items()}
        if kind == "losses":
            by_name = {name: task() for name, task in by_name.items()}
        optimizer.backward(by_name, accumulate=part < parts - 1)
        if part < parts - 1:
            assert torch.equal(model.trunk.weight.grad, before)
            assert model.heads[0].weight.grad is None
    expected[0] += before
    same(gradients(model), expected)


def test_tasks_may_come_in_different_micro_batches(model):
    data = batches()
    expected = written_out(model, data)
    optimizer = PCGrad(sgd(model))
    *first, last = tasks(model, data).items()
    for name, task in first:
        optimizer.backward({name: task}, accumulate=True)
    optimizer.backward(dict([last]))
    same(gradients(model), expected)


def test_zero_grad_drops_what_was_accumulated(model):
    data = batches()
    expected = written_out(model, data)
    optimizer = PCGrad(sgd(model))
    optimizer.backward(tasks(model, batches(seed=1)), accumulate=True)
    optimizer.zero_grad()
    optimizer.backward(tasks(model, data))
    same(gradients(model), expected)


def test_a_failing_task_leaves_nothing_behind(model):
    data = batches()
    expected = written_out(model, data)
    model.trunk.bias.grad = torch.ones(3, dtype=torch.float64)
    optimizer = PCGrad(sgd(model))
    with pytest.raises(ZeroDivisionError):
        optimizer.backward([tasks(model, data)["task1"], lambda: 1 / 0])
    assert [g is None for g in gradients(model)] == [i != 1 for i in range(8)]
    optimizer.backward(tasks(model, data))
    expected[1] += 1
    same(gradients(model), expected)


def test_a_task_that_fails_in_an_accumulation_can_be_dropped(model):
    data = batches()
    expected = written_out(model, data)
    optimizer = PCGrad(sgd(model))
    optimizer.backward(tasks(model, data), accumulate=True)
    with pytest.raises(ZeroDivisionError):
        optimizer.backward({"task0": lambda: 1 / 0}, accumulate=True)
    assert all(g is None for g in gradients(model))
    optimizer.zero_grad()
    optimizer.backward(tasks(model, data))
    same(gradients(model), expected)


def test_an_accumulation_holds_one_gradient_a_task_and_the_one_at_hand():
    weight = nn.Parameter(torch.zeros(1000))
    held = set()

    def task():
        def back_propagate():
            weight.grad = torch.ones(1000)
            storage = weight.grad.untyped_storage()
            held.add(id(storage))
            weakref.finalize(storage, held.discard, id(storage))
            peaks.append(len(held))

        return back_propagate

    optimizer = PCGrad(torch.optim.SGD([weight], lr=1.0))
    peaks = []
    for last in (False, False, True):
        optimizer.backward([task(), task(), task()], accumulate=not last)
    assert max(peaks) == 4
    assert weight.grad.eq(9).all()


def test_memory_of_one_task_at_a_time():
    """Counts the tensors that autograd saves: with callables, never more than one forward's."""
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)])
    alive, peaks = set(), []

    class Saved:
        """Holds a saved tensor; it lives as long as the graph does."""

        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(id(self))
            peaks.append(len(alive))
            weakref.finalize(self, alive.discard, id(self))

    def peak(run):
        gc.collect()
        peaks.clear()
        assert not alive
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            run()
        return max(peaks)

    def task():
        return layers(torch.randn(5, 8)).pow(2).mean()

    optimizer = PCGrad(torch.optim.SGD(layers.parameters(), lr=0.1))
    one = peak(lambda: task().backward())
    assert peak(lambda: optimizer.backward([task] * 4)) == one
    assert peak(lambda: optimizer.backward([task() for _ in range(4)])) == 4 * one


@pytest.mark.parametrize("form", ["losses", "callables"])
def test_compiled_modules(form):
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), torch.randn(5, 3)

    def operated(forward):
        callables = [lambda: forward(x).sum(), lambda: -forward(x).square().sum()]
        PCGrad(sgd(module)).backward([task() for task in callables] if form == "losses" else callables)
        found = gradients(module)
        module.zero_grad()
        return found

    expected = operated(module)
    config = torch._functorch.config
    options = {"donated_buffer": form == "callables"} if hasattr(config, "donated_buffer") else {}
    with config.patch(options):
        same(operated(torch.compile(module, backend="aot_eager")), expected)
