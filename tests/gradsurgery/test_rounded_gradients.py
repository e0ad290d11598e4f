"""Gradients that depend on each other but for rounding: no method takes rounding for a direction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradsurgery import IMTLG, AlignedMTL, ConFIG, DualProj, UPGrad
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
    torch.manual_seed(seed)
    (single, sizes), (double, _) = (
        update(method, FACTORS[method], seed, dtype) for dtype in (torch.float32, torch.float64)
    )
    assert (single - double).norm() <= 1e-3 * sizes
    assert double.norm() >= 0.1 * sizes


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
    J = J.to(dtype)
    result, _ = operate(method, J)
    result, J = result.double(), J.double()
    lengths = J.norm(dim=1)
    assert result.norm() <= (1 + 1e-3) * lengths.sum()
    assert ((J @ result) / lengths / lengths.sum()).min() >= (-1e-4 if dtype == torch.float32 else -1e-8)


def test_what_is_rounding_follows_from_the_least_exact_dtype():
    assert rounding_of([torch.float64]) == torch.finfo(torch.float64).eps
    assert rounding_of([torch.float64, torch.float32]) == torch.finfo(torch.float32).eps
    assert rounding_of([torch.bfloat16, torch.float32]) == torch.finfo(torch.bfloat16).eps ** 2
    assert rounding_of([torch.complex128]) == torch.finfo(torch.float64).eps
