"""PCGrad against Algorithm 1 written out, and the laws of its result."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import PCGrad
from gradsurgery.projection import pcgrad_weights, random_order
from tests.gradsurgery.reference import QUARTER, algorithm1, losses_with, matrices, operate, parameters_like


def generator(seed):
    return torch.Generator().manual_seed(seed)


def size(rows):
    """The scale of an error: the sum of the gradients' lengths."""
    return rows.double().norm(dim=1).sum().item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@QUARTER
@given(data=st.data(), seed=st.integers(0, 2**32), mean=st.booleans())
def test_the_gramian_form_is_algorithm_1(dtype, tolerance, data, seed, mean):
    rows = data.draw(matrices(dtype=dtype))
    cut = data.draw(st.integers(0, rows.shape[1]))
    order = random_order(len(rows), generator(seed))
    expected = algorithm1(rows, order.tolist()) / (len(rows) if mean else 1)
    sizes = [cut, rows.shape[1] - cut]
    reduction = "mean" if mean else "sum"
    result, _ = operate(PCGrad, rows, sizes=sizes, reduction=reduction, generator=generator(seed))
    assert (result.double() - expected).norm() <= tolerance * size(rows)


@QUARTER
@given(
    rows=matrices(tasks=(2, 4), dtype=torch.float32), exponent=st.integers(-30, 30), seed=st.integers(0, 99)
)
def test_the_result_scales_with_the_gradients_in_float32(rows, exponent, seed):
    scale = 10.0**exponent
    result, _ = operate(PCGrad, rows, generator=generator(seed))
    scaled, _ = operate(PCGrad, rows * scale, generator=generator(seed))
    assert (scaled.double() / scale - result).norm() <= 2e-6 * size(rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@QUARTER
@given(rows=matrices(tasks=(2, 4)), exponent=st.integers(-8, 13), seed=st.integers(0, 99))
def test_the_result_scales_where_half_precision_norms_under_or_overflow(dtype, rows, exponent, seed):
    scaled = (rows.sign() * 2.0**exponent).to(dtype)  # exact in both; squares reach 2^-16 and 2^26 a term
    result, _ = operate(PCGrad, scaled, generator=generator(seed))
    expected = algorithm1(scaled, random_order(len(rows), generator(seed)).tolist())
    assert (result.double() - expected).abs().max() <= 2.0**-8 * expected.abs().max() + 2.0**-24


@QUARTER
@given(rows=matrices(tasks=(1, 5), low=0.0, dtype=torch.float32))
def test_without_conflict_the_result_is_exactly_the_sum(rows):
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    result, optimizer = operate(PCGrad, rows)
    assert torch.equal(result, total)
    mean, _ = operate(PCGrad, rows, reduction="mean")
    torch.testing.assert_close(mean, total / len(rows), rtol=3e-7, atol=1e-38)
    assert optimizer.conflicts.conflict_rate == 0 or len(rows) == 1


@QUARTER
@given(rows=matrices(tasks=(2, 2)))
def test_two_tasks_end_in_conflict_with_neither(rows):
    result, _ = operate(PCGrad, rows)
    assert (rows @ result >= -1e-12 * size(rows) ** 2).all()


@QUARTER
@given(rows=matrices(tasks=(2, 2)), seeds=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_the_order_of_two_tasks_does_not_matter(rows, seeds):
    result, _ = operate(PCGrad, rows, generator=generator(seeds[0]))
    swapped, _ = operate(PCGrad, rows.flip(0), generator=generator(seeds[1]))
    assert (result - swapped).norm() <= 1e-13 * size(rows)


@QUARTER
@given(rows=matrices(tasks=(2, 2)), position=st.integers(0, 2), seed=st.integers(0, 9))
def test_a_task_with_a_zero_gradient_changes_nothing(rows, position, seed):
    result, _ = operate(PCGrad, rows)
    zero = torch.zeros(1, rows.shape[1], dtype=rows.dtype)
    more, _ = operate(PCGrad, torch.cat([rows[:position], zero, rows[position:]]), generator=generator(seed))
    assert (result - more).norm() <= 1e-13 * size(rows)


@QUARTER
@given(rows=matrices(tasks=(1, 1)), mean=st.booleans())
def test_one_task_keeps_its_gradient(rows, mean):
    for scope in ("shared", "all"):
        result, _ = operate(PCGrad, rows, scope=scope, reduction="mean" if mean else "sum")
        assert torch.equal(result, rows[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@QUARTER
@given(data=st.data(), bad=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_shows_in_the_result(dtype, data, bad):
    rows = data.draw(matrices(tasks=(1, 4))).to(dtype)
    rows[data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, rows.shape[1] - 1))] = bad
    parameters = parameters_like(rows[0])
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0))

    def back_propagated(row):
        def task():
            parameters[0].grad = row.clone()

        return task

    optimizer.backward([back_propagated(row) for row in rows])
    assert not parameters[0].grad.isfinite().all()


@given(rows=matrices(tasks=(1, 6)), seed=st.integers(0, 99))
def test_every_weight_is_at_least_one(rows, seed):
    weights = pcgrad_weights(rows @ rows.T, random_order(len(rows), generator(seed)))
    assert (weights >= 1).all()


@given(tasks=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_an_order_holds_each_other_task_once(tasks, seed):
    order = random_order(tasks, generator(seed)).tolist()
    assert [sorted(row) for row in order] == [[j for j in range(tasks) if j != i] for i in range(tasks)]


def test_orders_are_uniform_and_drawn_anew_for_each_task():
    draws = 24_000
    source = generator(0)
    pairs = Counter(tuple(map(tuple, random_order(4, source)[:2].tolist())) for _ in range(draws))
    rows = [list(itertools.permutations([j for j in range(4) if j != i])) for i in range(2)]
    expected = draws / 36
    assert set(pairs) == set(itertools.product(*rows))
    chi_square = sum((n - expected) ** 2 / expected for n in pairs.values())
    assert chi_square < 66.6  # 35 degrees of freedom, p = 0.001


def test_the_order_comes_from_the_generator_alone():
    rows = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 1.0, 0.0], [-0.5, -1.0, 0.3]])
    state = torch.get_rng_state(), random.getstate()
    results = [operate(PCGrad, rows, generator=generator(seed))[0] for seed in range(8)]
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert len({tuple(result.tolist()) for result in results}) > 1
    torch.manual_seed(1)
    random.seed(1)
    again = [operate(PCGrad, rows, generator=generator(seed))[0] for seed in range(8)]
    assert all(map(torch.equal, results, again))


def test_every_backward_draws_anew():
    rows = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 1.0, 0.0], [-0.5, -1.0, 0.3]])
    parameters = parameters_like(rows[0])
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0))
    results = set()
    for _ in range(16):
        optimizer.zero_grad()
        optimizer.backward(losses_with(rows, parameters))
        results.add(tuple(parameters[0].grad.tolist()))
    assert len(results) > 1
