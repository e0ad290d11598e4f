"""Reports by part: each is of its parameters alone, all add up, and no gradient is read again for them."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradsurgery import PCGrad, vectors
from tests.gradsurgery.reference import (
    QUARTER,
    Model,
    batches,
    losses_with,
    matrices,
    parameters_like,
    sgd,
    tasks,
)


@QUARTER
@given(
    rows=matrices(tasks=(2, 4), width=(5, 12)),
    labels=st.lists(st.sampled_from("xyz"), min_size=4, max_size=4),
    granularity=st.sampled_from(["global", "group", "parameter"]),
    weighted=st.booleans(),
)
def test_each_part_is_of_its_parameters_and_all_add_up(rows, labels, granularity, weighted):
    parameters = parameters_like(rows[0], sizes := [1, 1, 1, len(rows[0]) - 3])
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    breakdown = {x: [p for p, label in zip(parameters, labels, strict=True) if label == x] for x in "xy"}
    factors = [1.0 + k * weighted for k in range(len(rows))]
    optimizer = PCGrad(
        torch.optim.SGD(groups, lr=1.0),
        scope="all",
        granularity=granularity,
        breakdown=breakdown,
        task_weights={str(k): factor for k, factor in enumerate(factors)},
    )
    optimizer.backward(losses_with(rows, parameters))
    report = optimizer.conflicts
    rows = rows * torch.tensor(factors).unsqueeze(1)
    columns = dict(zip(parameters, rows.split(sizes, dim=1), strict=True))
    labelled = dict(zip(parameters, ("other" if label == "z" else label for label in labels), strict=True))
    assert set(report.parts) == set(labelled.values())
    for name, part in report.parts.items():
        own = torch.cat([columns[p] for p in parameters if labelled[p] == name], dim=1)
        torch.testing.assert_close(part.gramian, own @ own.T)
        assert part.tasks == report.tasks
    torch.testing.assert_close(sum(part.gramian for part in report.parts.values()), report.gramian)
    torch.testing.assert_close(report.gramian, rows @ rows.T)
    # The weights of a part are those that its own columns were multiplied by.
    surgeries = {"global": [0, 0, 0, 0], "group": [0, 0, 1, 1], "parameter": [0, 1, 2, 3]}[granularity]
    for name, part in report.parts.items():
        members = [k for k, p in enumerate(parameters) if labelled[p] == name]
        used = dict(
            zip(dict.fromkeys(surgeries[k] for k in members), part.weights.view(-1, len(rows)), strict=True)
        )
        for k in members:
            torch.testing.assert_close(used[surgeries[k]] @ columns[parameters[k]], parameters[k].grad)


@pytest.mark.parametrize("breakdown", ["group", "module"])
def test_the_update_is_what_it_is_without(model, breakdown):
    found = []
    for choice in (None, model if breakdown == "module" else breakdown):
        model.zero_grad()
        PCGrad(sgd(model), breakdown=choice).backward(tasks(model, batches()))
        found.append([p.grad.clone() for p in model.parameters()])
    for plain, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, plain, rtol=1e-12, atol=0)


class Products(TorchDispatchMode):
    """Counts the products of vectors, and the elements that are multiplied or gathered for it."""

    def __init__(self):
        super().__init__()
        self.products = self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.name() == "aten::dot":
            self.products += 1
            self.elements += args[0].numel()
        if function.name() in ("aten::cat", "aten::cat.out"):
            self.elements += sum(t.numel() for t in args[0] if t.stride() != (0,))
        return result


@pytest.mark.parametrize(
    ("dtype", "smallest"), [(torch.float32, 1), (torch.float32, vectors.SMALL), (torch.bfloat16, 1)]
)
def test_no_gradient_is_read_a_second_time(dtype, smallest, monkeypatch):
    monkeypatch.setattr(vectors, "SMALL", smallest)
    network = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4))).to(dtype)
    data = torch.randn(3, 2, 5, dtype=dtype)
    counts = {}
    for name, breakdown in {"none": None, "modules": network, "group": "group"}.items():
        optimizer = PCGrad(sgd(network), breakdown=breakdown)
        with Products() as products:
            optimizer.backward([lambda k=k: network(data[k]).square().sum() for k in range(3)])
        optimizer.zero_grad()
        assert len(optimizer.conflicts.parts) == {"none": 0, "modules": 4, "group": 1}[name]
        counts[name] = (products.products, products.elements)
    if dtype == torch.float32 and smallest == 1:
        assert counts["none"] == (8 * 6, 6 * sum(p.numel() for p in network.parameters()))
        assert counts["modules"] == counts["group"] == counts["none"]
    else:  # gathered by slabs: beside the rows, one zero a row and slab
        rows = 3 * sum(p.numel() for p in network.parameters())
        assert rows <= min(c for _, c in counts.values())
        assert max(c for _, c in counts.values()) < 3 * rows
    assert vectors.CHUNK > 25  # else there were more products


def test_a_module_is_divided_by_its_children_and_what_they_share_is_the_firsts():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.embed, self.trunk, self.back = (nn.Linear(3, 3) for _ in range(3))
            self.back.weight = self.embed.weight

        def forward(self, x):
            return self.scale * self.back(self.trunk(self.embed(x)))

    model = Tied()
    optimizer = PCGrad(sgd(model), breakdown=model)
    x = torch.randn(2, 3)
    optimizer.backward([model(x).square().sum(), model(x).sum()])
    assert list(optimizer.conflicts.parts) == ["embed", "trunk", "back", "other"]
    assert optimizer.conflicts.parts["other"].norms[0] == pytest.approx(
        torch.autograd.grad(model(x).square().sum(), model.scale)[0].abs().item()
    )
    bias = torch.autograd.grad(model(x).square().sum(), model.back.bias)[0]
    assert optimizer.conflicts.parts["back"].norms[0] == pytest.approx(bias.norm().item(), rel=1e-6)


def test_parts_without_an_operated_parameter_are_left_out(model):
    optimizer = PCGrad(sgd(model), breakdown=model)
    optimizer.backward(tasks(model, batches()))
    assert list(optimizer.conflicts.parts) == ["trunk"]


def test_nothing_operated_on_is_one_empty_part(model):
    optimizer = PCGrad(sgd(model), breakdown=model)
    optimizer.backward({"a": lambda: model.loss(0, *batches()[0])})
    assert list(optimizer.conflicts.parts) == ["other"]
    assert optimizer.conflicts.gramian.tolist() == [[0.0]]


def test_a_group_that_is_added_later_is_a_part_from_then_on():
    first, second = parameters_like(torch.zeros(2, dtype=torch.float64), [1, 1])
    optimizer = PCGrad(torch.optim.SGD([first], lr=1.0), breakdown="group")
    optimizer.add_param_group({"params": [second]})
    optimizer.backward([(first + 2 * second).sum(), (second - first).sum()])
    parts = optimizer.conflicts.parts
    assert {name: part.conflict_rate for name, part in parts.items()} == {"group 0": 1.0, "group 1": 0.0}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_divides_by_the_copied_parameters(model, duplicate):
    optimizer = PCGrad(sgd(model), scope="all", breakdown=model)
    model, optimizer = duplicate((model, optimizer))
    optimizer.backward(tasks(model, batches()))
    assert list(optimizer.conflicts.parts) == ["trunk", "heads"]


def test_what_is_no_breakdown_is_refused():
    model = Model()
    weight = model.trunk.weight
    for breakdown, error, match in [
        ("layer", TypeError, "breakdown must be 'group', a module or a mapping from names .* got 'layer'"),
        (list(model.parameters()), TypeError, r"breakdown must be 'group', a module or a mapping .* got \["),
        (
            {"trunk": model.trunk.named_parameters()},
            TypeError,
            "must map to parameters, got tuple in part 'trunk'",
        ),
        ({"trunk": model.children()}, TypeError, "must map to parameters, got Linear in part 'trunk'"),
        ({}, ValueError, "must have at least one part, got dict without any"),
        (nn.Linear(1, 1), ValueError, "must have at least one part, got Linear without any"),
        (
            {"a": [weight], "b": [weight]},
            ValueError,
            r"in one part, got one of shape \(3, 4\) in 'a' and 'b'",
        ),
    ]:
        with pytest.raises(error, match=match):
            PCGrad(sgd(model), breakdown=breakdown)
