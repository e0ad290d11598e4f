"""The misuses people make: each gets one sentence, with the remedy in it, and leaves .grad as it was."""

import math

import pytest
import torch
from torch import nn

from gradsurgery import GSE, PCGrad
from tests.gradsurgery.reference import batches, gradients, same, sgd, tasks, written_out


def refused(model, optimizer, losses, error, message):
    with pytest.raises(error, match=message) as info:
        optimizer.backward(losses)
    assert "\n" not in str(info.value)
    assert all(g is None for g in gradients(model))


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (
            torch.tensor(1.0),
            TypeError,
            "losses must be a mapping or a sequence .* got Tensor: pass the losses unsummed",
        ),
        (3.0, TypeError, "losses must be a mapping or a sequence .* got float"),
        ({}, ValueError, r"losses must hold at least one task, got \{\}"),
        ([], ValueError, r"losses must hold at least one task, got \[\]"),
        ({1: lambda: 2.0}, TypeError, "losses must be named by strings, got 1: name each task"),
        ({"a": 2.0}, TypeError, "the loss of task 'a' must be a tensor or a callable, got float"),
        (
            [("a", torch.ones(())), ("a", torch.ones(()))],
            TypeError,
            "the loss of task '0' must be a tensor or a callable, got tuple: pass names and losses",
        ),
        ({"a": lambda: 2.0}, ValueError, "the loss of task 'a' must be one number, got float"),
        (
            [torch.ones(2, requires_grad=True)],
            ValueError,
            r"the loss of task '0' must be one number, got shape \(2,\)",
        ),
        ([torch.tensor(1.5)], ValueError, r"the loss of task '0' must have a graph, got tensor\(1.5000\)"),
        ({"a": lambda: torch.tensor(1.5)}, ValueError, "the loss of task 'a' must have a graph"),
        (
            {"a": torch.ones((), requires_grad=True)},
            ValueError,
            "task 'a' must reach a parameter of the optimizer, got no gradient: give the optimizer what its",
        ),
        (
            {"a": lambda: None},
            ValueError,
            "task 'a' must reach a parameter .* return the loss from a callable",
        ),
    ],
)
def test_bad_losses_are_refused(model, losses, error, message):
    refused(model, PCGrad(sgd(model)), losses, error, message)


def test_a_task_that_reaches_no_parameter_is_refused_among_others_and_after_an_accumulation(model):
    by_name = tasks(model, batches())
    elsewhere = nn.Linear(2, 1)
    by_name["far"] = lambda: elsewhere(torch.ones(2)).sum()
    message = "task 'far' must reach a parameter of the optimizer"
    refused(model, PCGrad(sgd(model)), by_name, ValueError, message)
    optimizer = PCGrad(sgd(model))
    optimizer.backward(by_name, accumulate=True)
    refused(model, optimizer, tasks(model, batches()), ValueError, message)


def test_parameters_outside_the_optimizer_get_what_backward_of_the_sum_would_give_them(model):
    data = batches()
    expected = written_out(model, data)
    plain = sum(torch.autograd.grad(model.loss(k, *data[k]), model.trunk.bias)[0] for k in range(3))
    PCGrad(torch.optim.SGD([model.trunk.weight, *model.heads.parameters()], lr=0.1)).backward(
        tasks(model, data)
    )
    torch.testing.assert_close(model.trunk.bias.grad, plain)
    same(gradients(model)[2:], expected[2:])


def test_a_backward_of_the_sum_before_ours(model):
    message = (
        r"the loss of task 'task0' must have its graph, got .* call optimizer.backward\(losses\) in place"
    )
    losses = {name: task() for name, task in tasks(model, batches()).items()}
    sum(losses.values()).backward()
    model.zero_grad()
    refused(model, PCGrad(sgd(model)), losses, RuntimeError, message)


def test_losses_given_twice(model):
    losses = {name: task() for name, task in tasks(model, batches()).items()}
    optimizer = PCGrad(sgd(model))
    optimizer.backward(losses)
    optimizer.zero_grad()
    refused(model, optimizer, losses, RuntimeError, "the loss of task 'task2' must have its graph")


@pytest.mark.parametrize("own", [False, True])
def test_a_forward_shared_by_callables(model, own):
    hidden = torch.tanh(model.trunk(batches()[0][0]))

    def task(head):
        return lambda: head(hidden).sum().backward() if own else head(hidden).sum()

    refused(
        model,
        PCGrad(sgd(model)),
        [task(head) for head in model.heads],
        RuntimeError,
        "the loss of task '1' must have its graph, got one that a backward has freed: run its whole forward"
        " inside the callable, or pass the losses of a shared forward themselves",
    )


def test_a_forward_outside_of_the_callable_that_gse_evaluates_again(model):
    hidden = torch.tanh(model.trunk(batches()[0][0]))
    optimizer = GSE(sgd(model))
    optimizer.backward({"a": lambda: model.heads[0](hidden).sum()})
    with pytest.raises(RuntimeError, match="the loss of task 'a' must have its graph"):
        optimizer.step()


def test_errors_of_the_users_own_code_are_theirs(model):
    def task():
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match=r"^the disk is full$"):
        PCGrad(sgd(model)).backward([task])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("form", ["losses", "callables"])
def test_a_loss_that_is_not_finite_is_passed_on_or_refused(model, bad, form):
    by_name = tasks(model, batches())
    by_name["task1"] = lambda: model.trunk.weight.sum().abs() * bad
    if form == "losses":
        by_name = {name: task() for name, task in by_name.items()}
    strict = PCGrad(sgd(model), nonfinite="raise")
    message = f"the loss of task 'task1' must be finite, got {bad}: look into its forward"
    refused(model, strict, by_name, ValueError, message)
    by_name = tasks(model, batches())
    strict.backward(by_name)
    model.zero_grad()
    by_name["task1"] = lambda: model.trunk.weight.sum().abs() * bad
    PCGrad(sgd(model)).backward(by_name)
    assert not model.trunk.weight.grad.isfinite().any()


def test_the_second_update_of_gse_refuses_what_is_not_finite_too():
    weight = nn.Parameter(torch.ones(()))
    optimizer = GSE(PCGrad(torch.optim.SGD([weight], lr=4.0), nonfinite="raise"))
    optimizer.backward({"a": weight.sqrt})  # of 1, and after the first update of -1
    with pytest.raises(ValueError, match="the loss of task 'a' must be finite, got nan"):
        optimizer.step()


def test_sequences_of_different_tasks_in_one_accumulation(model):
    first, second, third = tasks(model, batches()).values()
    optimizer = PCGrad(sgd(model))
    optimizer.backward([first, second, third], accumulate=True)
    message = (
        "losses must have names where the calls of an accumulation differ in tasks, got 2 in a sequence"
        " after tasks '0', '1', '2': pass {'a': loss_a} in each call"
    )
    refused(model, optimizer, [first, third], ValueError, message)
    optimizer.zero_grad()
    optimizer.backward({"a": first, "b": second}, accumulate=True)
    refused(model, optimizer, [first, second], ValueError, "got 2 in a sequence after tasks 'a', 'b'")


@pytest.mark.parametrize("second_update", ["recompute", "reuse"])
def test_sequences_of_different_tasks_in_one_accumulation_of_gse(model, second_update):
    callables = list(tasks(model, batches()).values())
    optimizer = GSE(sgd(model), second_update=second_update)
    optimizer.backward(callables, accumulate=True)
    refused(model, optimizer, callables[1:], ValueError, "got 2 in a sequence after tasks '0', '1', '2'")


def test_one_name_in_several_calls_is_one_task_and_one_loss_under_two_names_is_two(model):
    data = batches()
    by_name = tasks(model, data)
    optimizer = PCGrad(sgd(model))
    optimizer.backward({"task0": lambda: 0.25 * by_name["task0"]()}, accumulate=True)
    optimizer.backward({**by_name, "task0": lambda: 0.75 * by_name["task0"]()})
    assert optimizer.conflicts.tasks == ("task0", "task1", "task2")
    same(gradients(model), written_out(model, data))
    model.zero_grad()
    loss = by_name["task0"]()
    optimizer.backward({"a": loss, "b": loss})
    expected = torch.autograd.grad(by_name["task0"](), model.trunk.weight)[0]
    torch.testing.assert_close(model.trunk.weight.grad, 2 * expected)


def test_a_step_after_an_accumulation_alone_and_without_any_backward(model):
    optimizer = PCGrad(sgd(model))
    optimizer.backward(tasks(model, batches()), accumulate=True)
    with pytest.warns(UserWarning, match="no surgery.*the last time without accumulate=True"):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"step\(\) makes two updates out of backward\(losses\), got none"):
        GSE(sgd(model)).step()
