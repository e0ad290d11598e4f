"""What becomes of the embeddings of a call."""

import math
from functools import partial

import pytest
import torch

from smartreg import SMART
from smartreg.inputs import Inputs


def test_a_sum_is_differentiable_in_the_embeddings_and_in_the_perturbation():
    x, delta = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(2))
    moved = Inputs.check(x, None).add([delta])
    assert torch.equal(moved, x + delta)
    moved.square().sum().backward()
    assert torch.equal(x.grad, delta.grad)
    assert torch.equal(x.grad, 2 * moved.detach())


def test_a_sum_keeps_the_embeddings_type_and_structure():
    x, delta = torch.ones(2, 3, dtype=torch.bfloat16), torch.full((2, 3), 0.25)
    moved = Inputs.check(x, None).add([delta])
    pair = Inputs.check((x, x), None).add([delta, -delta])
    assert isinstance(pair, tuple)
    for each, value in zip((moved, *pair), (1.25, 1.25, 0.75), strict=True):
        assert torch.equal(each, torch.full((2, 3), value, dtype=torch.bfloat16))


def test_masked_positions_are_zero_whatever_was_there():
    mask = torch.tensor([[1, 0], [0, 0]])
    inputs = Inputs.check((torch.ones(2, 2, 3), torch.ones(2, 4)), (mask, None))
    first, second = inputs.keep([torch.full((2, 2, 3), math.nan), torch.full((2, 4), math.nan)])
    assert torch.equal(first.isnan(), mask.bool().unsqueeze(-1).expand(2, 2, 3))
    assert not first[~first.isnan()].any()
    assert second.isnan().all()


def test_leaves_gather_the_gradients_of_attached_embeddings_only():
    attached = torch.ones(2, 3, requires_grad=True) * 2
    leaves = Inputs.check((attached, torch.ones(2, 3)), None).leaves()
    assert [t.requires_grad for t in leaves.tensors] == [True, False]
    assert all(t.is_leaf for t in leaves.tensors)


def test_autocast_widens_half_precision_and_nothing_else():
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    assert Inputs.check(x, None).tensors[0].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        types = [Inputs.check(t, None).tensors[0].dtype for t in (x, x.float(), x.double())]
    assert types == [torch.float32, torch.float32, torch.float64]


HALF = torch.nn.Linear(3, 2).bfloat16()


class Trainer:
    def __init__(self):
        self.model = torch.nn.Linear(3, 2).bfloat16()

    def forward(self, x):
        return self.model(x)

    def __call__(self, x):
        return self.model(x)


def forwards():
    """Yields functions of which the modules are not known but named."""
    model = torch.nn.Linear(3, 2).bfloat16()
    yield lambda x: model(x * 1)
    yield lambda x: HALF(x * 1)
    yield partial(lambda model, x: model(x), model)
    yield partial(lambda x, model: model(x), model=model)
    yield Trainer().forward
    yield Trainer()


@pytest.mark.parametrize("forward", list(forwards()))
def test_the_parameters_that_a_function_names_are_looked_at(forward):
    """A model of 16 bits could not take float32; ε is held against the spacing of what it takes."""
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert Inputs.check(x, None, forward).tensors[0].dtype == torch.bfloat16
        assert SMART(epsilon=0.1, noise_std=0.1, step_size=1.0).penalize(forward, x)[1] >= 0
        with pytest.raises(ValueError, match=r"spacing of torch\.bfloat16"):
            SMART().penalize(forward, x)


def test_a_function_may_name_what_is_not_there_yet():
    def forward(x):
        return later(x)

    x = torch.ones(2, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert Inputs.check(x, None, forward).tensors[0].dtype == torch.float32
    later = None
