"""backward() and step(): what lands in .grad, for every scope, reduction, granularity and dtype."""

import copy
import re
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradsurgery import GradientSurgery, PCGrad
from gradsurgery.projection import random_order
from tests.gradsurgery.reference import (
    QUARTER,
    algorithm1,
    batches,
    gradients,
    losses_with,
    matrices,
    operate,
    parameters_like,
    same,
    sgd,
    tasks,
    written_out,
)


@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scope_and_reduction_on_a_model_with_heads(model, scope, reduction):
    data = batches()
    optimizer = PCGrad(sgd(model), scope=scope, reduction=reduction)
    optimizer.backward(tasks(model, data))
    assert optimizer.conflicts.conflict_rate > 0
    same(gradients(model), written_out(model, data, scope=scope, share=1 / 3 if reduction == "mean" else 1.0))


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


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
@pytest.mark.parametrize("granularity", ["global", "group", "parameter"])
def test_a_parameter_that_a_group_lists_twice_is_operated_on_once(granularity):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = PCGrad(torch.optim.SGD([weight, weight], lr=1.0), granularity=granularity)
    optimizer.backward([weight[0], weight[1] - weight[0]])
    assert weight.grad.tolist() == [0.5, 1.5]


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


@pytest.mark.parametrize("weights", [torch.ones(()), torch.ones(1), torch.ones(3, 1), torch.ones(2)])
def test_weights_of_another_shape_are_refused_and_not_broadcast(model, weights):
    class Wrong(GradientSurgery):
        def weights(self, gramian):
            return weights

    shape = re.escape(str(tuple(weights.shape)))
    with pytest.raises(ValueError, match=rf"Wrong.weights must return shape \(3,\), got {shape}: return one"):
        Wrong(sgd(model)).backward(tasks(model, batches()))
    assert all(g is None for g in gradients(model))


def test_weights_may_be_of_another_dtype(model):
    class Sum(GradientSurgery):
        def weights(self, gramian):
            return torch.ones(len(gramian), dtype=torch.int32)

    optimizer = Sum(sgd(model))
    optimizer.backward(tasks(model, batches()))
    assert optimizer.conflicts.weights.dtype == torch.float64


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
