"""Gradients taken over from autograd: no copy where none is needed, one where memory is shared."""

import pytest
import torch
from torch import nn

from gradsurgery import PCGrad
from gradsurgery.gradients import TaskGradients, flat
from tests.gradsurgery.reference import algorithm1


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape))


def test_gradients_are_autograds_own_tensors():
    layer, gradients = nn.Linear(4, 3), TaskGradients()
    layer(torch.randn(2, 4)).pow(2).sum().backward()
    addresses = {p: p.grad.data_ptr() for p in layer.parameters()}
    gradients.take("x", layer.parameters())
    assert {p: g.data_ptr() for p, g in gradients.rows["x"].items()} == addresses
    assert all(p.grad is None for p in layer.parameters())


def test_disjoint_parts_of_one_memory_are_not_copied():
    a, b, whole, gradients = parameter(3), parameter(2), torch.randn(5), TaskGradients()
    a.grad, b.grad = whole[:3], whole[3:]
    gradients.take("x", [a, b])
    row = gradients.rows["x"]
    assert [row[a].data_ptr(), row[b].data_ptr()] == [whole.data_ptr(), whole[3:].data_ptr()]


def test_overlapping_memory_is_copied_within_a_row_and_between_rows():
    a, b, c, whole, gradients = parameter(3), parameter(3), parameter(3), torch.arange(5.0), TaskGradients()
    a.grad, b.grad = whole[:3], whole[2:]
    gradients.take("x", [a, b])
    a.grad = whole[:3]
    gradients.take("y", [a])
    c.grad = whole[:3]
    gradients.take("x", [c])  # to a row that is there
    first, second = gradients.rows["x"], gradients.rows["y"]
    for t in (first[a], first[b], first[c], second[a]):
        t.mul_(2)
    assert second[a].tolist() == first[c].tolist() == [0, 2, 4]
    assert first[a].tolist() == [0, 2, 4]
    assert first[b].tolist() == [4, 6, 8]


def test_memory_that_only_a_row_from_before_has_is_told_from_its_own():
    """Both of a call that began the row and of one that added to it."""
    a, b, gradients = parameter(3), parameter(3), TaskGradients()
    for name, new in {"y": a, "z": b}.items():
        new.grad = torch.ones(3)
        gradients.take("x", [a, b])
        a.grad = gradients.rows["x"][new]
        gradients.take(name, [a])
    addresses = [g.data_ptr() for row in gradients.rows.values() for g in row.values()]
    assert len(set(addresses)) == len(addresses) == 4


def test_memory_of_gradients_that_were_added_is_let_go():
    a, gradients = parameter(1000), TaskGradients()
    for _ in range(3):
        a.grad = torch.ones(1000)
        gradients.take("x", [a])
    assert gradients.rows["x"][a][0] == 3
    held = [t for tensors in gradients._memory.values() for t in tensors]
    assert len(held) == 1


def test_one_gradient_tensor_in_two_tasks_and_parameters_is_operated_on_once():
    shared = torch.tensor([1.0, -2.0])
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    other = torch.tensor([-1.0, 1.0])

    def with_one_tensor():
        a.grad = b.grad = shared

    def plain():
        a.grad, b.grad = other.clone(), other.clone()

    optimizer = PCGrad(torch.optim.SGD([a, b], lr=1.0))
    optimizer.backward([with_one_tensor, plain])
    expected = algorithm1(
        [torch.tensor([1.0, -2.0, 1.0, -2.0]), torch.tensor([-1.0, 1.0, -1.0, 1.0])], [[1], [0]]
    )
    torch.testing.assert_close(torch.cat([a.grad, b.grad]).double(), expected)


def test_one_gradient_tensor_in_all_tasks_is_not_written_before_it_is_read():
    shared, weight = torch.tensor([1.0, -2.0]), nn.Parameter(torch.zeros(2))

    def with_one_tensor():
        weight.grad = shared

    for accumulate in (True, False):
        optimizer = PCGrad(torch.optim.SGD([weight], lr=1.0), reduction="mean")
        shared.copy_(torch.tensor([1.0, -2.0]))
        optimizer.zero_grad()
        if accumulate:
            optimizer.backward([with_one_tensor], accumulate=True)
            optimizer.backward({"1": with_one_tensor})
        else:
            optimizer.backward([with_one_tensor, with_one_tensor])
        assert weight.grad.tolist() == [1.0, -2.0]


LAYOUTS = {
    "contiguous": lambda g: g.contiguous(),
    "transposed": lambda g: g.t().contiguous().t(),
    "expanded": lambda g: g[:1, :1].expand(g.shape),
    "strided": lambda g: torch.stack([g, g], dim=-1)[..., 0],
}


@pytest.mark.parametrize("layouts", [(a, b) for a in LAYOUTS for b in LAYOUTS])
@pytest.mark.parametrize("parameter_layout", [*LAYOUTS])
def test_rows_in_different_memory_layouts(layouts, parameter_layout):
    weight = nn.Parameter(LAYOUTS[parameter_layout](torch.zeros(3, 4)))
    gradients = [LAYOUTS[layout](torch.randn(3, 4).double().float()) for layout in layouts]
    expected = algorithm1([g.flatten() for g in gradients], [[1], [0]])

    def task(g):
        def back_propagate():
            weight.grad = g

        return back_propagate

    optimizer = PCGrad(torch.optim.SGD([weight], lr=1.0))
    optimizer.backward([task(g) for g in gradients])
    torch.testing.assert_close(weight.grad.flatten().double(), expected, rtol=1e-5, atol=1e-6)


def test_complex_parameters_are_pairs_of_real_ones():
    rows = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    rows[1, :4] = -rows[0, :4]
    z = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    optimizer = PCGrad(torch.optim.SGD([z], lr=1.0))
    optimizer.backward([(torch.view_as_real(z).flatten() * row).sum() for row in rows])
    expected = algorithm1(rows, [[1], [0]])
    torch.testing.assert_close(torch.view_as_real(z.grad).flatten().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_autograd_leaves_conjugated_is_resolved():
    z, a, b = torch.randn(3, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    z = nn.Parameter(z)
    losses, rows = [(z.conj() * factor).real.sum() for factor in (a, b - a)], []
    for loss in losses:
        loss.backward(retain_graph=True)
        assert z.grad.is_conj()
        rows.append(torch.view_as_real(z.grad.resolve_conj()).flatten())
        z.grad = None
    assert rows[0] @ rows[1] < 0
    PCGrad(torch.optim.SGD([z], lr=1.0)).backward(losses)
    expected = algorithm1(rows, [[1], [0]])
    torch.testing.assert_close(torch.view_as_real(z.grad).flatten().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_sparse_gradient_is_refused_and_leaves_grad_alone():
    layer = nn.Embedding(5, 2, sparse=True)
    other = parameter(2)
    other.grad = torch.ones(2)
    optimizer = PCGrad(torch.optim.SGD([other, layer.weight], lr=1.0))
    message = r"the gradient of parameter 1, shape \(5, 2\), is torch.sparse_coo: .* sparse=False"
    with pytest.raises(ValueError, match=message):
        optimizer.backward([lambda: layer(torch.tensor([1])).sum(), other.sum])
    assert other.grad.tolist() == [1, 1]
    assert layer.weight.grad is None


def test_rows_of_several_calls_add_up_by_task_and_parameter():
    a, b = parameter(2), parameter(2)
    gradients = TaskGradients()
    for name, reached in [("x", [a]), ("x", [a, b]), ("y", [b])]:
        for p in reached:
            p.grad = torch.ones(2)
        gradients.take(name, [a, b])
    assert {name: {p: g.tolist() for p, g in row.items()} for name, row in gradients.rows.items()} == {
        "x": {a: [2, 2], b: [1, 1]},
        "y": {b: [1, 1]},
    }
    assert gradients.reached([a, b]) == {a: 1, b: 2}
    for copy in (True, False):
        total = gradients.sum([a, b], [0.5, 4.0], copy=copy)
        assert {p: g.tolist() for p, g in total.items()} == {a: [1, 1], b: [4.5, 4.5]}


def test_a_parameter_without_elements_is_no_obstacle():
    empty, full = parameter(0, 3), parameter(2)
    optimizer = PCGrad(torch.optim.SGD([empty, full], lr=1.0))
    optimizer.backward([empty.sum() + full.sum(), empty.sum() - full.sum()])
    assert empty.grad.shape == (0, 3)
    assert full.grad.tolist() == [0, 0]


def test_a_flat_view_is_the_memory_itself():
    for tensor in (
        torch.randn(3, 4),
        torch.randn(3, 4).t(),
        torch.randn(2, dtype=torch.complex64),
        torch.tensor(1.0),
    ):
        vector = flat(tensor)
        assert vector.dim() == 1
        assert not vector.is_complex()
        vector.zero_()
        assert not tensor.any()
