"""Each update against the same thing written out with torch alone."""

import copy
from itertools import permutations, product

import pytest
import torch
from minbert_multitask import updates
from minbert_multitask.experiments import TASKS
from torch import nn

import gradsurgery

METHODS = {
    "pcgrad": gradsurgery.PCGrad,
    "cagrad": gradsurgery.CAGrad,
    "upgrad": gradsurgery.UPGrad,
    "mgda": gradsurgery.MGDA,
    "nash-mtl": gradsurgery.NashMTL,
    "aligned-mtl": gradsurgery.AlignedMTL,
    "imtl-g": gradsurgery.IMTLG,
    "config": gradsurgery.ConFIG,
}
NAMES = ("separate", "sum", "gse", "gse-reuse", "uncertainty", *METHODS)


@pytest.fixture
def modules():
    """A trunk that all tasks share, a head a task, and a layer that none reaches."""
    torch.manual_seed(1)
    return nn.ModuleList([nn.Linear(4, 3), *(nn.Linear(3, 1) for _ in range(3)), nn.Linear(2, 2)]).double()


def losses(modules, tasks=3):
    """By task a callable; the tasks want opposite things of the trunk, so they conflict."""
    trunk, *heads, _ = modules
    torch.manual_seed(2)
    x = torch.randn(6, 4, dtype=torch.float64)

    def loss(index):
        y = torch.randn(6, 1, generator=torch.Generator().manual_seed(index), dtype=torch.float64) * 3
        return lambda: nn.functional.mse_loss(heads[index](torch.tanh(trunk(x))), y)

    return {TASKS[index]: loss(index) for index in range(tasks)}


def adamw(modules, weight_decay=0.0):
    return torch.optim.AdamW(modules.parameters(), lr=1e-2, eps=1e-6, weight_decay=weight_decay)


def values(modules):
    return [parameter.detach().clone() for parameter in modules.parameters()]


def same(a, b):
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))


# The updates written out


def gradients(modules, loss):
    return torch.autograd.grad(loss(), list(modules.parameters()), allow_unused=True)


def update(modules, optimizer, found):
    for parameter, gradient in zip(modules.parameters(), found, strict=True):
        parameter.grad = gradient
    optimizer.step()


def total(tensors):
    present = [tensor for tensor in tensors if tensor is not None]
    return sum(present[1:], present[0]) if present else None


def separate(modules, tasks, optimizer):
    for loss in tasks.values():
        update(modules, optimizer, gradients(modules, loss))


def summed(modules, tasks, optimizer):
    rows = [gradients(modules, loss) for loss in tasks.values()]
    update(modules, optimizer, [total(column) for column in zip(*rows, strict=True)])


def projected(modules, tasks, orders):
    """Algorithm 1 on the trunk, as a sum; each head keeps its own gradient."""
    rows = [gradients(modules, loss) for loss in tasks.values()]
    flat = [torch.cat([row[0].flatten(), row[1].flatten()]) for row in rows]
    conflicts = 0
    result = torch.zeros_like(flat[0])
    for i, order in enumerate(orders):
        g = flat[i].clone()
        for j in order:
            if g @ flat[j] < 0:
                conflicts += 1
                g = g - (g @ flat[j]) / (flat[j] @ flat[j]) * flat[j]
        result += g
    weight, bias = result.split([12, 3])
    heads = [total(rows) for rows in list(zip(*rows, strict=True))[2:]]
    return [weight.view(3, 4), bias, *heads], conflicts


def pcgrad(orders):
    def step(modules, tasks, optimizer):
        update(modules, optimizer, projected(modules, tasks, orders)[0])

    return step


def gse(orders, *, recompute):
    def step(modules, tasks, optimizer):
        first, _ = projected(modules, tasks, orders)
        second = [
            total(rows) for rows in zip(*(gradients(modules, loss) for loss in tasks.values()), strict=True)
        ]
        update(modules, optimizer, [g if g is None else g / len(tasks) for g in first])
        if recompute:
            summed(modules, tasks, optimizer)
        else:
            update(modules, optimizer, second)

    return step


PLAIN = {
    "pcgrad": pcgrad,
    "gse": lambda orders: gse(orders, recompute=True),
    "gse-reuse": lambda orders: gse(orders, recompute=False),
}


# The laws


@pytest.mark.parametrize(("name", "plain"), [("separate", separate), ("sum", summed)])
def test_updates_without_surgery_are_the_plain_ones(modules, name, plain):
    theirs = copy.deepcopy(modules)
    updater, optimizer = updates.build(name, adamw(modules), seed=3), adamw(theirs)
    for _ in range(4):
        updater.step(losses(modules))
        plain(theirs, losses(theirs), optimizer)
    assert same(values(modules), values(theirs))


@pytest.mark.parametrize("name", list(PLAIN))
def test_with_two_tasks_updates_with_surgery_are_the_plain_ones(modules, name):
    theirs = copy.deepcopy(modules)  # with two tasks there is one order of projection
    updater, optimizer = updates.build(name, adamw(modules), seed=3), adamw(theirs)
    conflicts = 0
    for _ in range(4):
        conflicts += projected(theirs, losses(theirs, 2), [[1], [0]])[1]
        updater.step(losses(modules, 2))
        PLAIN[name]([[1], [0]])(theirs, losses(theirs, 2), optimizer)
    assert same(values(modules), values(theirs))
    assert conflicts


@pytest.mark.parametrize("name", list(PLAIN))
def test_with_three_tasks_every_step_is_the_plain_one_of_some_order(modules, name):
    optimizer = adamw(modules)
    updater = updates.build(name, optimizer, seed=3)
    possible = list(product(*(permutations([j for j in range(3) if j != i]) for i in range(3))))
    ambiguous = 0
    for _ in range(4):
        candidates = []
        for orders in possible:
            theirs = copy.deepcopy(modules)
            their_adamw = adamw(theirs)
            their_adamw.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            PLAIN[name](orders)(theirs, losses(theirs), their_adamw)
            candidates.append(values(theirs))
        updater.step(losses(modules))
        assert any(same(values(modules), candidate) for candidate in candidates)
        ambiguous += any(not same(candidate, candidates[0]) for candidate in candidates)
    assert ambiguous  # so the order mattered


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_of_gradsurgery_goes_by_its_name(modules, name):
    theirs = copy.deepcopy(modules)
    updater = updates.build(name, adamw(modules), seed=3)
    surgery = METHODS[name](adamw(theirs), generator=torch.Generator().manual_seed(3))
    for _ in range(3):
        updater.step(losses(modules))
        surgery.zero_grad()
        surgery.backward(losses(theirs))
        surgery.step()
    assert all(map(torch.equal, values(modules), values(theirs)))


def test_uncertainty_weighs_each_loss_by_a_trained_parameter(modules):
    theirs = copy.deepcopy(modules)
    s = [nn.Parameter(torch.zeros(())) for _ in TASKS]
    optimizer = torch.optim.AdamW([*theirs.parameters(), *s], lr=1e-2, eps=1e-6, weight_decay=0.0)
    updater = updates.build("uncertainty", adamw(modules), seed=3)
    for _ in range(4):
        updater.step(losses(modules))
        optimizer.zero_grad()
        plain = losses(theirs)
        sum(
            (torch.exp(-each) * loss() + each) / 2 for each, loss in zip(s, plain.values(), strict=True)
        ).backward()
        optimizer.step()
    assert same(values(modules), values(theirs))
    assert all(parameter != 0 for parameter in s)


def test_dwa_weighs_from_the_third_epoch_on(modules):
    theirs = copy.deepcopy(modules)
    updater, optimizer = updates.build("dwa", adamw(modules), seed=3), adamw(theirs)
    means, weights = [], torch.ones(3, dtype=torch.float64)
    for _ in range(4):
        sums = torch.zeros(3, dtype=torch.float64)
        for _ in range(2):
            updater.step(losses(modules))
            optimizer.zero_grad()
            found = [loss() for loss in losses(theirs).values()]
            sums += torch.stack(found).detach()
            sum(weight * loss for weight, loss in zip(weights, found, strict=True)).backward()
            optimizer.step()
        updater.end_epoch()
        means.append(sums / 2)
        if len(means) > 1:
            weights = 3 * torch.softmax(means[-1] / means[-2] / 2.0, 0)
    assert same(values(modules), values(theirs))
    assert weights.std() > 0


def test_the_seed_decides_the_order(modules):
    def after(seed):
        ours = copy.deepcopy(modules)
        updater = updates.build("pcgrad", adamw(ours), seed=seed)
        for _ in range(4):
            updater.step(losses(ours))
        return values(ours)

    results = [after(seed) for seed in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(after(0), results[0], strict=True))
    assert any(not same(result, results[0]) for result in results)


def test_the_updates_are_different_ones(modules):
    results = []
    for name in NAMES:
        if name == "upgrad":
            continue  # PCGrad where, as here, one pair at most conflicts
        ours = copy.deepcopy(modules)
        updater = updates.build(name, adamw(ours), seed=3)
        for _ in range(4):
            updater.step(losses(ours))
        results.append(values(ours))
    assert all(not same(a, b) for i, a in enumerate(results) for b in results[:i])


@pytest.mark.parametrize(
    ("name", "times"), [("separate", 1), ("sum", 1), ("pcgrad", 1), ("gse", 2), ("gse-reuse", 1)]
)
def test_how_often_and_in_what_order_losses_are_evaluated(modules, name, times):
    called = []

    def counted(task, loss):
        def call():
            called.append((task, torch.cat([p.flatten() for p in modules[0].parameters()]).detach().clone()))
            return loss()

        return call

    tasks = {task: counted(task, loss) for task, loss in losses(modules).items()}
    updates.build(name, adamw(modules), seed=3).step(tasks)
    assert [task for task, _ in called] == list(tasks) * times
    places = [trunk for _, trunk in called]
    moved = [not torch.equal(places[k], places[k - 1]) for k in range(1, len(places))]
    between = {"separate": [True, True], "gse": [False, False, True, False, False]}
    assert moved == between.get(name, [False, False])  # at which evaluations the parameters had changed


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_no_task_reaches_stays_even_with_weight_decay(modules, name):
    before = values(modules[-1])
    updater = updates.build(name, adamw(modules, weight_decay=0.5), seed=3)
    for _ in range(2):
        updater.step(losses(modules))
    assert all(map(torch.equal, values(modules[-1]), before))


def test_separate_updates_leave_the_other_heads_alone(modules):
    tasks = losses(modules)
    updater = updates.build("separate", adamw(modules, weight_decay=0.5), seed=3)
    updater.step(tasks)  # now every head has moments, which must not move it at another task's update
    heads = values(nn.ModuleList(list(modules)[2:]))
    updater.step({"sst": tasks["sst"]})
    assert all(map(torch.equal, values(nn.ModuleList(list(modules)[2:])), heads))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_from_before_do_not_count(modules, name):
    theirs = copy.deepcopy(modules)
    for parameter in theirs.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    for ours in (modules, theirs):
        updates.build(name, adamw(ours), seed=3).step(losses(ours))
    assert all(map(torch.equal, values(modules), values(theirs)))


@pytest.mark.parametrize("name", [*NAMES, "dwa"])
def test_a_resumed_updater_goes_on_equal_to_the_bit(modules, name):
    updater = updates.build(name, adamw(modules), seed=3)
    for _ in range(3):
        updater.step(losses(modules))
        updater.end_epoch()
    theirs = copy.deepcopy(modules)
    state = copy.deepcopy(updater.state_dict())
    resumed = updates.build(name, adamw(theirs), seed=99)
    resumed.load_state_dict(state)
    for _ in range(4):
        for each, of in ((updater, modules), (resumed, theirs)):
            each.step(losses(of))
            each.end_epoch()
    assert all(map(torch.equal, values(modules), values(theirs)))


def test_a_row_that_trains_nothing_has_no_update(modules):
    with pytest.raises(ValueError, match=r"^update 'none' trains nothing; choose a row that does$"):
        updates.build("none", adamw(modules), seed=0)
