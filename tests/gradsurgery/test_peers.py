"""Two tasks, where the order is no choice: other packages' PCGrad, at scales that they bear."""

import copy

import pytest
import torch
from hypothesis import given
from torch import nn

from gradsurgery import PCGrad
from tests.gradsurgery.reference import QUARTER, matrices, operate

pytest.importorskip("torchjd")
pytest.importorskip("pytorch_optimizer")


@QUARTER
@given(rows=matrices(tasks=(2, 2)))
def test_torchjd(rows):
    from torchjd import aggregation

    result, _ = operate(PCGrad, rows, scope="all")
    torch.testing.assert_close(result, aggregation.PCGrad()(rows), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_pytorch_optimizer_trains_a_network_alike(reduction):
    from pytorch_optimizer import PCGrad as Other

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    twin = copy.deepcopy(model)
    x, targets = torch.randn(8, 4).double(), torch.randn(2, 8, 2).double()
    ours = PCGrad(torch.optim.AdamW(model.parameters(), lr=0.01), reduction=reduction)
    theirs = Other(torch.optim.AdamW(twin.parameters(), lr=0.01), reduction=reduction)
    conflicts = 0
    for _ in range(20):
        ours.zero_grad()
        ours.backward([nn.functional.mse_loss(model(x), y) for y in targets])
        conflicts += ours.conflicts.conflict_rate
        ours.step()
        theirs.zero_grad()
        theirs.pc_backward([nn.functional.mse_loss(twin(x), y) for y in targets])
        theirs.step()
    assert conflicts > 0
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
