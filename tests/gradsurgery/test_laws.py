"""Laws that hold for every method, drawn at random from those that the package exports."""

import inspect
import io

import torch
from hypothesis import given
from hypothesis import strategies as st

import gradsurgery
from gradsurgery import GradientSurgery
from tests.gradsurgery.reference import losses_with, matrices, operate, parameters_like


def is_method(exported):
    """Whether this is a method that needs nothing but an optimizer, and takes any reduction."""
    if not (inspect.isclass(exported) and issubclass(exported, GradientSurgery)):
        return False
    if exported.__name__ == "Mean":
        return False
    _, *options = inspect.signature(exported).parameters.values()
    needed = [o for o in options if o.default is o.empty and o.kind is not o.VAR_KEYWORD]
    return exported is not GradientSurgery and not needed


def after_a_backward(method):
    return operate(method, torch.tensor([[1.0, 0.0, 0.2], [-1.0, 1.0, 0.0], [-0.5, -1.0, 0.3]]).double())[1]


METHODS = [method for method in map(vars(gradsurgery).get, gradsurgery.__all__) if is_method(method)]
ORDER_FREE = [
    m
    for m in METHODS
    if torch.equal(after_a_backward(m).generator.get_state(), torch.Generator().get_state())
]
FORGETFUL = [m for m in METHODS if not after_a_backward(m).method_state()]

methods = st.sampled_from(METHODS)
reductions = st.sampled_from(["sum", "mean"])
seeds = st.integers(0, 2**32)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def size(rows):
    """The scale of an error: the sum of the gradients' lengths."""
    return rows.norm(dim=1).sum().item()


def cut(data, width):
    """Draws the sizes of parameters that are as long as a row together."""
    inner = sorted(data.draw(st.sets(st.integers(1, width - 1), max_size=3))) if width > 1 else []
    return [b - a for a, b in zip([0, *inner], [*inner, width], strict=True)]


def named(losses, names="abcdefgh"):
    return dict(zip(names, losses, strict=False))


@given(method=methods, rows=matrices(), seed=seeds, reduction=reductions, data=st.data())
def test_how_the_vector_is_cut_into_parameters_does_not_matter(method, rows, seed, reduction, data):
    whole, _ = operate(method, rows, reduction=reduction, generator=seeded(seed))
    sizes = cut(data, rows.shape[1])
    parts, _ = operate(method, rows, sizes=sizes, reduction=reduction, generator=seeded(seed))
    assert (whole - parts).norm() <= 1e-7 * size(rows)


@given(method=methods, rows=matrices(tasks=(1, 4), width=(1, 8)), seed=seeds, turn=seeds)
def test_an_orthogonal_change_of_coordinates_turns_the_result_along(method, rows, seed, turn):
    width = rows.shape[1]
    Q, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=seeded(turn)))
    plain, _ = operate(method, rows, generator=seeded(seed))
    (parameter,) = parameters_like(rows[0])
    optimizer = method(torch.optim.SGD([parameter], lr=1.0), generator=seeded(seed))
    optimizer.backward([row @ (Q @ parameter) for row in rows])
    assert (Q @ parameter.grad - plain).norm() <= 1e-7 * size(rows)


@given(method=st.sampled_from(ORDER_FREE or METHODS), rows=matrices(tasks=(1, 6)), data=st.data())
def test_the_order_of_the_tasks_does_not_matter_to_a_method_that_draws_none(method, rows, data):
    if method not in ORDER_FREE:
        rows = rows[:2]
    order = data.draw(st.permutations(range(len(rows))))
    result, first = operate(method, rows)
    permuted, second = operate(method, rows[order])
    assert (result - permuted).norm() <= 1e-7 * size(rows)
    torch.testing.assert_close(first.conflicts.gramian[order][:, order], second.conflicts.gramian)


@given(method=methods, rows=matrices(), seed=seeds)
def test_the_mean_is_the_sum_divided_by_the_number_of_tasks(method, rows, seed):
    total, optimizer = operate(method, rows, generator=seeded(seed))
    mean, _ = operate(method, rows, reduction="mean", generator=seeded(seed))
    terms = optimizer.conflicts.weights.abs() @ rows.norm(dim=1)  # which may be large and cancel
    assert (total / len(rows) - mean).norm() <= 1e-14 * terms


@given(method=methods, rows=matrices(tasks=(1, 4)), seed=seeds, reduction=reductions, data=st.data())
def test_task_weights_are_scaled_losses(method, rows, seed, reduction, data):
    powers = st.sampled_from([2.0**k for k in range(-6, 7)])  # which round nothing
    weights = torch.tensor(data.draw(st.lists(powers, min_size=len(rows), max_size=len(rows)))).double()
    scaled, optimizer = operate(
        method, rows * weights.unsqueeze(1), reduction=reduction, generator=seeded(seed)
    )
    names = {str(k): w for k, w in enumerate(weights.tolist())}
    result, weighted = operate(method, rows, task_weights=names, reduction=reduction, generator=seeded(seed))
    assert torch.equal(result, scaled)
    assert torch.equal(weighted.conflicts.gramian, optimizer.conflicts.gramian)
    assert torch.equal(weighted.conflicts.weights, optimizer.conflicts.weights)


@given(method=methods, rows=matrices(width=(2, 12)), seed=seeds, reduction=reductions, data=st.data())
def test_a_scope_is_surgery_on_that_part_and_the_sum_elsewhere(method, rows, seed, reduction, data):
    sizes = cut(data, rows.shape[1])
    chosen = data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1))
    parameters = parameters_like(rows[0], sizes)
    members = [parameters[k] for k in chosen]
    optimizer = method(
        torch.optim.SGD(parameters, lr=1.0), scope=members, reduction=reduction, generator=seeded(seed)
    )
    optimizer.backward(losses_with(rows, parameters))
    parts = rows.split(sizes, dim=1)
    inside = [part for k, part in enumerate(parts) if k in chosen]
    lengths = [part.shape[1] for part in inside]
    by_hand, _ = operate(
        method,
        torch.cat(inside, dim=1),
        sizes=lengths,
        scope="all",
        reduction=reduction,
        generator=seeded(seed),
    )
    expected = iter(by_hand.split(lengths))
    share = len(rows) if reduction == "mean" else 1
    for k, (parameter, part) in enumerate(zip(parameters, parts, strict=True)):
        value = next(expected) if k in chosen else part.sum(0) / share
        torch.testing.assert_close(parameter.grad, value, rtol=1e-13, atol=1e-13)


@given(
    method=st.sampled_from(FORGETFUL),
    rows=matrices(tasks=(2, 5)),
    seed=seeds,
    reduction=reductions,
    data=st.data(),
)
def test_a_step_without_some_tasks_is_one_that_never_had_them(method, rows, seed, reduction, data):
    (parameter,) = parameters_like(rows[0])
    weights = {name: 0.5 + k for k, name in enumerate("abcde")}
    options = {"reduction": reduction, "task_weights": weights}
    optimizer = method(torch.optim.SGD([parameter], lr=1.0), **options)
    optimizer.backward(named(losses_with(rows, [parameter])))
    present = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True))
    optimizer.zero_grad()
    optimizer.generator.manual_seed(seed)
    losses = named(losses_with(rows, [parameter]))
    optimizer.backward({"abcde"[k]: losses["abcde"[k]] for k in present})
    (fresh,) = parameters_like(rows[0])
    weights = {name: weights[name] for name in ("abcde"[k] for k in present)}
    other = method(
        torch.optim.SGD([fresh], lr=1.0), reduction=reduction, task_weights=weights, generator=seeded(seed)
    )
    other.backward(named(losses_with(rows[present], [fresh]), ["abcde"[k] for k in present]))
    assert torch.equal(parameter.grad, fresh.grad)
    assert optimizer.conflicts.tasks == tuple("abcde"[k] for k in present)


@given(method=methods, rows=matrices(), seed=seeds, reduction=reductions, data=st.data())
def test_what_comes_in_parts_is_operated_on_as_a_whole(method, rows, seed, reduction, data):
    expected, _ = operate(method, rows, reduction=reduction, generator=seeded(seed))
    calls = data.draw(st.integers(1, 3))
    shares = data.draw(
        st.lists(
            st.lists(st.integers(0, 4), min_size=calls, max_size=calls),
            min_size=len(rows),
            max_size=len(rows),
        )
    )
    (parameter,) = parameters_like(rows[0])
    before = data.draw(st.sampled_from([None, 0.0, 1.5]))
    parameter.grad = None if before is None else torch.full_like(parameter, before)
    optimizer = method(torch.optim.SGD([parameter], lr=1.0), reduction=reduction, generator=seeded(seed))
    for call in range(calls):
        last = call == calls - 1
        factors = [
            1 - sum(share[:-1]) / 8 if last else share[call] / 8 for share in shares
        ]  # exact, as are the rows
        optimizer.backward(
            [f * loss for f, loss in zip(factors, losses_with(rows, [parameter]), strict=True)],
            accumulate=not last,
        )
    assert torch.equal(parameter.grad, expected + (before or 0.0))


@given(method=methods, seed=seeds, at=st.integers(0, 5), granularity=st.sampled_from(["global", "parameter"]))
def test_a_run_resumed_anywhere_equals_one_that_was_not_interrupted(method, seed, at, granularity):
    batches = torch.randn(6, 3, 4, generator=seeded(seed), dtype=torch.float64)

    def build():
        parameters = parameters_like(batches[0, 0], [1, 3])
        inner = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        return parameters, method(inner, granularity=granularity, generator=seeded(seed))

    def run(parameters, optimizer, calls):
        for call in calls:  # two calls a step; of the three tasks, another one is absent from each
            losses = named(losses_with(batches[call], parameters))
            del losses["abc"[call % 3]]
            optimizer.backward(losses, accumulate=call % 2 == 0)
            if call % 2 == 1:
                optimizer.step()
                optimizer.zero_grad()
        return torch.cat([p.detach() for p in parameters])

    whole = run(*build(), range(6))
    parameters, optimizer = build()
    run(parameters, optimizer, range(at))
    buffer = io.BytesIO()
    torch.save([parameters, optimizer.state_dict()], buffer)
    buffer.seek(0)
    values, state = torch.load(buffer, weights_only=True)
    resumed, other = build()
    with torch.no_grad():
        torch._foreach_copy_(resumed, values)
    other.load_state_dict(state)
    assert torch.equal(run(resumed, other, range(at, 6)), whole)
