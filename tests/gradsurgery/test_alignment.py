"""IMTL-G, ConFIG, Aligned-MTL: the papers' formulas on whole vectors, and what they promise."""

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsurgery import IMTLG, AlignedMTL, ConFIG
from gradsurgery.alignment import aligned_weights, config_weights, imtlg_weights
from tests.gradsurgery.reference import operate


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def independent(draw, *, tasks=(1, 2, 3, 8, 32), spread=20):
    t = draw(st.sampled_from(tasks))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    J = torch.randn(t, 2 * t + 3, generator=generator, dtype=torch.float64)
    exponents = 2 * torch.rand(t, 1, generator=generator, dtype=torch.float64) - 1
    return J * 10 ** (draw(st.sampled_from([0, 3, spread])) * exponents)


def units(J):
    return J / J.norm(dim=1, keepdim=True)


@given(J=independent())
def test_imtlg_has_one_projection_on_every_gradient_and_weights_that_add_up(J):
    weights = imtlg_weights(J @ J.T)
    torch.testing.assert_close(weights.sum().item(), float(len(J)))
    shares = weights * J.norm(dim=1)
    products = units(J) @ (units(J).T @ shares)
    torch.testing.assert_close(products / products.mean(), torch.ones_like(products), rtol=0, atol=1e-8)


@given(J=independent(tasks=(2, 3, 8), spread=3))
def test_imtlg_is_the_papers_closed_form(J):
    """α of tasks 2 to T = g₁ Uᵀ (D Uᵀ)⁻¹, with rows u₁ - u_t in U and g₁ - g_t in D; α of task 1 the rest."""
    U, D = units(J)[0] - units(J)[1:], J[0] - J[1:]
    inner = D @ U.T
    if torch.linalg.cond(inner) > 1e8:
        return
    others = torch.linalg.solve(inner.T, U @ J[0])
    alpha = torch.cat([1 - others.sum(0, keepdim=True), others])
    tolerance = 1e-6 * (alpha.abs() * J.norm(dim=1)).sum().item()
    result = imtlg_weights(J @ J.T) / len(J) @ J
    torch.testing.assert_close(result, alpha @ J, rtol=0, atol=tolerance)


@given(J=independent())
def test_config_has_one_cosine_with_every_gradient_and_the_length_of_the_projections(J):
    shares = config_weights(J @ J.T) * J.norm(dim=1) / J.norm(dim=1).max()
    d = units(J).T @ shares
    cosines = units(J) @ d / d.norm()
    assert (cosines > 0).all()
    torch.testing.assert_close(cosines / cosines.mean(), torch.ones_like(cosines), rtol=0, atol=1e-8)
    lengths = J.norm(dim=1) / J.norm(dim=1).max()
    assert d.norm().item() == pytest.approx((lengths @ cosines).item(), rel=1e-8)


@pytest.mark.parametrize("mode", ["min", "median", "rmse"])
@given(J=independent(spread=1))
def test_aligned_gradients_are_orthogonal_and_of_one_length(mode, J):
    """The paper on J itself: with J = U Σ Vᵀ they are σ U Vᵀ, and the update is their sum."""
    U, sigma, Vt = torch.linalg.svd(J, full_matrices=False)
    length = {
        "min": sigma[-1],
        "median": sigma.square().median().sqrt(),
        "rmse": sigma.square().mean().sqrt(),
    }
    expected = length[mode] * (U @ Vt).sum(0)
    result, _ = operate(AlignedMTL, J, scope="all", scale_mode=mode)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-8 * sigma[0].item() ** 2 / sigma[-1].item())


@pytest.mark.parametrize("ratio", [1e6, 1e8, 1e10])
@given(seed=st.integers(0, 2**32), tasks=st.sampled_from([2, 3, 5]))
@settings(max_examples=10)
def test_the_error_of_the_alignment_grows_with_the_ratio_of_the_lengths(ratio, seed, tasks):
    """Beside the algorithm on J itself with sixty digits."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.rand(tasks, 1, generator=generator, dtype=torch.float64)
    J = units(torch.randn(tasks, tasks + 2, generator=generator, dtype=torch.float64)) * ratio**-exponents
    with mpmath.workdps(60):
        U, sigma, Vt = mpmath.svd_r(mpmath.matrix(J.tolist()))
        rotated = min(sigma) * U * Vt
    aligned = double([[float(rotated[i, j]) for j in range(J.shape[1])] for i in range(tasks)])
    expected, result = aligned.sum(0), aligned_weights(J @ J.T, "min") @ J
    assert (result - expected).norm() <= 32 * torch.finfo(torch.float64).eps * ratio * aligned[0].norm()


@pytest.mark.parametrize("short", [1e-6, 1e-8, 1e-10, 1e-12, 1e-14])
def test_a_short_gradient_is_aligned_and_not_lost(short):
    """The same algorithm on J itself, of which the square loses what is shorter than 1e-8."""
    J = double([[1.0, 0.0, 0.0], [0.6 * short, 0.8 * short, 0.0]])
    U, sigma, Vt = torch.linalg.svd(J, full_matrices=False)
    result, _ = operate(AlignedMTL, J, scope="all")
    torch.testing.assert_close(result, sigma[-1] * (U @ Vt).sum(0), rtol=1e-6, atol=1e-15)
    assert result.norm().item() == pytest.approx(2**0.5 * 0.8 * short, rel=1e-6 + 1e-15 / short)


@pytest.mark.parametrize("mode", ["min", "median", "rmse"])
def test_alignment_leaves_out_dependent_directions_and_tasks_without_a_gradient(mode):
    J = double([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    sigma = {"min": 2.0, "median": 2.0, "rmse": 11**0.5}[mode]  # of 2 and 3√2
    result = aligned_weights(J @ J.T, mode) @ J
    torch.testing.assert_close(result, sigma * double([2**0.5, 1.0]))


@pytest.mark.parametrize("J", [[[2.0, 0.0], [-1.0, 0.0]], [[3.0, 0.0], [-1.0, 3**0.5], [-0.5, -(0.75**0.5)]]])
def test_where_gradients_can_only_cancel_there_is_no_update(J):
    J = double(J)  # opposite, or at 120 degrees
    assert not imtlg_weights(J @ J.T).any()
    assert not config_weights(J @ J.T).any()


def test_dependent_gradients_have_what_comes_closest():
    J = double([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    result = config_weights(J @ J.T) @ J
    torch.testing.assert_close(result / result.norm(), double([0.5**0.5, 0.5**0.5]))
    result = imtlg_weights(J @ J.T) @ J
    torch.testing.assert_close(result[0], result[1])


def test_a_task_without_a_gradient_is_left_out():
    rows = double([[1.0, 0.0], [-0.5, 1.0], [0.0, 0.0]])
    for weights in (imtlg_weights, config_weights, lambda G: aligned_weights(G, "min")):
        with_it, without = weights(rows @ rows.T), weights(rows[:2] @ rows[:2].T)
        assert with_it.tolist() == [*without.tolist(), 1]


def test_a_scale_mode_that_is_none():
    with pytest.raises(ValueError, match="scale_mode must be one of 'min', 'median', 'rmse', got 'max'"):
        operate(AlignedMTL, torch.eye(2), scale_mode="max")


def test_one_task_keeps_its_gradient():
    rows = double([[0.5, -2.0]])
    for method in (IMTLG, ConFIG, AlignedMTL):
        torch.testing.assert_close(operate(method, rows)[0], rows[0], rtol=1e-14, atol=0)


def test_imtlg_of_three_tasks_may_raise_every_loss_where_config_lowers_them():
    """As the guide to the methods says: gradients without a conflict, the third of them short."""
    rows = torch.tensor([[1.0, 0.5, 0.0], [1.0, -0.5, 0.0], [0.1, 0.0, 0.01]], dtype=torch.float64)
    assert (rows @ rows.T > 0).all()
    assert (rows @ operate(IMTLG, rows, scope="all")[0] < 0).all()
    assert (rows @ operate(ConFIG, rows, scope="all")[0] > 0).all()
