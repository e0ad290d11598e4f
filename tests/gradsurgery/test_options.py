"""Scope, granularity and task weights: which parameters are operated on, and with what."""

import copy
import pickle

import pytest
import torch
from torch import nn

from gradsurgery import GSE, GradientSurgery, PCGrad
from tests.gradsurgery.reference import batches, gradients, same, sgd, tasks, written_out


class Seen(GradientSurgery):
    """Sums the gradients, and keeps what each surgery was told."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []

    def weights(self, gramian):
        self.seen.append((self.part, self.tasks, gramian.diagonal().sqrt().tolist()))
        return torch.ones(len(gramian))


def two_groups():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    return parameters, torch.optim.SGD(groups, lr=1.0)


@pytest.mark.parametrize(
    ("granularity", "seen"),
    [
        ("global", [(0, ("a", "b"), [5.0, 5.0])]),
        ("group", [(0, ("a", "b"), [3.0, 3.0]), (1, ("a", "b"), [4.0, 4.0])]),
        ("parameter", [(1, ("a", "b"), [3.0, 3.0]), (3, ("a", "b"), [4.0, 4.0])]),
    ],
)
def test_a_surgery_knows_its_tasks_and_its_part_by_names_and_indices_that_stay(granularity, seen):
    (first, second, third, fourth), inner = two_groups()
    optimizer = Seen(inner, granularity=granularity)
    loss = 3 * second.sum() + 4 * fourth.sum()
    optimizer.backward({"a": loss + first.sum(), "b": loss + third.sum()})
    assert optimizer.seen == seen


def test_a_part_keeps_its_index_where_another_has_no_gradient():
    for granularity, index in (("group", 1), ("parameter", 3)):
        (*_, last), inner = two_groups()
        optimizer = Seen(inner, granularity=granularity)
        optimizer.backward({"b": 2 * last.sum(), "a": last.sum()})
        assert optimizer.seen == [(index, ("b", "a"), [2.0, 1.0])]


SCOPES = {
    "list": lambda module: list(module.parameters()),
    "iterator": lambda module: module.parameters(),
    "set": lambda module: set(module.parameters()),
    "callable": lambda module: module.parameters,
}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("form", SCOPES)
def test_a_scope_may_be_parameters_or_return_them(model, form, reduction):
    data = batches()
    expected = written_out(model, data, share=1 / 3 if reduction == "mean" else 1.0)
    optimizer = PCGrad(sgd(model), scope=SCOPES[form](model.trunk), reduction=reduction)
    for _ in range(2):  # an iterator is used up by the first reading
        optimizer.zero_grad()
        optimizer.generator.manual_seed(torch.Generator().initial_seed())
        optimizer.backward(tasks(model, data))
        same(gradients(model), expected)


def test_parameters_outside_of_the_scope_get_the_plain_sum(model):
    data = batches()
    expected = written_out(model, data)
    plain = sum(torch.autograd.grad(model.loss(k, *data[k]), model.trunk.bias)[0] for k in range(3))
    PCGrad(sgd(model), scope=[model.trunk.weight, model.heads[0].bias]).backward(tasks(model, data))
    torch.testing.assert_close(model.trunk.bias.grad, plain)
    assert not torch.allclose(plain, expected[1])
    same([head.weight.grad for head in model.heads], expected[2::2])


def test_a_callable_scope_is_asked_at_each_backward(model):
    members = [model.trunk.weight]
    optimizer = Seen(sgd(model), scope=lambda: members, granularity="parameter")
    for expected in ([0], [0, 1]):
        optimizer.seen.clear()
        optimizer.backward(tasks(model, batches()))
        assert [part for part, *_ in optimizer.seen] == expected
        members.append(model.trunk.bias)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("form", ["list", "callable"])
def test_a_copy_has_the_scope_of_its_own_model(model, form, duplicate):
    data = batches()
    expected = written_out(model, data)
    twin, optimizer = duplicate((model, PCGrad(sgd(model), scope=SCOPES[form](model.trunk))))
    optimizer.backward(tasks(twin, data))
    same(gradients(twin), expected)


def test_a_copy_whose_scope_stayed_with_the_original_is_refused(model):
    def scope():
        return model.trunk.parameters()

    twin, optimizer = copy.deepcopy((model, PCGrad(sgd(model), scope=scope)))
    with pytest.raises(ValueError, match="scope must have some of the optimizer's parameters, got 2 others"):
        optimizer.backward(tasks(twin, batches()))
    assert all(g is None for g in gradients(twin))


@pytest.mark.parametrize(
    ("scope", "error", "message"),
    [
        ("trunk", ValueError, "scope must be one of 'shared', 'all', got 'trunk'"),
        (3, TypeError, "scope must be 'shared', 'all', parameters or a callable that returns them, got 3"),
        (None, TypeError, "scope must be 'shared', 'all', parameters or a callable .* got None"),
        (lambda m: m.trunk, TypeError, "scope must be parameters .* got Linear: pass module.parameters"),
        (lambda m: m.heads, TypeError, "scope must be parameters .* got ModuleList: pass module.parameters"),
        (lambda m: m.trunk.weight, TypeError, "got Parameter: pass a list of parameters"),
        (lambda m: m.named_parameters(), TypeError, "scope must hold parameters, got tuple"),
        (lambda m: [m.trunk], TypeError, "scope must hold parameters, got Linear: pass"),
    ],
)
def test_a_scope_of_other_things_is_refused_at_once(model, scope, error, message):
    with pytest.raises(error, match=message) as info:
        PCGrad(sgd(model), scope=scope(model) if callable(scope) else scope)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("scope", "error", "message"),
    [
        (list, ValueError, "scope must have some of the optimizer's parameters, got 0 others"),
        (lambda: [nn.Parameter(torch.ones(1))], ValueError, "got 1 others: take them from the model"),
        (lambda: None, TypeError, "scope must be 'shared', 'all', parameters .* got None"),
        (lambda: ["trunk"], TypeError, "scope must hold parameters, got str"),
    ],
)
def test_a_scope_that_returns_other_things_is_refused_before_grad_changes(model, scope, error, message):
    optimizer = PCGrad(sgd(model), scope=scope)
    with pytest.raises(error, match=message):
        optimizer.backward(tasks(model, batches()))
    assert all(g is None for g in gradients(model))


WEIGHTS = {"task0": 2.0, "task1": 0.5, "task2": 4.0}  # exact, so that nothing is rounded in another place


def weighted(by_name):
    return {k: lambda weight=WEIGHTS[k], task=task: weight * task() for k, task in by_name.items()}


@pytest.mark.parametrize("scope", ["shared", "all", "list"])
@pytest.mark.parametrize("granularity", ["global", "parameter"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_task_weights_are_scaled_losses(model, scope, granularity, reduction):
    by_name, results = tasks(model, batches()), []
    options = {"reduction": reduction, "granularity": granularity}
    options["scope"] = [model.trunk.weight] if scope == "list" else scope
    for weights, losses in ((WEIGHTS, by_name), (None, weighted(by_name))):
        optimizer = PCGrad(sgd(model), task_weights=weights, **options)
        optimizer.zero_grad()
        values = optimizer.backward(losses)
        results.append((gradients(model), optimizer.conflicts, values))
    (found, report, values), (expected, expected_report, _) = results
    assert all(map(torch.equal, found, expected))
    assert torch.equal(report.gramian, expected_report.gramian)
    assert torch.equal(report.weights, expected_report.weights)
    assert {name: value.item() for name, value in values.items()} == {
        k: t().item() for k, t in by_name.items()
    }


@pytest.mark.parametrize("second_update", ["recompute", "reuse"])
def test_task_weights_are_in_both_updates_of_gse(second_update):
    results = []
    for weights in (WEIGHTS, None):
        weight = nn.Parameter(torch.zeros(2))
        rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, 0.25]])

        def task(row, weight=weight):
            return lambda: (weight * row).sum() + (weight * weight).sum()

        by_name = {name: task(row) for name, row in zip(WEIGHTS, rows, strict=True)}
        optimizer = GSE(
            PCGrad(torch.optim.SGD([weight], lr=0.5), task_weights=weights), second_update=second_update
        )
        optimizer.backward(by_name if weights else weighted(by_name))
        optimizer.step()
        results.append((weight.detach(), weight.grad))
    assert all(map(torch.equal, *results))


def test_a_callable_that_back_propagates_by_itself_is_weighted_too(model):
    data = batches()
    results = []
    for own in (True, False):
        by_name = tasks(model, data)
        if own:
            by_name["task1"] = lambda task=by_name["task1"]: task().backward()
        optimizer = PCGrad(sgd(model), task_weights=WEIGHTS)
        optimizer.zero_grad()
        optimizer.backward(by_name)
        results.append(gradients(model))
    assert all(map(torch.equal, *results))


def test_a_weight_of_an_absent_task_is_no_obstacle_and_a_task_without_one_is_refused(model):
    by_name = tasks(model, batches())
    PCGrad(sgd(model), task_weights={**WEIGHTS, "other": 3.0}).backward(by_name)
    called = []
    by_name["task0"] = lambda: called.append(1)
    model.zero_grad()
    with pytest.raises(ValueError, match="task_weights must have a weight for task 'task2', got") as info:
        PCGrad(sgd(model), task_weights={"task0": 2.0, "task1": 0.5, "tsk2": 4.0}).backward(by_name)
    assert "\n" not in str(info.value)
    assert not called
    assert all(g is None for g in gradients(model))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_weights_that_are_not_positive_and_finite_are_refused(model, weight):
    with pytest.raises(
        ValueError, match=f"task_weights must be positive and finite, got {weight} for task 'b'"
    ):
        PCGrad(sgd(model), task_weights={"a": 1.0, "b": weight})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "reduction must be one of 'sum', 'mean', got 'max'"),
        ({"granularity": "row"}, "granularity must be one of 'global', 'group', 'parameter', got 'row'"),
        ({"nonfinite": "skip"}, "nonfinite must be one of 'pass', 'raise', got 'skip'"),
    ],
)
def test_bad_options_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        PCGrad(sgd(model), **options)
