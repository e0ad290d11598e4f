"""UPGrad and DualProj: conditions of optimality, projections of whole vectors face by face, PCGrad of two."""

import pytest
import torch
from hypothesis import given

from gradsurgery import DualProj, PCGrad, UPGrad
from gradsurgery.dual_cone import dualproj_weights, upgrad_weights
from tests.gradsurgery.reference import hard_matrices, matrices, operate, products_with_units, projected


@given(J=hard_matrices(tasks=(1, 2, 3, 5), spread=3, near=1e-2))
def test_upgrad_is_the_sum_of_the_projected_gradients(J):
    J = J / J.abs().max().clamp(min=1e-300)
    expected = sum(projected(g, J) for g in J)
    result = upgrad_weights(J @ J.T) @ J
    assert (result - expected).norm() <= 1e-5 * J.norm(dim=1).sum()


@given(J=hard_matrices(tasks=(1, 2, 3, 5), spread=3, near=1e-2))
def test_dualproj_is_the_projected_sum_of_the_gradients(J):
    J = J / J.abs().max().clamp(min=1e-300)
    result = dualproj_weights(J @ J.T) @ J
    assert (result - projected(J.sum(0), J)).norm() <= 1e-5 * J.norm(dim=1).sum()


@given(J=hard_matrices())
def test_dualproj_meets_the_conditions_of_optimality(J):
    weights = dualproj_weights(J @ J.T)
    assert (weights >= 1).all()
    products = products_with_units(J, weights)
    assert (products >= -1e-9).all()
    added = (weights - 1) * J.norm(dim=1) / (weights * J.norm(dim=1)).max().clamp(min=1e-300)
    assert (added * products).abs().max() <= 1e-9


@given(J=hard_matrices())
def test_upgrad_conflicts_with_no_task_and_takes_nothing_away(J):
    weights = upgrad_weights(J @ J.T)
    assert (weights >= 1).all()
    assert (products_with_units(J, weights) >= -1e-9).all()


@given(rows=matrices(tasks=(2, 2)))
def test_upgrad_of_two_tasks_is_pcgrad(rows):
    for reduction in ("sum", "mean"):
        ours, _ = operate(UPGrad, rows, reduction=reduction)
        expected, _ = operate(PCGrad, rows, reduction=reduction)
        assert (ours - expected).norm() <= 1e-7 * rows.norm(dim=1).sum()


@given(rows=matrices(tasks=(1, 5), low=0.0))
def test_without_conflict_the_weights_are_exactly_one(rows):
    for method in (UPGrad, DualProj):
        _, optimizer = operate(method, rows)
        assert optimizer.conflicts.weights.tolist() == [1.0] * len(rows)


@pytest.mark.parametrize("weights", [upgrad_weights, dualproj_weights])
def test_gradients_that_cancel_but_for_rounding_get_no_huge_weights(weights):
    """What is left of their sum is no larger than what rounding makes of two equal directions."""
    for seed in range(200):
        a, b = torch.randn(2, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        J = torch.stack([a, a, 0.01 * b - a, -a])
        assert weights(J @ J.T).max() <= 1e4
