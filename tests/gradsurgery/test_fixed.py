"""Sum, Mean, Constant, RLW: what does not look at the gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import RLW, Constant, Mean, Sum
from tests.gradsurgery.reference import matrices, operate


@given(rows=matrices())
def test_the_sum_and_the_mean_and_the_weighted_sum(rows):
    tolerance = {"rtol": 1e-14, "atol": 1e-14}
    torch.testing.assert_close(operate(Sum, rows)[0], rows.sum(0), **tolerance)
    torch.testing.assert_close(operate(Mean, rows)[0], rows.mean(0), **tolerance)
    weights = {str(k): k + 0.5 for k in range(len(rows))}
    factors = torch.tensor(list(weights.values())).double()
    result, _ = operate(Constant, rows, task_weights=weights)
    torch.testing.assert_close(result, factors @ rows, **tolerance)


def test_the_mean_is_of_heads_too():
    trunk, head = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    Mean(torch.optim.SGD([trunk, head])).backward([trunk.sum(), trunk.sum() + head.sum()])
    assert [trunk.grad.item(), head.grad.item()] == [1, 0.5]


@given(tasks=st.integers(1, 32), seed=st.integers(0, 2**32))
def test_random_weights_are_the_papers_from_the_generator_alone(tasks, seed):
    state = torch.get_rng_state()
    rows = torch.eye(tasks, dtype=torch.float64)
    source, twin = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    _, optimizer = operate(RLW, rows, scope="all", generator=source)
    drawn = torch.randn(tasks, generator=twin, dtype=torch.float64)
    expected = tasks * drawn.exp() / drawn.exp().sum()
    torch.testing.assert_close(optimizer.conflicts.weights, expected)
    assert torch.equal(source.get_state(), twin.get_state())
    assert torch.equal(state, torch.get_rng_state())


def test_a_task_without_a_gradient_has_no_part_in_the_random_weights():
    rows = torch.eye(3, dtype=torch.float64)
    rows[1] = 0
    result, _ = operate(RLW, rows, scope="all")
    assert result.sum() == pytest.approx(2)
    assert result[1] == 0
    alone, _ = operate(RLW, rows[:2], scope="all")
    assert torch.equal(alone, rows[0])
    nothing, _ = operate(RLW, torch.zeros(2, 3, dtype=torch.float64), scope="all")
    assert not nothing.any()


def test_random_weights_are_drawn_anew_and_fair():
    optimizer = RLW(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
    drawn = torch.stack([optimizer.weights(torch.eye(3)) for _ in range(2000)])
    assert len(drawn.unique(dim=0)) == len(drawn)
    assert (drawn.mean(0) - 1).abs().max() < 0.06  # three to four standard errors


def test_the_mean_takes_the_options_of_all_and_no_other_reduction():
    rows = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    assert torch.equal(operate(Mean, rows, reduction="mean")[0], operate(Mean, rows)[0])
    with pytest.raises(ValueError, match="reduction must be 'mean' for Mean, got 'sum': take Sum"):
        operate(Mean, rows, reduction="sum")


def test_constant_weights_must_be_given():
    with pytest.raises(TypeError, match="task_weights"):
        operate(Constant, torch.eye(2))
