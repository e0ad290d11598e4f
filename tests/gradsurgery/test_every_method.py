"""What every method keeps, on hard Gramians too: scale, one task, absent gradients, infinities; GSE."""

import copy
import io
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradsurgery
from gradsurgery import (
    GSE,
    IMTLG,
    MGDA,
    RLW,
    AlignedMTL,
    CAGrad,
    ConFIG,
    Constant,
    DualProj,
    GradientSurgery,
    GradVac,
    Mean,
    NashMTL,
    PCGrad,
    Sum,
    UPGrad,
)
from tests.gradsurgery.reference import (
    Model,
    batches,
    gradients,
    hard_matrices,
    operate,
    parameters_like,
    same,
    tasks,
)

EQUAL = dict.fromkeys(("0", "1", "2", "task0", "task1", "task2"), 1.0)
METHODS = {
    "PCGrad": (PCGrad, {}),
    "GradVac": (GradVac, {"beta": 0.5}),
    "MGDA": (MGDA, {}),
    "CAGrad": (CAGrad, {"c": 0.5}),
    "UPGrad": (UPGrad, {}),
    "DualProj": (DualProj, {}),
    "NashMTL": (NashMTL, {"update_every": 2}),
    "IMTLG": (IMTLG, {}),
    "ConFIG": (ConFIG, {}),
    "AlignedMTL min": (AlignedMTL, {}),
    "AlignedMTL median": (AlignedMTL, {"scale_mode": "median"}),
    "AlignedMTL rmse": (AlignedMTL, {"scale_mode": "rmse"}),
    "RLW": (RLW, {}),
    "Sum": (Sum, {}),
    "Constant": (Constant, {"task_weights": EQUAL}),
}
WAIT_FOR_THE_DEVICE = {"MGDA", "CAGrad", "UPGrad", "DualProj", "NashMTL", "IMTLG", "ConFIG"} | {
    name for name in METHODS if name.startswith("AlignedMTL")
}
every_method = pytest.mark.parametrize("name", METHODS)


def built(name, parameters, **options):
    method, own = METHODS[name]
    return method(torch.optim.SGD(parameters, lr=0.1), **own, **options)


def weights_of(name, gramian):
    optimizer = built(name, parameters_like(torch.zeros(1)))
    optimizer.tasks = tuple(map(str, range(len(gramian))))
    return optimizer.weights(gramian)


def test_no_method_is_forgotten():
    exported = {m for m in GradientSurgery.__subclasses__() if m.__module__.startswith("gradsurgery.")}
    assert exported <= {method for method, _ in METHODS.values()}
    assert issubclass(Mean, Sum)


@every_method
@given(J=hard_matrices())
def test_every_gramian_has_finite_weights(name, J):
    weights = weights_of(name, J @ J.T)
    assert weights.shape == (len(J),)
    assert weights.dtype == torch.float64
    assert weights.isfinite().all()


@every_method
@given(J=hard_matrices(), exponent=st.integers(-60, 60))
def test_the_weights_do_not_depend_on_the_scale_of_all_gradients(name, J, exponent):
    """Powers of two change nothing else, so that the weights are the same to the last bit."""
    gramian = J @ J.T
    assert torch.equal(weights_of(name, gramian), weights_of(name, gramian * 4.0**exponent))


@every_method
@given(seed=st.integers(0, 2**32), exponent=st.integers(-20, 20), mean=st.booleans())
def test_one_task_keeps_its_gradient(name, seed, exponent, mean):
    generator = torch.Generator().manual_seed(seed)
    row = 10.0**exponent * torch.randn(1, 5, generator=generator, dtype=torch.float64)
    method, own = METHODS[name]
    result, _ = operate(method, row, scope="all", reduction="mean" if mean else "sum", **own)
    assert torch.equal(result, row[0])


@every_method
def test_the_default_device_does_not_matter(name):
    """On the meta device, where nothing has a value, whatever is not put beside the gradients would fail."""
    results = []
    for device in ("cpu", "meta"):
        parameters = parameters_like(torch.zeros(3), [1, 2])
        method, own = METHODS[name]
        optimizer = method(torch.optim.SGD(parameters, lr=0.1), **own, granularity="parameter", scope="all")
        torch.set_default_device(device)
        try:
            for _ in range(2):
                optimizer.zero_grad()
                optimizer.backward(
                    {"task0": sum(p.sum() for p in parameters), "task1": -2 * parameters[0].sum()}
                )
        finally:
            torch.set_default_device("cpu")
        results.append(torch.cat([p.grad for p in parameters]))
    assert torch.equal(*results)


class EqualLengths(GradientSurgery):
    """Gives every task's gradient the length 1, so that one that is absent has no weight that is finite."""

    def weights(self, gramian):
        return 1 / gramian.diagonal().sqrt()


@pytest.mark.parametrize("value", [1.0, math.nan])
def test_an_absent_task_changes_nothing_in_a_method_of_ones_own(value):
    first, second = parameters_like(torch.zeros(4), [2, 2])
    optimizer = EqualLengths(torch.optim.SGD([first, second], lr=0.1), granularity="parameter")
    both = value * first.sum() + second.sum()
    optimizer.backward({"a": both, "b": both, "c": 5 * second.sum()})
    assert torch.allclose(first.grad, torch.full_like(first, 2**0.5 * value), equal_nan=True)
    assert torch.allclose(second.grad, torch.full_like(second, 3 / 2**0.5))


@every_method
@given(J=hard_matrices(tasks=(1, 2, 3)), bad=st.sampled_from([math.nan, math.inf, -math.inf]), data=st.data())
def test_what_is_not_finite_shows_in_the_result(name, J, bad, data):
    t, p = (data.draw(st.integers(0, n - 1)) for n in J.shape)
    J[t, p] = bad
    weights = weights_of(name, J @ J.T)
    assert not (weights @ J).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"RLW", "GradVac", "PCGrad"}))
@given(J=hard_matrices(tasks=(1, 2, 3, 8)), position=st.integers(0, 8))
def test_a_task_without_a_gradient_changes_nothing(name, J, position):
    if name == "Constant":
        J = J[:1]
    position = min(position, len(J))
    more = torch.cat([J[:position], torch.zeros(1, J.shape[1], dtype=J.dtype), J[position:]])
    others = [k for k in range(len(more)) if k != position]
    gramian = more @ more.T
    expected = weights_of(name, gramian[others][:, others])
    assert torch.equal(weights_of(name, gramian)[others], expected)


@every_method
def test_who_waits_for_the_device(name):
    """A tensor on the device "meta" has no values that could be read."""
    gramian = torch.empty(3, 3, dtype=torch.float64, device="meta")
    if name in WAIT_FOR_THE_DEVICE:
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            weights_of(name, gramian)
    else:
        assert weights_of(name, gramian).device.type == "meta"
    documented = " ".join(METHODS[name][0].__doc__.split())
    assert "waits for the device" in documented
    assert ("Nothing waits for the device" in documented) == (name not in WAIT_FOR_THE_DEVICE)


README = Path(gradsurgery.__file__).with_name("README.md")


@pytest.mark.skipif(not README.exists(), reason="an installed package has no README.md beside it")
def test_the_readme_says_of_every_method_whether_it_waits():
    rows = re.findall(
        r"^\| (.+?) \| .* \| (yes|no|when it solves) \|$", README.read_text("utf-8"), re.MULTILINE
    )
    waits = {name: answer != "no" for names, answer in rows for name in re.findall(r"[A-Z]\w+", names)}
    waits = {name: answer for name, answer in waits.items() if hasattr(gradsurgery, name)}
    waiting = {METHODS[name][0].__name__ for name in WAIT_FOR_THE_DEVICE}
    assert waits == {
        method.__name__: method.__name__ in waiting for method in [Mean, *(m for m, _ in METHODS.values())]
    }


def test_nash_mtl_does_not_wait_between_two_solutions():
    optimizer = built("NashMTL", parameters_like(torch.zeros(1)))
    optimizer.tasks = ("a", "b")
    optimizer.weights(torch.eye(2, dtype=torch.float64))
    assert optimizer.weights(torch.empty(2, 2, dtype=torch.float64, device="meta")).device.type == "meta"


@every_method
@pytest.mark.parametrize("second_update", ["recompute", "reuse"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gse_makes_its_first_update_with_the_method_and_the_second_with_the_sum(
    name, second_update, reduction
):
    torch.manual_seed(0)
    model = Model().double()
    twin = copy.deepcopy(model)
    data = batches()
    optimizer = GSE(built(name, list(model.parameters()), reduction=reduction), second_update=second_update)
    method = built(name, list(twin.parameters()), reduction=reduction)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        optimizer.backward(tasks(model, data))
        same(gradients(model), first(method, twin, data), rtol=1e-9, atol=1e-12)
        optimizer.step()
        reused = total(twin, data)
        method.step()
        second = total(twin, data) if second_update == "recompute" else reused
        for parameter, gradient in zip(twin.parameters(), second, strict=True):
            parameter.grad = gradient
        plain.step()
        same(model.parameters(), twin.parameters(), rtol=1e-9, atol=1e-12)


def first(method, model, data):
    method.zero_grad()
    method.backward(tasks(model, data))
    return gradients(model)


def total(model, data):
    return torch.autograd.grad(sum(task() for task in tasks(model, data).values()), list(model.parameters()))


@every_method
def test_a_run_resumed_from_a_checkpoint_equals_one_that_was_not_interrupted(name):
    def start():
        torch.manual_seed(0)
        model = Model().double()
        return model, built(name, list(model.parameters()), granularity="parameter")

    def train(model, optimizer, numbers):
        for step in numbers:
            named = list(tasks(model, batches(seed=step)).items())
            optimizer.zero_grad()
            optimizer.backward(dict(named[:2] if step % 3 == 1 else named[::-1]))  # one absent, two swapped
            optimizer.step()

    whole, optimizer = start()
    train(whole, optimizer, range(7))
    model, optimizer = start()
    train(model, optimizer, range(3))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    train(model, optimizer, range(3, 5))  # which must not change what was saved
    buffer.seek(0)
    values, state = torch.load(buffer, weights_only=True)
    resumed, other = start()
    resumed.load_state_dict(values)
    other.load_state_dict(state)
    train(resumed, other, range(3, 7))
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))


@every_method
@pytest.mark.parametrize("granularity", ["global", "group", "parameter"])
def test_training_on_alike_tasks_lowers_their_losses(name, granularity):
    """Also by parameter, where a task that does not reach one is not a gradient of zero length."""
    torch.manual_seed(0)
    model = Model().double()
    data = [(x, x[:, :1]) for x, _ in batches(count=16)]
    losses = [task().item() for task in tasks(model, data).values()]
    optimizer = built(name, list(model.parameters()), granularity=granularity)
    for _ in range(60):
        optimizer.zero_grad()
        optimizer.backward(tasks(model, data))
        optimizer.step()
    for before, task in zip(losses, tasks(model, data).values(), strict=True):
        assert task().item() < before


class Shortest(GradientSurgery):
    """A user's own: the gradients weighted by one over their lengths."""

    def weights(self, gramian):
        return 1 / gramian.diagonal().sqrt()


def test_a_method_of_ones_own_is_a_class_of_five_lines():
    rows = torch.tensor([[3.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    result, optimizer = operate(Shortest, rows)
    assert result.tolist() == [1, 1]
    assert optimizer.conflicts.weights.tolist() == [1 / 3, 2]
    GSE(operate(Shortest, rows)[1])
