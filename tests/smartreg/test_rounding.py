"""Stochastic rounding against the two neighbours and the mean that define it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smartreg.rounding import HALF, round_stochastically


def draws(value, dtype, count=4000):
    """``(count,)`` roundings of one number, in float64."""
    values = torch.full((count,), value, dtype=torch.float32)
    return round_stochastically(values, dtype, torch.Generator().manual_seed(0)).double()


def neighbours(value, dtype):
    """The largest number of ``dtype`` up to the value, and the least from it on, by rounding to nearest."""
    exact = torch.tensor(value, dtype=torch.float32)
    near = exact.to(dtype)
    if near.double() == exact.double():
        return near.double(), near.double()
    other = torch.nextafter(
        near.cpu(), torch.tensor(torch.inf if near.float() < exact else -torch.inf).to(dtype)
    )
    low, high = sorted([near.double().item(), other.double().item()])
    return torch.tensor(low).double(), torch.tensor(high).double()


@pytest.mark.parametrize("dtype", HALF)
@given(
    value=st.floats(2.0**-20, 6e4, width=32).flatmap(lambda v: st.sampled_from([v, -v])),
)
def test_it_is_one_of_two_neighbours_and_right_on_the_average(dtype, value):
    low, high = neighbours(value, dtype)
    found = draws(value, dtype)
    assert bool(((found == low) | (found == high)).all())
    chance = float((value - low) / (high - low)) if high > low else 0.0
    share = (found == high).double().mean().item() if high > low else 0.0
    assert share == pytest.approx(chance, abs=5 * (chance * (1 - chance) / 4000) ** 0.5 + 1e-3)


@pytest.mark.parametrize("dtype", HALF)
def test_what_the_type_can_hold_is_kept(dtype):
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    special = torch.tensor([0.0, 1.0, -2.0, torch.finfo(dtype).max, torch.inf, -torch.inf, torch.nan]).to(
        dtype
    )
    for kept in (numbers, special):
        found = round_stochastically(kept.float(), dtype, torch.Generator().manual_seed(0))
        torch.testing.assert_close(found, kept, rtol=0, atol=0, equal_nan=True)


def test_subnormal_numbers_of_float16_have_their_spacing():
    found = draws(2.5 * 2.0**-24, torch.float16)
    assert set(found.tolist()) == {2 * 2.0**-24, 3 * 2.0**-24}
    assert found.mean() == pytest.approx(2.5 * 2.0**-24, rel=0.05)
