"""Buffers of every kind are as they were after the block, and only inside it are they touched."""

import pytest
import torch
from torch import nn

from smartreg.buffers import preserved_buffers


class Counter(nn.Module):
    """Replaces one buffer at each call, and writes to another that its output's gradient needs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("absent", None)

    def forward(self, x):
        self.calls = self.calls + 1
        self.scale.mul_(2)
        return x * self.scale


def state(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("whole", [True, False])
def test_buffers_are_as_they_were(whole):
    """Whether the outer module is called or only its parts."""
    model = nn.Sequential(nn.BatchNorm1d(3), Counter(), nn.BatchNorm1d(3))
    before = state(model)
    identities = [id(b) for b in model.buffers()]
    x = torch.randn(5, 3)
    with preserved_buffers():
        for _ in range(2):
            model(x) if whole else [part(x) for part in model]
        assert model[1].calls == 2
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    assert [id(b) for b in model.buffers()] == identities
    model(x)
    assert model[1].calls == 1


def test_they_are_after_an_error_too():
    model = Counter()
    with pytest.raises(RuntimeError, match="size"), preserved_buffers():
        model(torch.ones(4))
    assert model.calls == 0
    assert torch.equal(model.scale, torch.ones(3))


def test_a_graph_that_holds_a_buffer_can_still_go_backward():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).eval())
    x = torch.randn(5, 3)
    with preserved_buffers():
        outputs = model(x)
    outputs.sum().backward()
    assert model[0].weight.grad is not None
