"""Faults seen in other implementations, each in its smallest form."""

import warnings

import pytest
import torch
from torch import nn

from gradsurgery import PCGrad
from tests.gradsurgery.reference import losses_with, operate, parameters_like

CONFLICT = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
SUM = torch.tensor([0.5, 1.5])


def test_1_sum_is_the_sum_and_mean_the_mean():
    assert torch.equal(operate(PCGrad, CONFLICT, reduction="sum")[0], SUM)
    assert torch.equal(operate(PCGrad, CONFLICT, reduction="mean")[0], SUM / 2)


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e-20, 1e-8, 1e-5, 1.0, 1e5, 1e15, 1e20, 1e37])
def test_2_the_scale_does_not_matter_in_float32(scale):
    result, _ = operate(PCGrad, CONFLICT * scale)
    torch.testing.assert_close(result / scale, SUM, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [2.0**-14, 1e-4, 1.0, 300.0, 2.0**14])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_2_the_scale_does_not_matter_in_half_precision(dtype, scale):
    rows = (CONFLICT * scale).to(dtype)
    result, _ = operate(PCGrad, rows)
    torch.testing.assert_close(result.float() / rows[0, 0].float(), SUM, rtol=torch.finfo(dtype).eps, atol=0)


def test_3_the_mean_divides_by_the_number_of_tasks_whoever_reaches_a_parameter():
    by_all, by_two, by_one = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizer = PCGrad(torch.optim.SGD([by_all, by_two, by_one], lr=1.0), reduction="mean")
    optimizer.backward(
        [by_all.sum() + by_two.sum(), by_all.sum() + by_two.sum(), by_all.sum() + by_one.sum()]
    )
    assert [p.grad.item() for p in (by_all, by_two, by_one)] == pytest.approx([1.0, 2 / 3, 1 / 3])


def test_4_heads_do_not_enter_the_inner_products():
    trunk, head = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    optimizer = PCGrad(torch.optim.SGD([trunk, head], lr=1.0))
    losses = losses_with(CONFLICT, [trunk])
    losses[1] = losses[1] + 3 * head.sum()
    optimizer.backward(losses)
    assert torch.equal(trunk.grad, SUM)
    assert head.grad.item() == 3


def test_5_a_zero_gradient_is_still_one_of_a_shared_parameter():
    weight, dead = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.tensor([-1.0]))
    losses = [weight.sum() + torch.relu(dead).sum(), -weight.sum() + dead.sum()]
    optimizer = PCGrad(torch.optim.SGD([weight, dead], lr=1.0))
    optimizer.backward(losses)
    # Shared are both: rows (1, 0) and (-1, 1). Were `dead` taken for the second task's own, it would keep 1.
    assert [weight.grad.item(), dead.grad.item()] == [0.5, 1.5]


def test_6_a_zero_gradient_is_not_divided_by():
    for rows in ([[0.0, 0.0], [1.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]]):
        result, optimizer = operate(PCGrad, torch.tensor(rows))
        assert result.tolist() == rows[1]
        assert optimizer.conflicts.cosines[0].tolist() == [0.0, 0.0]


def test_6_missing_gradients_do_not_shift_the_others():
    a, b, c = (nn.Parameter(torch.zeros(n)) for n in (2, 3, 1))
    optimizer = PCGrad(torch.optim.SGD([a, b, c], lr=1.0))
    first, second = a.sum() - 2 * c.sum(), b.sum() + c.sum()  # only c is shared, and in conflict
    optimizer.backward([first, second])
    assert [a.grad.tolist(), b.grad.tolist(), c.grad.tolist()] == [[1, 1], [1, 1, 1], [0]]


def test_7_one_summed_backward_is_no_surgery_and_says_so():
    parameters = parameters_like(CONFLICT[0])
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0))
    losses = losses_with(CONFLICT, parameters)
    with pytest.raises(TypeError, match="got Tensor: pass the losses unsummed"):
        optimizer.backward(sum(losses))
    sum(losses).backward()
    with pytest.warns(UserWarning, match=r"with no surgery.*call optimizer.backward\(losses\)") as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.zero_grad()
        optimizer.backward(losses_with(CONFLICT, parameters))
        optimizer.step()
    with pytest.warns(UserWarning, match="with no surgery"):
        optimizer.step()
