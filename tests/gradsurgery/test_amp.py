"""Mixed precision: a GradScaler around the surgery and around GSE's two updates, and autocast."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradsurgery import GSE, PCGrad
from tests.gradsurgery.reference import QUARTER, Model, batches, same, tasks

WRAPPERS = {
    "pcgrad": lambda inner, scaler: PCGrad(inner),
    "recompute": lambda inner, scaler: GSE(inner, scaler=scaler),
    "reuse": lambda inner, scaler: GSE(inner, second_update="reuse", scaler=scaler),
}


def gradient_scaler(scale=2.0**10, **options):
    return torch.amp.GradScaler("cpu", init_scale=scale, **options)


def scaled(by_name, scaler):
    return {name: lambda task=task: scaler.scale(task()) for name, task in by_name.items()}


def adam(model, **options):
    return torch.optim.AdamW(model.parameters(), lr=0.05, **options)


def initial():
    torch.manual_seed(0)
    return Model()


def float_batches(seed):
    return [(x.float(), y.float()) for x, y in batches(seed=seed)]


def clip(model):
    return nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def train(wrap, *, enabled, parts=1, clipped=False, fused=False):
    """Returns the parameters after four steps, each of micro-batches, with a scaler or a disabled one."""
    model = initial()
    scaler = gradient_scaler(enabled=enabled)
    optimizer = wrap(adam(model, fused=fused), scaler)
    if clipped and isinstance(optimizer, GSE):
        optimizer.before_second_update = lambda: clip(model)
    for step in range(4):
        optimizer.zero_grad()
        for part in range(parts):
            micro = [(x.chunk(parts)[part], y.chunk(parts)[part]) for x, y in float_batches(step)]
            by_name = {name: lambda task=task: task() / parts for name, task in tasks(model, micro).items()}
            optimizer.backward(scaled(by_name, scaler), accumulate=part < parts - 1)
        if clipped:
            scaler.unscale_(optimizer)
            clip(model)
        scaler.step(optimizer)
        scaler.update()
    return list(model.parameters())


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_scale_that_is_a_power_of_two_changes_nothing(name, clipped, fused):
    expected = train(WRAPPERS[name], enabled=False, clipped=clipped, fused=fused)
    assert all(map(torch.equal, train(WRAPPERS[name], enabled=True, clipped=clipped, fused=fused), expected))
    if clipped:
        assert not torch.equal(expected[0], train(WRAPPERS[name], enabled=False)[0])


@pytest.mark.parametrize("name", WRAPPERS)
def test_micro_batches_of_scaled_losses_equal_one_batch_without_a_scaler(name):
    expected = train(WRAPPERS[name], enabled=False, clipped=True)
    same(train(WRAPPERS[name], enabled=True, parts=4, clipped=True), expected, rtol=1e-4, atol=1e-6)


@QUARTER
@given(exponent=st.integers(-60, 60), method=st.sampled_from(["sum", "mean"]))
def test_unscaling_after_the_surgery_is_scaling_nothing(exponent, method):
    model, data = initial(), float_batches(1)
    scaler = gradient_scaler(2.0**exponent)
    gradients = []
    for by_name in (tasks(model, data), scaled(tasks(model, data), scaler)):
        optimizer = PCGrad(adam(model), reduction=method)
        optimizer.backward(by_name)
        if gradients:
            scaler.unscale_(optimizer)
        gradients.append([p.grad for p in model.parameters()])
        model.zero_grad()
    same(*gradients, rtol=1e-6, atol=0)


class Overflow:
    """Two tasks, of which the first yields infinite gradients at chosen evaluations."""

    def __init__(self, infinite=()):
        self.model = initial()
        self.infinite = set(infinite)
        self.evaluations = 0

    def tasks(self, scaler):
        by_name = tasks(self.model, float_batches(0))
        first = by_name["task0"]

        def overflowing():
            self.evaluations += 1
            factor = math.inf if self.evaluations in self.infinite else 1.0
            return scaler.scale(first() * factor)

        return {**scaled(by_name, scaler), "task0": overflowing}

    def step(self, optimizer, scaler):
        optimizer.backward(self.tasks(scaler))
        scaler.step(optimizer)
        scaler.update()
        self.model.zero_grad()  # not the optimizer's, which would forget as well

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("infinite", "made"), [((), 2), ((2,), 1), ((1,), 0), ((1, 2), 0)])
def test_each_of_gses_updates_is_skipped_where_its_gradient_is_not_finite(infinite, made, fused):
    problem = Overflow(infinite)
    scaler = gradient_scaler()
    inner = adam(problem.model, fused=fused)
    optimizer = GSE(inner, scaler=scaler)
    problem.step(optimizer, scaler)

    expected = Overflow()
    plain = adam(expected.model, fused=fused)
    if made:
        first = PCGrad(plain, reduction="mean")
        first.backward(tasks(expected.model, float_batches(0)))
        first.step()
    if made == 2:
        plain.zero_grad()
        sum(task() for task in tasks(expected.model, float_batches(0)).values()).backward()
        plain.step()
    same(problem.weights(), expected.weights(), rtol=1e-6, atol=1e-7)
    assert all(state["step"] == made for state in inner.state.values())
    assert scaler.get_scale() == 2.0 ** (10 if made == 2 else 9)  # which backs off once


@pytest.mark.parametrize("second", ["recompute", "reuse"])
def test_a_skipped_step_leaves_nothing_for_the_next(second):
    results = []
    for skipped in (False, True):
        problem = Overflow({1} if skipped else ())
        scaler = gradient_scaler(backoff_factor=1 / 2)
        optimizer = GSE(adam(problem.model), second_update=second, scaler=scaler)
        for _ in range(2 + skipped):
            problem.step(optimizer, scaler)
        results.append(problem.weights())
    assert all(map(torch.equal, *results))


def test_gse_under_a_scaler_that_it_does_not_know_is_refused():
    problem = Overflow()
    scaler = gradient_scaler()
    optimizer = GSE(adam(problem.model))
    start = problem.weights()
    optimizer.backward(problem.tasks(scaler))
    with pytest.raises(ValueError, match=r"scaler must be the GradScaler .*, got None: pass GSE"):
        scaler.step(optimizer)
    assert all(map(torch.equal, problem.weights(), start))
    disabled = gradient_scaler(enabled=False)
    optimizer.zero_grad()
    optimizer.backward(problem.tasks(disabled))
    disabled.step(optimizer)
    assert not torch.equal(problem.weights()[0], start[0])


def test_a_copy_of_gse_has_a_copy_of_its_scaler():
    problem = Overflow()
    scaler = gradient_scaler()
    optimizer = GSE(adam(problem.model), scaler=scaler)
    problem.step(optimizer, scaler)
    twin, twin_problem, twin_scaler = copy.deepcopy((optimizer, problem, scaler))
    assert twin.scaler is twin_scaler
    problem.step(optimizer, scaler)
    twin_problem.step(twin, twin_scaler)
    assert all(map(torch.equal, problem.weights(), twin_problem.weights()))


def bfloat16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("scope", ["shared", "all"])
def test_one_task_under_autocast_is_bit_equal_to_the_bare_optimizer(scope):
    results = []
    for wrapped in (False, True):
        model = initial()
        optimizer = PCGrad(adam(model), scope=scope) if wrapped else adam(model)
        for step in range(100):
            x, y = float_batches(step)[0]
            with bfloat16():
                loss = model.loss(0, x, y)
            optimizer.zero_grad()
            optimizer.backward([loss]) if wrapped else loss.backward()
            optimizer.step()
        results.append(list(model.parameters()))
    assert all(map(torch.equal, *results))


def gse_gradients(around):
    """Returns both gradients of a GSE step with autocast around the forward, the backward, or both calls."""
    model, data = initial(), float_batches(0)
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    found = []
    inner.register_step_pre_hook(lambda *_: found.append([p.grad.clone() for p in model.parameters()]))
    optimizer = GSE(inner)

    def under_autocast(task):
        with bfloat16():
            return task()

    by_name = tasks(model, data)
    if around == "forward":
        optimizer.backward({name: lambda task=task: under_autocast(task) for name, task in by_name.items()})
        optimizer.step()
    elif around == "backward":
        with bfloat16():
            optimizer.backward(by_name)
        optimizer.step()
    elif around == "both":
        with bfloat16():
            optimizer.backward(by_name)
            optimizer.step()
    elif around == "step":
        optimizer.backward(by_name)
        with bfloat16():
            optimizer.step()
    else:
        optimizer.backward(by_name)
        optimizer.step()
    return found


@pytest.mark.parametrize("around", ["backward", "both"])
def test_the_second_gradient_is_evaluated_under_the_autocast_of_the_first(around):
    expected = gse_gradients("forward")
    found = gse_gradients(around)
    same(found[0], expected[0], rtol=0, atol=0)
    same(found[1], expected[1], rtol=0, atol=0)


def test_an_autocast_around_the_step_alone_changes_nothing():
    expected = gse_gradients("nothing")
    same(gse_gradients("step")[1], expected[1], rtol=0, atol=0)
    assert not torch.equal(gse_gradients("forward")[1][0], expected[1][0])


def test_float16_gradients_are_left_to_the_scaler_to_refuse():
    weight = nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer, scaler = PCGrad(torch.optim.SGD([weight], lr=0.1)), gradient_scaler()
    optimizer.backward([scaler.scale(weight.sum())])
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.step(optimizer)
