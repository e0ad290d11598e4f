"""What GSE prepares for the second update, and what must not survive a step, made or not."""

import copy
import pickle

import pytest

from gradsurgery import GSE
from tests.gradsurgery.two_updates import Problem, adam, same, train, written_out


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_zero_grad_forgets_what_was_prepared(second):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    optimizer.backward(problem.tasks(7), accumulate=True)
    optimizer.zero_grad()
    optimizer.backward(problem.tasks(8))
    same(train(problem, optimizer), written_out(second))


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_a_checkpoint_replaces_what_was_prepared(second):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    state = optimizer.state_dict()
    optimizer.backward(problem.tasks(step=7), accumulate=second == "recompute")
    optimizer.load_state_dict(state)
    for p in problem.parameters:
        p.grad = None
    optimizer.backward(problem.tasks())
    optimizer.step()
    same(problem.weights(), written_out(second, steps=1))


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_a_backward_whose_step_was_given_up_is_not_in_the_next(second):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    optimizer.backward(problem.tasks(7))
    problem.modules.zero_grad()  # not the optimizer's, which forgets, too
    optimizer.backward(problem.tasks(0))
    optimizer.step()
    same(problem.weights(), written_out(second, steps=1))


def test_a_second_evaluation_that_fails_leaves_nothing_behind():
    problem = Problem()
    optimizer = GSE(adam(problem))
    tasks = problem.tasks(7)
    fail = iter([False, True])
    optimizer.backward({**tasks, "c": lambda: 1 / 0 if next(fail) else tasks["a"]()})
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    with pytest.raises(RuntimeError, match="got none since the last step"):
        optimizer.step()
    calls = problem.calls
    problem.modules.zero_grad()
    optimizer.backward(problem.tasks(0))
    optimizer.step()
    assert problem.calls == calls + 4


@pytest.mark.parametrize("second", ["recompute", "reuse"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_asks_for_a_backward_of_its_own(duplicate, second):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    optimizer.backward(problem.tasks(7))
    twin, twin_problem = duplicate((optimizer, problem))
    with pytest.raises(RuntimeError, match="got none since the last step"):
        twin.step()
    twin.zero_grad()
    twin.backward(twin_problem.tasks(0))
    twin.step()
    same(twin_problem.weights(), written_out(second, steps=1))
    optimizer.step()  # which is not disturbed
    assert problem.calls == {"recompute": 4, "reuse": 2}[second]


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_a_step_forgets_what_it_was_made_from(second):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    for step in range(4):
        optimizer.backward(problem.tasks(step))
        optimizer.step()
        problem.modules.zero_grad()  # not the optimizer's, which forgets, too
    same(problem.weights(), written_out(second))


def test_a_step_needs_a_backward():
    problem = Problem()
    optimizer = GSE(adam(problem))
    with pytest.raises(RuntimeError, match=r"step\(\) makes two updates out of backward\(losses\), got none"):
        optimizer.step()
    optimizer.backward(problem.tasks(), accumulate=True)
    with pytest.raises(RuntimeError, match="got none since the last step"):
        optimizer.step()


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_a_step_needs_a_backward_after_zero_grad_and_after_a_checkpoint(second):
    problem = Problem()
    optimizer = GSE(adam(problem), second_update=second)
    for forget in (optimizer.zero_grad, lambda: optimizer.load_state_dict(optimizer.state_dict())):
        optimizer.backward(problem.tasks())
        forget()
        with pytest.raises(RuntimeError, match=r"got none since the last step or zero_grad\(\)"):
            optimizer.step()
