"""Gradients that depend on each other but for rounding: no method takes rounding for a direction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradsurgery import IMTLG, AlignedMTL, ConFIG, DualProj, UPGrad
from gradsurgery.alignment import aligned_weights, config_weights
from gradsurgery.gramians import rounding_of
from tests.gradsurgery.reference import operate

FACTORS = {UPGrad: -0.3, DualProj: -0.3, ConFIG: -0.3, IMTLG: -0.3, AlignedMTL: 0.3}


def update(method, factor, seed, dtype):
    """The update of a small network whose first two losses are one but for a factor."""
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2)).to(dtype), torch.randn(64, 8)
    optimizer = method(torch.optim.SGD(model.parameters(), lr=0.1))
    errors = (model(x.to(dtype)) - x[:, :2].to(dtype)).square().mean(0)
    optimizer.backward({"a": errors[0], "b": factor * errors[0], "c": errors[1]})
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double(), optimizer.conflicts.norms.sum()


@pytest.mark.parametrize("method", FACTORS)
@pytest.mark.parametrize("seed", range(8))
def test_float32_gives_what_float64_gives(method, seed):
    """Before, 378 times as long in one of these (UPGrad), and nothing in five (ConFIG, IMTLG)."""
    (single, sizes), (double, _) = (
        update(method, FACTORS[method], seed, dtype) for dtype in (torch.float32, torch.float64)
    )
    assert (single - double).norm() <= 1e-3 * sizes
    assert double.norm() >= 0.1 * sizes


def opposite_but_for(angle, tasks, seed):
    """Unit gradients, two of them opposite but for an angle, the others in conflict with what these leave."""
    J = torch.randn(tasks, 3000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    J /= J.norm(dim=1, keepdim=True)
    normal = J[1] - (J[1] @ J[0]) * J[0]
    normal /= normal.norm()
    J[1] = angle.sin() * normal - angle.cos() * J[0]
    J[2:] = 0.5 * J[2:] - 0.5 * normal
    return J / J.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("method", [UPGrad, DualProj])
@pytest.mark.parametrize("tasks", [3, 20])
def test_an_angle_of_half_a_degree_is_no_rounding_in_float32(method, tasks):
    J = opposite_but_for(torch.tensor(1e-2), tasks, seed=0).float()
    (single, _), (double, _) = operate(method, J), operate(method, J.double())
    assert (single - double).norm() <= 1e-2 * double.norm()


@pytest.mark.parametrize(
    ("dtype", "noise", "tolerance"), [(torch.float32, 0.01, 2e-3), (torch.bfloat16, 0.2, 1e-2)]
)
@pytest.mark.parametrize("tasks", [10, 50])
def test_gradients_that_are_nearly_one_are_not_taken_for_one(dtype, noise, tasks, tolerance):
    """They are half a degree apart in float32, and ten in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(1, 20000, generator=generator) + noise * torch.randn(tasks, 20000, generator=generator)
    J = J.to(dtype).double()
    for weights in (config_weights, lambda *args: aligned_weights(args[0], "min", args[1])):
        exact, rounded = (
            weights(J @ J.T, rounding_of([torch.float64])),
            weights(J @ J.T, rounding_of([dtype])),
        )
        assert ((exact - rounded) @ J).norm() <= tolerance * (exact @ J).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [UPGrad, DualProj])
@given(
    seed=st.integers(0, 2**32),
    digits=st.floats(1, 9),
    tasks=st.sampled_from([3, 6, 20]),
)
@settings(max_examples=30)
def test_it_is_so_where_the_others_conflict_with_what_the_opposite_ones_leave(
    method, dtype, seed, digits, tasks
):
    check(method, opposite_but_for(torch.tensor(10.0**-digits, dtype=torch.float64), tasks, seed).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [UPGrad, DualProj])
@given(seed=st.integers(0, 2**32), digits=st.floats(1, 9), tasks=st.sampled_from([3, 4, 6]))
@settings(max_examples=40)
def test_a_projection_is_no_longer_than_the_gradients_and_conflicts_with_none(
    method, dtype, seed, digits, tasks
):
    """Of gradients as opposite as 1e-1 to 1e-9."""
    J = torch.randn(tasks, 3000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    J[1] = 10**-digits * J[1] - J[0]
    check(method, J.to(dtype))


def check(method, J):
    result, _ = operate(method, J)
    is_single = J.dtype == torch.float32
    result, J = result.double(), J.double()
    lengths = J.norm(dim=1)
    assert result.norm() <= (1 + 1e-3) * lengths.sum()
    assert ((J @ result) / lengths / lengths.sum()).min() >= (-1e-4 if is_single else -1e-7)


def test_what_is_rounding_follows_from_the_least_exact_dtype():
    assert rounding_of([torch.float64]) == torch.finfo(torch.float64).eps
    assert rounding_of([torch.float64, torch.float32]) == torch.finfo(torch.float32).eps
    assert rounding_of([torch.bfloat16, torch.float32]) == torch.finfo(torch.bfloat16).eps ** 2
    assert rounding_of([torch.complex128]) == torch.finfo(torch.float64).eps
