"""MGDA and CAGrad: conditions of optimality, which are proofs, and what the methods promise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import MGDA, CAGrad
from gradsurgery.min_norm import cagrad_weights, mgda_weights
from tests.gradsurgery.reference import hard_matrices, matrices, operate, products_with_units

radii = st.sampled_from([0.0, 0.1, 0.4, 0.9, 1.0, 3.0])


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


def present(J):
    return J[J.any(dim=1)]


@given(J=hard_matrices())
def test_mgda_is_the_shortest_convex_combination(J):
    """It is if and only if its product with no gradient is below its square."""
    weights = mgda_weights(J @ J.T)
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(len(J))
    J, w = present(J), weights[J.any(dim=1)]
    if len(J) == 0:
        return
    w = w / w.sum()
    products = products_with_units(J, w)
    lengths = J.norm(dim=1) / J.norm(dim=1).max()
    square = (w * lengths) @ products
    assert (lengths * products - square >= -1e-7 * lengths).all()


@given(rows=matrices(tasks=(2, 2), width=(2, 6)))
def test_mgda_of_two_is_the_papers_formula(rows):
    a, b = rows
    if not (a.any() and b.any()) or torch.equal(a, b):
        return
    share = min(max(((b - a) @ b / (a - b).dot(a - b)).item(), 0.0), 1.0)  # Sener and Koltun, Algorithm 1
    result, _ = operate(MGDA, rows, reduction="mean")
    torch.testing.assert_close(result, share * a + (1 - share) * b, rtol=0, atol=1e-7)


@given(J=hard_matrices(spread=8))
def test_mgda_conflicts_with_no_task(J):
    assert (products_with_units(J, mgda_weights(J @ J.T)) >= -1e-7).all()


@given(J=hard_matrices(tasks=(1, 2, 3, 8), spread=8, near=1e-2), c=radii)
def test_cagrad_gives_the_worst_off_most(J, c):
    """By duality: no vector of the ball gives them more than any convex combination's bound."""
    J = present(J)
    if len(J) < 2:
        return
    J = J / J.norm(dim=1).max()
    weights = cagrad_weights(J @ J.T, c) / len(J)
    mean, added = J.mean(0), weights - 1 / len(J)
    radius = c * mean.norm()
    candidates = [*torch.eye(len(J)).double(), mgda_weights(J @ J.T) / len(J)]
    if added.sum() > 0:
        candidates.append(added / added.sum())
    combinations = torch.stack(candidates) @ J
    bound = (combinations @ mean + radius * combinations.norm(dim=1)).min()
    lengths = J.norm(dim=1)
    size = (weights * lengths).sum()
    reached = products_with_units(J, weights) * size
    assert (lengths * reached - bound >= -1e-6 * size * lengths - 1e-11 * size).all()


@given(J=hard_matrices(tasks=(1, 2, 3, 8), spread=8), c=radii)
def test_cagrad_stays_in_its_ball(J, c):
    J = present(J)
    if len(J) == 0:
        return
    J = J / J.norm(dim=1).max()
    weights = cagrad_weights(J @ J.T, c) / len(J)
    assert (weights * len(J) >= 1).all()
    added = (weights - 1 / len(J)) @ J
    rounding = 1e-10 * (weights * J.norm(dim=1)).sum()
    assert added.norm() <= c * J.mean(0).norm() * (1 + 1e-6) + rounding


@given(J=hard_matrices(spread=3), c=radii)
def test_no_task_is_worse_off_with_cagrad_than_the_worst_off_with_the_mean_and_from_1_on_none_conflicts(J, c):
    J = present(J)
    if len(J) == 0:
        return
    J = J / J.norm(dim=1).max()
    weights = cagrad_weights(J @ J.T, c)
    size = (weights * J.norm(dim=1)).sum()
    assert (J @ (J.T @ weights) - (J @ J.sum(0)).min() >= -1e-6 * size).all()
    if c >= 1:
        assert (products_with_units(J, weights) >= -1e-6).all()


@given(J=hard_matrices(tasks=(2, 3, 5), spread=0), c=st.sampled_from([0.2, 0.4, 0.8]))
def test_cagrad_is_what_the_papers_algorithm_finds_with_a_general_minimiser(J, c):
    """Algorithm 1 on J: the minimum F(w) over the simplex, by scipy; then g₀ + √φ g_w / ‖g_w‖."""
    optimize = pytest.importorskip("scipy.optimize")
    J = present(J)
    if len(J) < 2 or torch.linalg.cond(J @ J.T) > 1e6:
        return
    J = J / J.norm(dim=1).max()
    mean = J.mean(0)
    root = c * mean.norm()

    def objective(w):
        g_w = torch.as_tensor(w) @ J
        return (g_w @ mean + root * g_w.norm()).item()

    start = [1 / len(J)] * len(J)
    simplex = {"type": "eq", "fun": lambda w: sum(w) - 1}
    found = optimize.minimize(
        objective,
        start,
        bounds=[(0, 1)] * len(J),
        constraints=simplex,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    g_w = torch.as_tensor(found.x) @ J
    expected = mean + root / g_w.norm() * g_w
    result = cagrad_weights(J @ J.T, c) / len(J) @ J
    worst, general = (J @ result).min(), (J @ expected).min()
    assert worst >= general - 1e-9
    if found.success and worst <= general + 1e-10:
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)


def test_cagrad_without_a_radius_is_the_mean_and_its_weights_are_exactly_one():
    J = double([[1.0, 0.0], [-1.0, 1.0]])
    assert cagrad_weights(J @ J.T, 0.0).tolist() == [1, 1]


def test_at_a_pareto_stationary_point_cagrad_is_the_nearest_to_the_mean_that_helps_as_much():
    J = double([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    result = cagrad_weights(J @ J.T, 0.4) @ J
    torch.testing.assert_close(result, double([0.0, 1.0]), rtol=0, atol=1e-9)


@given(J=hard_matrices(tasks=(2, 3, 8), spread=0), angle=st.sampled_from([1e-6, 1e-7, 1e-8]))
def test_the_weights_of_cagrad_stay_small_where_gradients_nearly_cancel(J, angle):
    """In float32 a weight of 1e7 would leave nothing but the gradients' rounding."""
    J = torch.cat([-J[:1] + angle * J[-1:], J])
    J = J[J.any(dim=1)]
    J = J / J.norm(dim=1, keepdim=True)
    added = cagrad_weights(J @ J.T, 0.5) - 1
    assert added.max() <= 0.5 * 1.1e5 * J.sum(0).norm() + 1e-6


def test_a_task_without_a_gradient_is_left_out():
    rows = double([[1.0, 0.0], [-0.5, 1.0], [0.0, 0.0]])
    for weights in (mgda_weights, lambda G: cagrad_weights(G, 0.5)):
        with_it, without = weights(rows @ rows.T), weights(rows[:2] @ rows[:2].T)
        assert with_it.tolist() == [*without.tolist(), 1]
    assert (mgda_weights(rows @ rows.T) @ rows).norm() > 0.1


@pytest.mark.parametrize("c", [-0.1, math.inf, math.nan])
def test_a_radius_that_is_none(c):
    parameter = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="c must be finite and at least 0, got"):
        CAGrad(torch.optim.SGD([parameter]), c=c)
