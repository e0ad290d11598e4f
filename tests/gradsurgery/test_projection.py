"""PCGrad and GradVac against their algorithms written out, and the laws of their results."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import GradVac, PCGrad, projection
from gradsurgery.projection import gradvac_weights, pcgrad_weights, random_order
from tests.gradsurgery.reference import QUARTER, algorithm1, losses_with, matrices, operate, parameters_like


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[0, projection.FEW], ids=["tensors", "numbers"], scope="module")
def way(request):
    """The weights of few tasks both as on a device and as on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "FEW", request.param)
        yield


def size(rows):
    """The scale of an error: the sum of the gradients' lengths."""
    return rows.double().norm(dim=1).sum().item()


@pytest.mark.usefixtures("way")
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


@pytest.mark.usefixtures("way")
@QUARTER
@given(
    rows=matrices(tasks=(2, 4), dtype=torch.float32), exponent=st.integers(-30, 30), seed=st.integers(0, 99)
)
def test_the_result_scales_with_the_gradients_in_float32(rows, exponent, seed):
    scale = 10.0**exponent
    result, _ = operate(PCGrad, rows, generator=generator(seed))
    scaled, _ = operate(PCGrad, rows * scale, generator=generator(seed))
    assert (scaled.double() / scale - result).norm() <= 2e-6 * size(rows)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@QUARTER
@given(rows=matrices(tasks=(2, 4)), exponent=st.integers(-8, 13), seed=st.integers(0, 99))
def test_the_result_scales_where_half_precision_norms_under_or_overflow(dtype, rows, exponent, seed):
    scaled = (rows.sign() * 2.0**exponent).to(dtype)  # exact in both; squares reach 2^-16 and 2^26 a term
    result, _ = operate(PCGrad, scaled, generator=generator(seed))
    expected = algorithm1(scaled, random_order(len(rows), generator(seed)).tolist())
    assert (result.double() - expected).abs().max() <= 2.0**-8 * expected.abs().max() + 2.0**-24


@pytest.mark.usefixtures("way")
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
    assert not optimizer.conflicts.conflict_rate > 0


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


@pytest.mark.usefixtures("way")
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


@pytest.mark.usefixtures("way")
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


@pytest.mark.usefixtures("way")
def test_a_zero_gradient_is_not_divided_by_where_another_is_not_finite():
    rows = torch.tensor([[math.inf, 1.0], [0.0, 0.0]])
    weights = pcgrad_weights(rows @ rows.T, torch.tensor([[1], [0]]))
    assert weights.isnan().tolist() == [True, False]
    assert weights[1] == 1


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


def gradient_vaccine(rows, order, goals, beta):
    """Wang et al. 2021, Algorithm 1, on whole vectors. Returns the sum and the new averages."""
    goals = goals.clone()
    total = torch.zeros_like(rows[0])
    for i, own in enumerate(rows):
        g = own.clone()
        for j in order[i]:
            length, other = g.norm().item(), rows[j].norm().item()
            if length == 0 or other == 0:
                continue
            goal, cosine = goals[i, j].item(), (g @ rows[j]).item() / (length * other)
            cosine = min(max(cosine, -1.0), 1.0)
            if cosine < goal:
                rise = goal * math.sqrt(1 - cosine**2) - cosine * math.sqrt(1 - goal**2)
                g = g + length * rise / (other * math.sqrt(1 - goal**2)) * rows[j]
            goals[i, j] = (1 - beta) * goal + beta * cosine
        total += g
    return total, goals


@given(data=st.data(), beta=st.sampled_from([0.0, 0.01, 0.5, 1.0]), seed=st.integers(0, 2**32))
def test_gradvac_is_its_algorithm(data, beta, seed):
    tasks = data.draw(st.sampled_from([1, 2, 3, 5, 8]))
    rows = torch.randn(tasks, 10, generator=generator(seed), dtype=torch.float64)
    rows[data.draw(st.integers(0, tasks - 1))] *= data.draw(st.sampled_from([0.0, 1e-3, 1.0]))
    rows *= 10.0 ** data.draw(st.integers(-20, 20))
    order = random_order(tasks, generator(seed))
    goals = 1.8 * torch.rand(tasks, tasks, generator=generator(seed + 1), dtype=torch.float64) - 0.9
    expected, averages = gradient_vaccine(rows, order.tolist(), goals, beta)
    weights, after = gradvac_weights(rows @ rows.T, order, goals, beta)
    tolerance = 1e-9 * (weights.abs() * rows.norm(dim=1)).sum()
    assert (weights @ rows - expected).norm() <= tolerance
    torch.testing.assert_close(after, averages, rtol=0, atol=1e-9)


@given(rows=matrices(), seed=st.integers(0, 2**32))
def test_gradvac_without_averages_is_pcgrad(rows, seed):
    expected, _ = operate(PCGrad, rows, generator=generator(seed))
    result, _ = operate(GradVac, rows, generator=generator(seed), beta=0.0)
    assert (result - expected).norm() <= 1e-12 * size(rows)


@given(seed=st.integers(0, 2**32), goal=st.floats(-0.9, 0.9))
def test_two_tasks_of_gradvac_reach_the_goal_from_below(seed, goal):
    rows = torch.randn(2, 5, generator=generator(seed), dtype=torch.float64)
    goals = torch.full((2, 2), goal, dtype=torch.float64)
    a, b = rows
    before = torch.cosine_similarity(a, b, dim=0).item()
    weights, _ = gradvac_weights(rows @ rows.T, torch.tensor([[1], [0]]), goals, 0.5)
    added = weights - 1
    for own, other, factor in ((a, b, added[1]), (b, a, added[0])):
        after = torch.cosine_similarity(own + factor * other, other, dim=0).item()
        assert after == pytest.approx(max(before, goal), abs=1e-9)


ROWS = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 1.0, 0.0], [-0.5, -1.0, 0.3]], dtype=torch.float64)


def averages_after(*calls, **options):
    """Runs GradVac on calls of (names, rows); returns the optimizer."""
    parameters = parameters_like(ROWS[0], options.pop("sizes", None))
    optimizer = GradVac(torch.optim.SGD(parameters, lr=1.0), beta=0.5, **options)
    for names, rows in calls:
        optimizer.zero_grad()
        optimizer.backward(dict(zip(names, losses_with(rows, parameters), strict=True)))
    return optimizer


def by_pair(optimizer, part=0):
    names, values = optimizer.method_state()["averages"][part]
    return {(a, b): values[i, j].item() for i, a in enumerate(names) for j, b in enumerate(names)}


def test_the_averages_of_gradvac_belong_to_names():
    """Tasks come, go and change places; each pair's average goes on from where it was."""
    met = by_pair(averages_after(("ab", ROWS[:2]), ("cb", ROWS[[2, 1]]), ("ba", ROWS[[1, 0]])))
    ab = torch.cosine_similarity(ROWS[0], ROWS[1], dim=0).item()
    bc = torch.cosine_similarity(ROWS[1], ROWS[2], dim=0).item()
    assert met["a", "b"] == met["b", "a"] == pytest.approx(0.75 * ab)
    assert met["c", "b"] == met["b", "c"] == pytest.approx(0.5 * bc)
    assert met["a", "c"] == met["c", "a"] == 0


def test_the_averages_of_gradvac_belong_to_parts():
    calls = ("ab", ROWS[:2]), ("ab", ROWS[1:])
    both = averages_after(*calls, sizes=[1, 2], granularity="parameter")
    for part in range(2):
        columns = torch.tensor([0, 1, 1]) == part
        alone = averages_after(*((names, rows.where(columns, 0.0)) for names, rows in calls))
        assert by_pair(both, part) == pytest.approx(by_pair(alone), rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_seen_and_leaves_its_averages_alone(bad):
    broken = ROWS.clone()
    broken[1, 0] = bad
    before = by_pair(averages_after(("abc", ROWS)))
    optimizer = averages_after(("abc", ROWS), ("abc", broken))
    assert not optimizer.param_groups[0]["params"][0].grad.isfinite().all()
    after = by_pair(optimizer)
    assert all(map(math.isfinite, after.values()))
    for pair in (("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")):
        assert after[pair] == before[pair]


def test_a_goal_of_one_is_beyond_reach():
    gramian = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    weights, _ = gradvac_weights(gramian, torch.tensor([[1], [0]]), torch.ones(2, 2).double(), 0.0)
    assert weights.tolist() == [1, 1]


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none(beta):
    with pytest.raises(ValueError, match="beta must be a share from 0 to 1, got"):
        operate(GradVac, ROWS, beta=beta)
