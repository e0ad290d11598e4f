"""The momentum teacher against its recursion written out."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartreg import BregmanProximalPoint, squared_error, symmetric_kl


@settings(max_examples=30)
@given(momentum=st.floats(0.0, 0.999), steps=st.integers(1, 5), seed=st.integers(0, 2**20))
def test_the_teacher_is_the_moving_average_of_the_parameters(make, momentum, steps, seed):
    model = make(seed=seed)
    proximal = BregmanProximalPoint(model, momentum=momentum)
    average = [p.detach().clone() for p in model.parameters()]
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        proximal.update()
        pairs = zip(model.parameters(), average, strict=True)
        average = [(1 - momentum) * new.detach() + momentum * old for new, old in pairs]
    torch.testing.assert_close([p.detach() for p in proximal.teacher.parameters()], average)


def test_the_penalty_is_the_divergence_from_the_teacher(make, x):
    model = make(dropout=0.5)
    proximal = BregmanProximalPoint(model)
    teacher = copy.deepcopy(model).eval()
    with torch.no_grad():
        model.outer.weight.add_(0.3)
    outputs = model(x)
    penalty = proximal(outputs, x)
    torch.testing.assert_close(penalty, symmetric_kl(outputs, teacher(x)))
    penalty.backward()
    assert model.outer.weight.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in proximal.teacher.parameters())


def test_the_teachers_outputs_are_a_constant_target(make, x):
    model, x = make(), x.clone().requires_grad_()
    assert not BregmanProximalPoint(model)(model(x).detach(), x).requires_grad


def test_it_is_zero_before_the_first_step(make, x):
    model = make()
    assert BregmanProximalPoint(model)(model(x), x).item() == 0.0


def test_the_teacher_has_no_dropout_in_either_mode(make, x):
    model = make(dropout=0.5)
    proximal = BregmanProximalPoint(model)
    outputs = model(x).detach()
    for mode in (True, False):
        assert proximal.train(mode).training == mode
        assert proximal(outputs, x) == proximal(outputs, x)
    assert model.training


def test_named_outputs_and_arguments(make, x, mask):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = make()

        def forward(self, embeddings, mask):
            return {"size": self.part(embeddings, mask), "cache": None}

    model = Named()
    proximal = BregmanProximalPoint(model, divergence={"size": squared_error})
    outputs = {"size": model(x, mask=mask)["size"] + 2.0}
    assert proximal(outputs, x, mask=mask).item() == pytest.approx(4.0)


def test_buffers_follow_and_the_state_resumes(x):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(30), nn.Linear(30, 3)).double()
    proximal = BregmanProximalPoint(model, momentum=0.9)
    model(x)
    proximal.update()
    assert torch.equal(proximal.teacher[1].running_mean, model[1].running_mean)
    other = BregmanProximalPoint(copy.deepcopy(model), momentum=0.9)
    other.load_state_dict(proximal.state_dict())
    outputs = model(x).detach()
    assert torch.equal(other(outputs, x), proximal(outputs, x))


def test_the_models_own_parameters_are_no_part_of_it(make):
    model = make()
    proximal = BregmanProximalPoint(model)
    assert len(list(proximal.parameters())) == len(list(model.parameters()))
    assert not {id(p) for p in proximal.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_an_impossible_momentum_is_refused(make, momentum):
    with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        BregmanProximalPoint(make(), momentum=momentum)
