"""Uncertainty weighting and dynamic weight average: the papers' formulas, and their state."""

import io
import math

import pytest
import torch
from torch import nn

from gradsurgery import DWA, GSE, PCGrad, UncertaintyWeighting
from tests.gradsurgery.reference import Model, batches, losses_with, parameters_like, sgd, tasks

scalarization = pytest.importorskip("torchjd.scalarization")


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def test_uncertainty_weighting_is_that_of_torchjd_in_value_and_in_every_gradient():
    balance, other = UncertaintyWeighting("ab").double(), scalarization.UW(2).double()
    with torch.no_grad():
        other.log_var.copy_(number([0.7, -1.2]))
        torch._foreach_copy_(list(balance.log_variances), list(other.log_var.unbind()))
    values, twin = (number([2.0, 3.0]).requires_grad_() for _ in range(2))
    weighted = balance({"b": values[1], "a": values[0]})
    total = sum(weighted.values())
    torch.testing.assert_close(total, other(twin))
    total.backward()
    other(twin).backward()
    torch.testing.assert_close(values.grad, twin.grad)
    torch.testing.assert_close(torch.stack([s.grad for s in balance.log_variances]), other.log_var.grad)


@pytest.mark.parametrize("kind", ["losses", "callables"])
def test_uncertainties_are_learned_beside_the_surgery_which_leaves_them_alone(model, kind):
    balance = UncertaintyWeighting(["task0", "task1", "task2"]).double()
    parameters = [*model.parameters(), *balance.parameters()]
    data = batches()
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=0.1))
    named = tasks(model, data)
    values = {name: task().item() for name, task in named.items()}
    if kind == "losses":
        named = {name: task() for name, task in named.items()}
    optimizer.backward(balance(named))
    for s, value in zip(balance.log_variances, values.values(), strict=True):
        assert s.grad.item() == pytest.approx((1 - value) / 2)  # of ½ e^(-s) L + ½ s at s = 0
    halves = PCGrad(sgd(model), task_weights=dict.fromkeys(values, 0.5))
    shared = [p.grad.clone() for p in model.parameters()]
    halves.zero_grad()
    halves.backward(tasks(model, data))
    torch.testing.assert_close(shared, [p.grad for p in model.parameters()])


def test_training_brings_each_variance_to_its_loss():
    balance = UncertaintyWeighting("ab").double()
    optimizer = PCGrad(torch.optim.SGD(balance.parameters(), lr=0.5))
    for _ in range(300):
        optimizer.zero_grad()
        optimizer.backward(balance({"a": number(0.5), "b": lambda: number(4.0)}))
        optimizer.step()
    variances = [s.exp().item() for s in balance.log_variances]
    assert variances == pytest.approx([0.5, 4.0], rel=1e-6)


def test_a_task_that_was_not_named():
    with pytest.raises(ValueError, match=r"losses must be of the tasks \('a',\), got one of 'b'"):
        UncertaintyWeighting(["a"])({"b": number(1.0)})


@pytest.mark.parametrize("balance", [UncertaintyWeighting(["a"]), DWA()])
def test_a_callable_that_keeps_its_loss_to_itself(balance):
    weighted = balance({"a": lambda: None})
    with pytest.raises(ValueError, match="the callable of task 'a' must return its loss to have it weighted"):
        weighted["a"]()


EPOCHS = [[(4.0, 1.0), (2.0, 3.0)], [(1.0, 1.0), (2.0, 2.0)], [(0.5, 2.0)], [(0.4, 1.9)]]


def values(weighted):
    return [(task() if callable(task) else task).item() for task in weighted.values()]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_dynamic_weights_are_those_of_torchjd(temperature):
    balance, other = DWA(temperature=temperature), scalarization.DWA(temperature=temperature)
    for epoch in EPOCHS:
        for a, b in epoch:
            losses = number([a, b]).requires_grad_()
            (expected,) = torch.autograd.grad(other(losses), losses)
            weighted = balance({"b": (lambda losses=losses: losses[1]), "a": losses[0]})
            assert values(weighted) == pytest.approx([expected[1].item() * b, expected[0].item() * a])
        balance.end_epoch()
        other.step()
    assert sum(weight.item() for weight in balance.weights.values()) == pytest.approx(2)
    assert balance.weights["b"] > balance.weights["a"]  # b fell more slowly


def test_dynamic_weights_multiply_what_reaches_the_gradients(model):
    balance, data = DWA(), batches()
    balance.weights = {"task0": number(0.5), "task2": number(2.0)}
    optimizer = PCGrad(sgd(model))
    optimizer.backward(balance(tasks(model, data)))
    result = [p.grad.clone() for p in model.parameters()]
    expected = PCGrad(sgd(model), task_weights={"task0": 0.5, "task1": 1.0, "task2": 2.0})
    expected.zero_grad()
    expected.backward(tasks(model, data))
    torch.testing.assert_close(result, [p.grad for p in model.parameters()])


def test_a_task_that_was_absent_from_an_epoch_has_weight_one_and_the_others_share_theirs():
    balance = DWA()
    for epoch in ({"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 2.0, "c": 1.0}):
        balance({name: number(value) for name, value in epoch.items()})
        balance.end_epoch()
    assert balance.weights.keys() == {"a", "b"}
    assert sum(weight.item() for weight in balance.weights.values()) == pytest.approx(2)
    assert values(balance({"c": number(3.0)})) == [3.0]


def test_losses_that_are_not_finite_enter_no_mean():
    balance, clean = DWA(), DWA()
    for a in (2.0, math.nan, math.inf):
        balance({"a": number(a), "b": number(1.0)})
    clean({"a": number(2.0), "b": number(1.0)})
    for instance in (balance, clean):
        instance.end_epoch()
        instance({"a": number(1.0), "b": number(1.0)})
        instance.end_epoch()
    assert balance.weights == clean.weights
    balance({"a": number(math.nan), "b": number(0.0)})
    balance.end_epoch()
    balance({"a": number(1.0), "b": number(0.0)})
    balance.end_epoch()
    assert [weight.item() for weight in balance.weights.values()] == [1, 1]  # no rate is known


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_means_of_long_epochs_of_half_precision_losses_are_exact(dtype):
    balance, exact = DWA(), DWA()
    for epoch in ([1.0] * 600 + [0.5] * 600, [0.25] * 600 + [0.75] * 3000):
        for value in epoch:
            balance({"a": torch.tensor(value, dtype=dtype), "b": torch.tensor(1.0, dtype=dtype)})
            exact({"a": number(value), "b": number(1.0)})
        balance.end_epoch()
        exact.end_epoch()
    weights = [[weight.item() for weight in one.weights.values()] for one in (balance, exact)]
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)


@pytest.mark.parametrize("at", range(7))
def test_dynamic_weights_resume_from_a_checkpoint_anywhere(at):
    events = [losses for epoch in EPOCHS for losses in [*epoch, None]]

    def run(balance, some):
        seen = []
        for event in some:
            if event is None:
                balance.end_epoch()
            else:
                seen += values(balance(dict(zip("ab", map(number, event), strict=True))))
        return seen

    whole = DWA()
    first = run(whole, events[:at])
    expected = run(whole, events[at:])
    before = DWA()
    assert run(before, events[:at]) == first
    buffer = io.BytesIO()
    torch.save(before.state_dict(), buffer)
    run(before, events[at:])  # which must not change what was saved
    buffer.seek(0)
    resumed = DWA()
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert run(resumed, events[at:]) == expected


def test_both_are_evaluated_twice_by_gse_with_recomputation():
    torch.manual_seed(0)
    model = Model().double()
    uncertainties, balance = UncertaintyWeighting(["task0", "task1", "task2"]).double(), DWA()
    optimizer = GSE(torch.optim.SGD([*model.parameters(), *uncertainties.parameters()], lr=0.1))
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward(uncertainties(balance(tasks(model, batches()))))
        optimizer.step()
        balance.end_epoch()
    assert balance.weights.keys() == {"task0", "task1", "task2"}
    assert all(s.item() != 0 for s in uncertainties.log_variances)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        DWA(temperature=temperature)


def test_losses_in_modules_of_float32_stay_float32():
    parameters = parameters_like(torch.ones(2))
    (loss, _) = losses_with(torch.ones(2, 2), parameters)
    assert UncertaintyWeighting("a")({"a": loss})["a"].dtype == torch.float32
    assert isinstance(UncertaintyWeighting("a"), nn.Module)


def test_a_loss_of_one_number_in_a_vector_is_as_good_as_one():
    one, other = DWA(), DWA()
    for factor in (1.0, 0.5, 0.25):
        for balance, shape in ((one, (1,)), (other, ())):
            balance({"a": number(factor).reshape(shape), "b": number(2.0)})
            balance.end_epoch()
    assert one.weights == other.weights
    assert one.weights["a"].shape == ()
