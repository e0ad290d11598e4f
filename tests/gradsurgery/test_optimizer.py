"""backward() and step(): what lands in .grad, for every form of task, scope, granularity and accumulation."""

import copy
import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradsurgery import GradientSurgery, PCGrad
from gradsurgery.methods import random_order
from tests.gradsurgery.reference import QUARTER, algorithm1, losses_with, matrices, operate, parameters_like


class Model(nn.Module):
    """A trunk under three heads."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 3)
        self.heads = nn.ModuleList(nn.Linear(3, 1) for _ in range(3))

    def loss(self, k, x, y):
        return nn.functional.mse_loss(self.heads[k](torch.tanh(self.trunk(x))), y)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().double()


def batches(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(count, 4, generator=generator).double(),
            4 * torch.randn(count, 1, generator=generator).double(),
        )
        for _ in range(3)
    ]


def tasks(model, data):
    return {f"task{k}": lambda k=k: model.loss(k, *data[k]) for k in range(3)}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def written_out(model, data, *, seed=67280421310721, scope="shared", share=1.0):
    """Returns the gradients that PCGrad must leave, by autograd.grad and Algorithm 1 on flat vectors."""
    parameters = list(model.parameters())
    rows = [
        torch.autograd.grad(model.loss(k, *data[k]), parameters, materialize_grads=True, allow_unused=True)
        for k in range(3)
    ]
    chosen = slice(0, 2) if scope == "shared" else slice(None)
    order = random_order(3, torch.Generator().manual_seed(seed)).tolist()
    flat = algorithm1([torch.cat([g.flatten() for g in row[chosen]]) for row in rows], order)
    total = [sum(column) for column in zip(*rows, strict=True)]
    operated = flat.split([p.numel() for p in parameters[chosen]])
    total[chosen] = [g.view_as(p) for g, p in zip(operated, parameters[chosen], strict=True)]
    return [g * share for g in total]


def same(a, b, **tolerances):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **tolerances)


@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scope_and_reduction_on_a_model_with_heads(model, scope, reduction):
    data = batches()
    optimizer = PCGrad(sgd(model), scope=scope, reduction=reduction)
    optimizer.backward(tasks(model, data))
    assert optimizer.conflicts.conflict_rate > 0
    same(gradients(model), written_out(model, data, scope=scope, share=1 / 3 if reduction == "mean" else 1.0))


def test_mappings_sequences_losses_and_callables_are_the_same(model):
    data = batches()
    expected = written_out(model, data)

    def own_backward(task):
        def back_propagate():
            task().backward()

        return back_propagate

    by_name = tasks(model, data)
    forms = [
        by_name,
        list(by_name.values()),
        {name: task() for name, task in by_name.items()},
        tuple(task() for task in by_name.values()),
        {name: own_backward(task) for name, task in by_name.items()},
        [by_name["task0"](), by_name["task1"], own_backward(by_name["task2"])],
    ]
    for form in forms:
        optimizer = PCGrad(sgd(model))
        optimizer.zero_grad()
        optimizer.backward(form)
        same(gradients(model), expected)


def test_losses_of_one_shared_forward(model):
    data = batches()
    x = data[0][0]
    data = [(x, y) for _, y in data]
    hidden = torch.tanh(model.trunk(x))
    losses = [nn.functional.mse_loss(head(hidden), y) for head, (_, y) in zip(model.heads, data, strict=True)]
    expected = written_out(model, data)
    PCGrad(sgd(model)).backward(losses)
    same(gradients(model), expected)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        losses[0].backward()


def test_backward_returns_the_losses_without_their_graphs(model):
    by_name = tasks(model, batches())
    expected = {name: task().item() for name, task in by_name.items()}
    by_name["task2"] = lambda: expected and model.trunk.weight.sum().backward()
    values = PCGrad(sgd(model)).backward(by_name)
    assert values.pop("task2") is None
    assert {name: value.item() for name, value in values.items()} == {
        k: expected[k] for k in ("task0", "task1")
    }
    assert not any(value.requires_grad for value in values.values())


def test_a_step_follows_the_gradient(model):
    data = batches()
    expected = [p - 0.1 * g for p, g in zip(model.parameters(), written_out(model, data), strict=True)]
    optimizer = PCGrad(sgd(model))
    optimizer.zero_grad()
    optimizer.backward(tasks(model, data))
    optimizer.step()
    same(model.parameters(), expected)


def test_a_gradient_from_before_is_added_to_in_its_own_memory(model):
    data = batches()
    expected = written_out(model, data)
    before = [torch.randn_like(p) for p in model.parameters()]
    for p, g in zip(model.parameters(), before, strict=True):
        p.grad = g.clone()
    addresses = [p.grad.data_ptr() for p in model.parameters()]
    PCGrad(sgd(model)).backward(tasks(model, data))
    same(gradients(model), [a + b for a, b in zip(before, expected, strict=True)])
    assert [p.grad.data_ptr() for p in model.parameters()] == addresses


@QUARTER
@given(parts=st.integers(1, 4), kind=st.sampled_from(["callables", "losses"]), mean=st.booleans())
def test_accumulated_micro_batches_equal_one_big_batch(parts, kind, mean):
    torch.manual_seed(0)
    model = Model().double()
    data = batches(12)
    expected = written_out(model, data, share=1 / 3 if mean else 1.0)
    before = torch.ones_like(model.trunk.weight)
    model.trunk.weight.grad = before.clone()
    optimizer = PCGrad(sgd(model), reduction="mean" if mean else "sum")
    for part in range(parts):
        micro = [(x.chunk(parts)[part], y.chunk(parts)[part]) for x, y in data]
        by_name = {name: lambda task=task: task() / parts for name, task in tasks(model, micro).items()}
        if kind == "losses":
            by_name = {name: task() for name, task in by_name.items()}
        optimizer.backward(by_name, accumulate=part < parts - 1)
        if part < parts - 1:
            assert torch.equal(model.trunk.weight.grad, before)
            assert model.heads[0].weight.grad is None
    expected[0] += before
    same(gradients(model), expected)


def test_tasks_may_come_in_different_micro_batches(model):
    data = batches()
    expected = written_out(model, data)
    optimizer = PCGrad(sgd(model))
    *first, last = tasks(model, data).items()
    for name, task in first:
        optimizer.backward({name: task}, accumulate=True)
    optimizer.backward(dict([last]))
    same(gradients(model), expected)


def test_zero_grad_drops_what_was_accumulated(model):
    data = batches()
    expected = written_out(model, data)
    optimizer = PCGrad(sgd(model))
    optimizer.backward(tasks(model, batches(seed=1)), accumulate=True)
    optimizer.zero_grad()
    optimizer.backward(tasks(model, data))
    same(gradients(model), expected)


def test_a_parameter_that_no_task_reaches_keeps_none(model):
    data = batches()
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
    inner = torch.optim.AdamW([*model.parameters(), unused, frozen], lr=0.1, weight_decay=0.5)
    for reduction in ("sum", "mean"):
        for scope in ("shared", "all"):
            optimizer = PCGrad(inner, reduction=reduction, scope=scope)
            optimizer.zero_grad()
            optimizer.backward(tasks(model, data))
            optimizer.step()
    assert unused.grad is None
    assert frozen.grad is None
    assert unused.tolist() == frozen.tolist() == [1, 1]  # weight decay has not moved them


def test_a_failing_task_leaves_nothing_behind(model):
    data = batches()
    expected = written_out(model, data)
    model.trunk.bias.grad = torch.ones(3, dtype=torch.float64)
    optimizer = PCGrad(sgd(model))
    with pytest.raises(ZeroDivisionError):
        optimizer.backward([tasks(model, data)["task1"], lambda: 1 / 0])
    assert [g is None for g in gradients(model)] == [i != 1 for i in range(8)]
    optimizer.backward(tasks(model, data))
    expected[1] += 1
    same(gradients(model), expected)


def test_a_task_that_fails_in_an_accumulation_can_be_dropped(model):
    data = batches()
    expected = written_out(model, data)
    optimizer = PCGrad(sgd(model))
    optimizer.backward(tasks(model, data), accumulate=True)
    with pytest.raises(ZeroDivisionError):
        optimizer.backward([lambda: 1 / 0], accumulate=True)
    assert all(g is None for g in gradients(model))
    optimizer.zero_grad()
    optimizer.backward(tasks(model, data))
    same(gradients(model), expected)


def test_an_accumulation_holds_one_gradient_a_task_and_the_one_at_hand():
    weight = nn.Parameter(torch.zeros(1000))
    held = set()

    def task():
        def back_propagate():
            weight.grad = torch.ones(1000)
            storage = weight.grad.untyped_storage()
            held.add(id(storage))
            weakref.finalize(storage, held.discard, id(storage))
            peaks.append(len(held))

        return back_propagate

    optimizer = PCGrad(torch.optim.SGD([weight], lr=1.0))
    peaks = []
    for last in (False, False, True):
        optimizer.backward([task(), task(), task()], accumulate=not last)
    assert max(peaks) == 4
    assert weight.grad.eq(9).all()


@pytest.mark.parametrize("granularity", ["group", "parameter"])
def test_one_surgery_for_each_group_or_parameter(granularity):
    sizes = [3, 2, 4]
    rows = torch.randn(3, sum(sizes), generator=torch.Generator().manual_seed(4)).double()
    parameters = parameters_like(rows[0], sizes)
    groups = [{"params": parameters[:1]}, {"params": parameters[1:]}]
    optimizer = PCGrad(torch.optim.SGD(groups, lr=1.0), granularity=granularity)
    optimizer.backward(losses_with(rows, parameters))
    generator = torch.Generator()
    parts = rows.split([3, 6] if granularity == "group" else sizes, dim=1)
    expected = torch.cat([algorithm1(part, random_order(3, generator).tolist()) for part in parts])
    torch.testing.assert_close(torch.cat([p.grad for p in parameters]), expected)
    whole, _ = operate(PCGrad, rows)
    assert not torch.allclose(whole, expected)
    assert optimizer.conflicts.weights.shape == (len(parts), 3)
    torch.testing.assert_close(optimizer.conflicts.gramian, rows @ rows.T)


def test_no_shared_parameter_is_no_obstacle(model):
    for granularity in ("global", "group", "parameter"):
        optimizer = PCGrad(torch.optim.SGD(model.heads.parameters(), lr=0.1), granularity=granularity)
        optimizer.zero_grad()
        optimizer.backward([head.weight.sum() for head in model.heads])
        assert all(head.weight.grad.eq(1).all() for head in model.heads)


@QUARTER
@given(rows=matrices(tasks=(2, 4), width=(4, 8)), seed=st.integers(0, 9))
def test_parameters_of_mixed_dtypes(rows, seed):
    rows = rows.bfloat16()  # exact in the wider dtypes
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    sizes = [1, 1, 1, rows.shape[1] - 3]
    parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n, dtype in zip(sizes, dtypes, strict=True)]
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0), generator=torch.Generator().manual_seed(seed))
    optimizer.backward(
        [
            sum((p * g.to(p)).sum().double() for p, g in zip(parameters, row.split(sizes), strict=True))
            for row in rows
        ]
    )
    expected = algorithm1(rows, random_order(len(rows), torch.Generator().manual_seed(seed)).tolist())
    assert [p.grad.dtype for p in parameters] == dtypes
    for p, value in zip(parameters, expected.split(sizes), strict=True):
        torch.testing.assert_close(p.grad.double(), value, rtol=2 * torch.finfo(p.dtype).eps, atol=1e-6)


def test_memory_of_one_task_at_a_time():
    """Counts the tensors that autograd saves: with callables, never more than one forward's."""
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)])
    alive, peaks = set(), []

    class Saved:
        """Holds a saved tensor; it lives as long as the graph does."""

        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(id(self))
            peaks.append(len(alive))
            weakref.finalize(self, alive.discard, id(self))

    def peak(run):
        gc.collect()
        peaks.clear()
        assert not alive
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            run()
        return max(peaks)

    def task():
        return layers(torch.randn(5, 8)).pow(2).mean()

    optimizer = PCGrad(torch.optim.SGD(layers.parameters(), lr=0.1))
    one = peak(lambda: task().backward())
    assert peak(lambda: optimizer.backward([task] * 4)) == one
    assert peak(lambda: optimizer.backward([task() for _ in range(4)])) == 4 * one


def test_the_result_lies_in_the_first_tasks_gradient_and_the_others_are_freed(model):
    data = batches()
    seen = []
    model.trunk.weight.register_post_accumulate_grad_hook(
        lambda p: seen.append((p.grad.data_ptr(), weakref.ref(p.grad.untyped_storage())))
    )
    PCGrad(sgd(model)).backward(tasks(model, data))
    assert model.trunk.weight.grad.data_ptr() == seen[0][0]


def test_a_grad_scaler_skips_a_step_that_is_not_finite(model):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    optimizer = PCGrad(sgd(model))
    before = [p.detach().clone() for p in model.parameters()]
    by_name = tasks(model, batches())
    by_name["task1"] = lambda: model.trunk.weight.sum() * float("inf")
    optimizer.backward({name: lambda task=task: scaler.scale(task()) for name, task in by_name.items()})
    scaler.step(optimizer)
    scaler.update()
    same(model.parameters(), before)
    assert scaler.get_scale() == 8.0


def test_a_grad_scaler_unscales_the_combined_gradient(model):
    data = batches()
    expected = [p - 0.1 * g for p, g in zip(model.parameters(), written_out(model, data), strict=True)]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    optimizer = PCGrad(sgd(model))
    optimizer.backward(
        {name: lambda task=task: scaler.scale(task()) for name, task in tasks(model, data).items()}
    )
    scaler.step(optimizer)
    same(model.parameters(), expected)


def test_autocast_around_backward_does_not_reach_the_surgery(model):
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain, _ = operate(PCGrad, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, optimizer = operate(PCGrad, rows)
    torch.testing.assert_close(optimizer.conflicts.gramian, rows.double() @ rows.double().T)
    assert plain.isfinite().all()


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (
            torch.tensor(1.0),
            TypeError,
            "losses must be a mapping or a sequence .* got Tensor: pass the losses unsummed",
        ),
        (3.0, TypeError, "losses must be a mapping or a sequence .* got float"),
        ({}, ValueError, r"losses must hold at least one task, got \{\}"),
        ([], ValueError, r"losses must hold at least one task, got \[\]"),
        ({1: lambda: 2.0}, TypeError, "losses must be named by strings, got 1: name each task"),
        ({"a": 2.0}, TypeError, "the loss of task 'a' must be a tensor or a callable, got float"),
        ({"a": lambda: 2.0}, ValueError, "the loss of task 'a' must be one number, got float"),
        (
            [torch.ones(2, requires_grad=True)],
            ValueError,
            r"the loss of task '0' must be one number, got shape \(2,\)",
        ),
        ([torch.tensor(1.5)], ValueError, r"the loss of task '0' must have a graph, got tensor\(1.5000\)"),
        ({"a": lambda: torch.tensor(1.5)}, ValueError, "the loss of task 'a' must have a graph"),
    ],
)
def test_bad_losses_are_refused_in_one_sentence(model, losses, error, message):
    with pytest.raises(error, match=message) as info:
        PCGrad(sgd(model)).backward(losses)
    assert "\n" not in str(info.value)
    assert all(g is None for g in gradients(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "reduction must be one of 'sum', 'mean', got 'max'"),
        ({"scope": "trunk"}, "scope must be one of 'shared', 'all', got 'trunk'"),
        ({"granularity": "row"}, "granularity must be one of 'global', 'group', 'parameter', got 'row'"),
    ],
)
def test_bad_options_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        PCGrad(sgd(model), **options)


def test_a_generator_on_another_device_is_refused(model):
    class Elsewhere(torch.Generator):
        device = torch.device("cuda", 0)

    with pytest.raises(ValueError, match="generator must be on the CPU, got one on cuda:0"):
        PCGrad(sgd(model), generator=Elsewhere())


def test_what_is_no_optimizer_is_refused(model):
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, got generator"):
        PCGrad(model.parameters())


def test_the_base_class_is_not_a_method(model):
    with pytest.raises(NotImplementedError, match="GradientSurgery has no weights"):
        GradientSurgery(sgd(model)).backward(tasks(model, batches()))


def test_a_method_is_one_function_of_the_gramian(model):
    class First(GradientSurgery):
        def weights(self, gramian):
            return torch.eye(len(gramian), dtype=gramian.dtype)[0]

    data = batches()
    expected = torch.autograd.grad(model.loss(0, *data[0]), model.trunk.weight)[0]
    First(sgd(model)).backward(tasks(model, data))
    torch.testing.assert_close(model.trunk.weight.grad, expected)


def test_copies_train_alike_and_apart(model):
    optimizer = PCGrad(torch.optim.Adam(model.parameters()), generator=torch.Generator().manual_seed(3))
    both = copy.deepcopy((model, optimizer))
    for module, surgery in ((model, optimizer), both):
        for step in range(4):
            surgery.zero_grad()
            surgery.backward(tasks(module, batches(seed=step)))
            surgery.step()
    assert all(
        a is not b and torch.equal(a, b)
        for a, b in zip(model.parameters(), both[0].parameters(), strict=True)
    )
