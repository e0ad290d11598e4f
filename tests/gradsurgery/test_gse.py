"""GSE's two updates against the same written out with torch alone."""

import pytest
import torch
from torch import nn

from gradsurgery import GSE, PCGrad
from tests.gradsurgery.two_updates import Problem, adam, same, train, written_out


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_both_updates_go_through_one_optimizer(second):
    problem = Problem()
    same(train(problem, GSE(adam(problem), second_update=second)), written_out(second))
    problem = Problem()
    method = PCGrad(adam(problem))
    same(train(problem, GSE(method, second_update=second)), written_out(second, share=1.0))
    results = [written_out("recompute"), written_out("reuse"), written_out("reuse", share=1.0)]
    assert not torch.allclose(results[0][0], results[1][0], rtol=1e-5)
    assert not torch.allclose(results[1][0], results[2][0], rtol=1e-5)


@pytest.mark.parametrize(("second", "calls"), [("recompute", 4), ("reuse", 2)])
def test_reuse_evaluates_each_task_once_and_recompute_twice(second, calls):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    train(problem, optimizer, range(1))
    assert problem.calls == calls
    assert optimizer.conflicts.tasks == ("a", "b")


def test_reuse_takes_losses():
    problem = Problem()
    optimizer = GSE(adam(problem), second_update="reuse")
    for step in range(4):
        optimizer.zero_grad()
        optimizer.backward({name: task() for name, task in problem.tasks(step).items()})
        optimizer.step()
    same(problem.weights(), written_out("reuse"))


def test_recompute_refuses_losses_and_leaves_everything_as_it_was():
    problem = Problem()
    optimizer = GSE(adam(problem))
    tasks = problem.tasks()
    tasks["b"] = tasks["b"]()
    message = "the loss of task 'b' must be a callable, got a tensor: .* or take second_update='reuse'"
    with pytest.raises(ValueError, match=message):
        optimizer.backward(tasks)
    assert problem.calls == 1
    assert all(p.grad is None for p in problem.parameters)


def test_a_callable_may_back_propagate_itself():
    problem = Problem()
    optimizer = GSE(adam(problem))
    for step in range(4):
        optimizer.zero_grad()
        optimizer.backward([lambda task=task: task().backward() for task in problem.tasks(step).values()])
        optimizer.step()
    same(problem.weights(), written_out("recompute"))


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_accumulated_micro_batches_are_in_both_updates(second):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    for step in range(4):
        optimizer.zero_grad()
        for last in (False, True):
            halves = {name: lambda task=task: task() / 2 for name, task in problem.tasks(step).items()}
            optimizer.backward(halves, accumulate=not last)
        optimizer.step()
    same(problem.weights(), written_out(second))


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_the_place_to_clip_the_second_gradient(second):
    problem = Problem()
    norms = []

    def clip():
        norms.append(nn.utils.clip_grad_norm_(problem.parameters, 1e-3).item())

    sgd = torch.optim.SGD(problem.parameters, lr=1.0)
    start = problem.weights()
    optimizer = GSE(sgd, second_update=second, before_second_update=clip)
    optimizer.backward(problem.tasks())
    clip()
    optimizer.step()
    moved = torch.cat([(a - b).flatten() for a, b in zip(start, problem.parameters, strict=True)])
    assert len(norms) == 2
    assert min(norms) > 1e-2
    assert moved.norm() <= 2e-3 * 1.001


def test_after_a_step_grad_holds_the_second_gradient():
    problem = Problem()
    optimizer = GSE(torch.optim.SGD(problem.parameters, lr=0.0), second_update="reuse")
    problem.trunk.bias.grad = torch.ones(3).double()  # is in the first only
    optimizer.backward(problem.tasks())
    operated, plain = problem.gradients(problem.tasks().values(), 0.5)
    same([problem.trunk.bias.grad - 1], operated[1:2])
    optimizer.step()
    same([p.grad for p in problem.parameters], plain)


def test_a_parameter_that_no_task_reaches_is_not_moved():
    problem = Problem()
    unused = nn.Parameter(torch.ones(2))
    for second in ("recompute", "reuse"):
        inner = torch.optim.AdamW([*problem.parameters, unused], weight_decay=0.5)
        train(problem, GSE(inner, second_update=second))
        assert unused.grad is None
        assert unused.tolist() == [1, 1]


def test_bad_options_are_refused():
    problem = Problem()
    with pytest.raises(ValueError, match="second_update must be one of 'recompute', 'reuse', got 'again'"):
        GSE(adam(problem), second_update="again")
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, got list"):
        GSE(problem.parameters)


def test_a_step_inside_no_grad_recomputes_all_the_same():
    problem = Problem()
    optimizer = GSE(adam(problem))
    optimizer.backward(problem.tasks())
    with torch.no_grad():
        optimizer.step()
    same(problem.weights(), written_out("recompute", steps=1))


@pytest.mark.parametrize(("reduction", "share"), [("mean", 1 / 3), ("sum", 1.0)])
def test_adam_keeps_the_ratio_of_the_two_gradients(reduction, share):
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    inner = torch.optim.Adam([weight], lr=1.0, betas=(0.0, 0.99))
    optimizer = GSE(PCGrad(inner, reduction=reduction))
    places = []
    inner.register_step_post_hook(lambda *_: places.append(weight.detach().clone()))
    for _ in range(300):
        optimizer.zero_grad()
        optimizer.backward([weight.sum] * 3)
        optimizer.step()
    first, second = places[-2] - places[-3], places[-1] - places[-2]
    assert (first / second).tolist() == pytest.approx([share] * 3, abs=0.01)
