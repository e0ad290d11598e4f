"""What the methods on the host share: what enters the problem, and what is taken for rounding."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery.gramians import equiangular, factor, solve_on_host, spectrum
from tests.gradsurgery.reference import hard_matrices


def test_the_problem_is_of_cosines_and_of_lengths_up_to_one():
    J = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], dtype=torch.float64) * 1e-30

    def solve(cosines, lengths):
        torch.testing.assert_close(cosines, torch.tensor([[1, -0.8], [-0.8, 1]], dtype=torch.float64))
        torch.testing.assert_close(lengths, torch.tensor([1, 0.4], dtype=torch.float64))
        return torch.tensor([5.0, 7.0], dtype=torch.float64)

    assert solve_on_host(J @ J.T, solve).tolist() == [5, 1, 7]


def test_without_any_gradient_there_is_no_problem():
    weights = solve_on_host(
        torch.zeros(3, 3, dtype=torch.float64), lambda *_: pytest.fail("nothing to solve")
    )
    assert weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_makes_every_weight_nan(bad):
    gramian = torch.eye(3, dtype=torch.float64)
    gramian[0, 1] = gramian[1, 0] = bad
    assert solve_on_host(gramian, lambda *_: pytest.fail("nothing to solve")).isnan().all()


@given(J=hard_matrices(spread=0))
def test_factors_have_the_inner_products_of_the_matrix_and_no_more_rows_than_its_rank(J):
    G = J @ J.T
    if not G.any():
        return
    A = factor(G)
    torch.testing.assert_close(A.T @ A, G, rtol=0, atol=1e-12 * G.abs().max().item())
    assert len(A) <= min(J.shape)
    values, vectors = spectrum(G)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(A), dtype=torch.float64))
    assert (values.diff() >= 0).all()


@given(tasks=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_equiangular_weights_give_each_unit_gradient_the_product_1(tasks, seed):
    J = torch.randn(tasks, tasks + 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    units = J / J.norm(dim=1, keepdim=True)
    products = units @ (units.T @ equiangular(units @ units.T))
    torch.testing.assert_close(products, torch.ones_like(products), rtol=0, atol=1e-9)


def test_there_is_no_direction_at_one_angle_with_opposite_gradients():
    assert equiangular(torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)).tolist() == [0, 0]
