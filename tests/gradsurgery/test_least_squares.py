"""The solvers of least squares under inequalities, by conditions of optimality and by all choices."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery.least_squares import least_distance, nonnegative_least_squares
from tests.gradsurgery.reference import hard_matrices, subsets


@st.composite
def problems(draw, *, tasks=(1, 2, 3, 8, 32)):
    A = draw(hard_matrices(tasks=tasks, spread=3)).T
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    target = torch.randn(len(A), generator=generator, dtype=torch.float64) * A.abs().max()
    return A, target * draw(st.sampled_from([0.0, 1e-9, 1.0, 1e9]))


@given(problem=problems())
def test_nonnegative_least_squares_meets_the_conditions_of_optimality(problem):
    A, target = problem
    x = nonnegative_least_squares(A, target)
    descent = A.T @ (target - A @ x)
    scale = A.norm(dim=0) * (target.norm() + (A.norm(dim=0) * x).sum())
    assert (x >= 0).all()
    assert (descent <= 1e-7 * scale).all()
    assert (descent.abs()[x > 0] <= 1e-10 * scale[x > 0]).all()


@given(problem=problems(tasks=(1, 2, 3, 5, 8)), seed=st.integers(0, 2**32))
def test_another_start_leads_to_the_same_place(problem, seed):
    A, target = problem
    start = torch.randn(A.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp(
        min=0
    )
    ways = (A @ nonnegative_least_squares(A, target, x) for x in (None, start))
    one, other = ((target - reached).norm() for reached in ways)
    assert (one - other).abs() <= 1e-7 * target.norm()


@given(problem=problems(tasks=(1, 2, 3, 5)))
def test_its_residual_is_the_least_of_all_choices_of_columns(problem):
    """Some independent columns make the minimum, with positive factors: one of 2^T choices."""
    A, target = problem
    lengths = A.norm(dim=0)
    columns = A / lengths.where(lengths > 0, 1.0)
    least = target.norm()
    for chosen in subsets(len(lengths)):
        x = torch.linalg.pinv(columns[:, chosen], rtol=1e-12) @ target
        if (x >= 0).all():
            least = torch.minimum(least, (target - columns[:, chosen] @ x).norm())
    residual = (target - A @ nonnegative_least_squares(A, target)).norm()
    assert (residual - least).abs() <= 1e-7 * target.norm()


@given(J=hard_matrices(spread=0), seed=st.integers(0, 2**32), far=st.booleans())
def test_least_distance_meets_the_conditions_of_optimality_or_there_is_no_such_point(J, seed, far):
    J = J[J.any(dim=1)]
    A = (J / J.norm(dim=1, keepdim=True)).T
    generator = torch.Generator().manual_seed(seed)
    bounds = torch.randn(len(J), generator=generator, dtype=torch.float64) + 3 * far
    z, v = least_distance(A, bounds)
    if z.isfinite().all():
        size = 1 + v.sum()
        assert (v >= 0).all()
        torch.testing.assert_close(z, A @ v, rtol=0, atol=1e-12 * size.item())
        assert (A.T @ z - bounds >= -1e-6 * size).all()
        assert ((A.T @ z - bounds).abs()[v > 0] <= 1e-6 * size).all()
    else:  # by Farkas: a combination of the constraints that no z can meet
        rows = torch.cat([A, bounds.unsqueeze(0)])
        target = torch.zeros(len(rows), dtype=torch.float64)
        target[-1] = 1
        x = nonnegative_least_squares(rows, target)
        assert (x >= 0).all()
        assert (A @ x).norm() <= 1e-6 * bounds @ x


def test_what_is_met_without_moving_costs_nothing():
    z, v = least_distance(torch.eye(2, dtype=torch.float64), torch.tensor([-1.0, 0.0], dtype=torch.float64))
    assert z.tolist() == [0, 0]
    assert v.tolist() == [0, 0]


def test_a_bound_far_below_does_not_drown_one_above():
    bounds = torch.tensor([1.0, -1e30], dtype=torch.float64)
    z, v = least_distance(torch.tensor([[1.0, -1.0]], dtype=torch.float64), bounds)
    assert z.tolist() == [1]
    assert v.tolist() == [1, 0]
