"""Nash-MTL: its equation, its limits, and how long a solution is used."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import NashMTL
from gradsurgery.bargaining import nash_weights
from tests.gradsurgery.reference import losses_with, operate, parameters_like


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def bargains(draw, *, tasks=(1, 2, 3, 8, 32)):
    """Rows that a direction improves all: independent, or with equal ones among them, of any length."""
    t = draw(st.sampled_from(tasks))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    J = torch.randn(t, 2 * t + 3, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        J = J[torch.randint(0, t, (t,), generator=generator)]
    exponents = 2 * torch.rand(t, 1, generator=generator, dtype=torch.float64) - 1
    return J * 10 ** (draw(st.sampled_from([0, 3, 20])) * exponents)


@given(J=bargains())
def test_the_weights_solve_the_papers_equation_up_to_a_factor(J):
    """Claim 3.1: (G a)_i = 1 / a_i. The factor is the square of the lengths' root mean square."""
    weights = nash_weights(J @ J.T)
    assert (weights > 0).all()
    lengths = J.norm(dim=1) / J.norm(dim=1).max()
    units = J / J.norm(dim=1, keepdim=True)
    a = weights * lengths
    products = a * (units @ (units.T @ a)) / lengths.square().mean()
    torch.testing.assert_close(products, torch.ones_like(products), rtol=0, atol=1e-9)


@given(J=bargains(tasks=(1, 2, 3, 8)), seed=st.integers(0, 99))
def test_no_direction_of_its_length_has_a_larger_product_of_improvements(J, seed):
    """The bargaining solution itself, of which the equation is the condition."""
    units = J / J.norm(dim=1, keepdim=True)
    d = nash_weights(J @ J.T) @ J
    d = d / d.norm()
    generator = torch.Generator().manual_seed(seed)
    gain = (units @ d).log().sum()
    for size in (1e-4, 1e-2, 1.0):
        other = d + size * torch.randn(d.shape, generator=generator, dtype=torch.float64)
        assert (units @ (other / other.norm())).clamp(min=0).log().sum() <= gain + 1e-9


@given(J=bargains(tasks=(2, 3, 8)), exponent=st.integers(-30, 30))
def test_the_update_scales_with_the_gradients(J, exponent):
    torch.testing.assert_close(nash_weights(J @ J.T * 10.0 ** (2 * exponent)), nash_weights(J @ J.T))


def test_one_task_keeps_its_gradient_and_orthogonal_ones_of_one_length_their_sum():
    for size in (1, 3):
        weights = nash_weights(4 * torch.eye(size, dtype=torch.float64))
        torch.testing.assert_close(weights, torch.ones(size, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-7])
def test_where_no_direction_is_good_for_all_what_conflicts_cancels_and_the_rest_stays(angle):
    J = double([[1.0, 0.0, 0.0], [-1.0, angle, 0.0], [0.0, 0.0, 1.0]])
    d = nash_weights(J @ J.T) @ J
    assert d.isfinite().all()
    assert abs(d[0]) <= 1e-6
    assert d[2].item() == pytest.approx(1.0, rel=1e-4)


def test_opposite_gradients_alone_cancel():
    J = double([[2.0, 0.0], [-1.0, 0.0]])
    weights = nash_weights(J @ J.T)
    assert (weights @ J).norm() <= 1e-9
    assert weights.abs().max() <= 1e3


ROWS = torch.tensor([[1.0, 0.0, 0.2], [-0.3, 1.0, 0.0], [0.5, 0.1, 0.3]]).double()


def solved(optimizer, parameters, rows, names="abc"):
    optimizer.zero_grad()
    optimizer.backward(dict(zip(names, losses_with(rows, parameters), strict=True)))
    return optimizer.conflicts.weights.clone()


def test_a_solution_is_used_as_often_as_asked_by_name():
    parameters = parameters_like(ROWS[0])
    optimizer = NashMTL(torch.optim.SGD(parameters, lr=1.0), update_every=3)
    first = solved(optimizer, parameters, ROWS)
    torch.testing.assert_close(first, nash_weights(ROWS @ ROWS.T))
    assert not torch.allclose(first, first.flip(0), atol=1e-3)
    assert torch.equal(solved(optimizer, parameters, 2 * ROWS.flip(0)), first)
    assert torch.equal(solved(optimizer, parameters, ROWS[[2, 0]], "ca"), first[[2, 0]])
    fourth = solved(optimizer, parameters, ROWS.flip(1)[:2], "ab")
    torch.testing.assert_close(fourth, nash_weights(ROWS.flip(1)[:2] @ ROWS.flip(1)[:2].T))
    torch.testing.assert_close(solved(optimizer, parameters, ROWS), first)  # c has no weight: solved at once


def test_one_task_keeps_its_gradient_between_two_solutions():
    parameters = parameters_like(ROWS[0])
    optimizer = NashMTL(torch.optim.SGD(parameters, lr=1.0), update_every=2)
    first = solved(optimizer, parameters, ROWS)
    assert torch.equal(solved(optimizer, parameters, ROWS[:1], "a"), torch.ones(1, dtype=torch.float64))
    assert torch.equal(parameters[0].grad, ROWS[0].to(parameters[0]))
    assert torch.equal(solved(optimizer, parameters, ROWS.flip(0)), first)  # of which that was no use


def test_so_it_does_beside_a_task_that_reaches_nothing():
    """As of a batch that has none of the other's examples."""
    parameters = parameters_like(ROWS[0])
    optimizer = NashMTL(torch.optim.SGD(parameters, lr=1.0), update_every=3)
    solved(optimizer, parameters, ROWS)
    assert solved(optimizer, parameters, ROWS[:2] * torch.tensor([[1.0], [0.0]]), "ab")[0] == 1
    assert torch.equal(parameters[0].grad, ROWS[0].to(parameters[0]))


def test_a_task_that_was_left_out_of_a_solution_has_it_solved_again():
    """As the first gradients of an encoder below a head that begins at zero."""
    parameters = parameters_like(ROWS[0])
    optimizer = NashMTL(torch.optim.SGD(parameters, lr=1.0), update_every=3)
    solved(optimizer, parameters, ROWS * torch.tensor([1, 0, 1]).unsqueeze(1))
    torch.testing.assert_close(solved(optimizer, parameters, ROWS), nash_weights(ROWS @ ROWS.T))


def test_each_part_has_its_own_solution():
    parameters = parameters_like(ROWS[0], [1, 2])
    optimizer = NashMTL(torch.optim.SGD(parameters, lr=1.0), update_every=2, granularity="parameter")
    first = solved(optimizer, parameters, ROWS)
    assert first.shape == (2, 3)
    assert torch.equal(solved(optimizer, parameters, -ROWS.flip(0)), first)


def test_a_step_that_is_not_finite_is_seen_and_not_remembered():
    parameters = parameters_like(ROWS[0])
    optimizer = NashMTL(torch.optim.SGD(parameters, lr=1.0), update_every=2)
    bad = ROWS.clone()
    bad[0, 0] = math.inf
    assert solved(optimizer, parameters, bad).isnan().all()
    assert not parameters[0].grad.isfinite().all()
    first = solved(optimizer, parameters, ROWS)
    torch.testing.assert_close(first, nash_weights(ROWS @ ROWS.T))
    assert torch.equal(solved(optimizer, parameters, ROWS.flip(0)), first)


@pytest.mark.parametrize("at", range(4))
def test_the_last_solution_and_its_age_are_in_the_checkpoint(at):
    runs = [ROWS, ROWS.flip(1), ROWS.flip(0), ROWS * 2, ROWS - 0.1]

    def build():
        parameters = parameters_like(ROWS[0])
        return parameters, NashMTL(torch.optim.SGD(parameters, lr=1.0), update_every=3)

    parameters, optimizer = build()
    whole = [solved(optimizer, parameters, rows) for rows in runs]
    parameters, optimizer = build()
    for rows in runs[: at + 1]:
        solved(optimizer, parameters, rows)
    fresh, resumed = build()
    resumed.load_state_dict(optimizer.state_dict())
    for rows, expected in zip(runs[at + 1 :], whole[at + 1 :], strict=True):
        assert torch.equal(solved(resumed, fresh, rows), expected)


@pytest.mark.parametrize("update_every", [0, -1, 1.5])
def test_an_interval_that_is_none(update_every):
    with pytest.raises(ValueError, match="update_every must be a positive integer, got"):
        operate(NashMTL, ROWS, update_every=update_every)
