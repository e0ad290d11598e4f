"""Ranks, each with its part of every batch, against one process with the whole: replicas, in float64."""

import copy

import pytest
import torch
from torch import nn

from gradsurgery import PCGrad, diagnose, distributed
from tests.gradsurgery import joined
from tests.gradsurgery.joined import check, pcgrad, seed_of
from tests.gradsurgery.test_every_method import METHODS
from tests.versions import HAS_FULLY_SHARD

WORLDS = [2, 4]
WAYS = [(joined.ddp, "callables"), (joined.ddp, "tensors")]
if HAS_FULLY_SHARD:
    WAYS.append((joined.fsdp, "callables"))


def sgd_around(name, module, seed):
    method, options = METHODS[name]
    inner = torch.optim.SGD(module.parameters(), lr=joined.LR, momentum=0.5, weight_decay=0.1)
    return method(inner, generator=torch.Generator().manual_seed(seed), **options)


def with_method(rank, world, name):
    data = joined.part_of(rank, world)
    results = []
    for make, kind in WAYS:
        module = make()
        results.append(joined.train(module, sgd_around(name, module, seed_of(rank)), data, kind=kind))
    return results


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", METHODS)
def test_ranks_train_as_one_process_on_the_joined_batch(ranks, name, world):
    module = joined.Model()
    expected = joined.train(module, sgd_around(name, module, seed_of(0)), joined.batch)
    for kind in zip(*ranks.run(with_method, world, name), strict=True):
        check(kind, expected)


def copied(rank, world):
    module = joined.Model()
    optimizer = pcgrad(module, seed_of(rank), process_group=torch.distributed.new_group(range(world)))
    return joined.train(*copy.deepcopy((module, optimizer)), joined.part_of(rank, world))


def test_a_copy_is_of_the_same_ranks(ranks):
    module = joined.Model()
    check(ranks.run(copied, 2), joined.train(module, pcgrad(module, seed_of(0)), joined.batch))


def diagnosed_before(rank, world):
    module, data = joined.ddp(), joined.part_of(rank, world)
    diagnose(joined.tasks(module, data, 0), module.module.trunk.parameters(), samples=5)
    return joined.train(module, pcgrad(module, seed_of(rank)), data)


def test_a_diagnosis_of_ddp_leaves_its_reducer_alone(ranks):
    module = joined.Model()
    check(ranks.run(diagnosed_before, 2), joined.train(module, pcgrad(module, seed_of(0)), joined.batch))


def test_the_training_can_tell_a_wrong_order_and_local_surgery():
    """What it ends with depends on the order, on the surgery, and on the whole batch."""
    trained = []
    for seed in (5, 77):
        module = joined.Model()
        trained.append(joined.train(module, pcgrad(module, seed), joined.batch)[0])
    module = joined.Model()
    trained.append(joined.train(module, pcgrad(module, scope="all"), joined.batch)[0])
    module = joined.Model()
    trained.append(joined.train(module, pcgrad(module), joined.part_of(0, 2))[0])
    for i, a in enumerate(trained):
        assert not any(torch.allclose(a, b, rtol=1e-6) for b in trained[:i])


def accumulating(ddp, optimizer, data):
    """Accumulates inside no_sync, as a loop for DistributedDataParallel does."""
    for step in range(joined.STEPS):
        optimizer.zero_grad()
        with ddp.no_sync():
            tasks = {f"task{k}": joined.loss(ddp, data(10 + step, k), k) for k in range(joined.T)}
            optimizer.backward(tasks, accumulate=True)
            assert not ddp.require_backward_grad_sync
        optimizer.backward(joined.tasks(ddp, data, step))
        optimizer.step()
    return [*joined.whole(ddp.parameters()), optimizer.conflicts.gramian, optimizer.conflicts.weights]


def in_ways(rank, world):
    """Returns by way, for the model it is of, what this rank's parameters become."""
    data, seed = joined.part_of(rank, world), seed_of(rank)
    results = {}
    for name, module, kind in [
        ("bucket views", joined.ddp(gradient_as_bucket_view=True), "callables"),
        ("find unused", joined.ddp(find_unused_parameters=True), "tensors"),
        ("static graph", joined.ddp(static_graph=True), "tensors"),
        ("no wrapper", joined.Model(), "callables"),
        ("one head callables", joined.ddp(joined.OneHead), "callables"),
        ("one head tensors", joined.ddp(joined.OneHead), "tensors"),
    ]:
        results[name] = joined.train(module, pcgrad(module, seed), data, kind=kind)
        assert getattr(module, "require_backward_grad_sync", True)  # put back
    for granularity in ("group", "parameter"):
        module = joined.ddp()
        results[granularity] = joined.train(module, pcgrad(module, seed, granularity=granularity), data)
    module = joined.ddp()
    results["accumulate"] = joined.train(module, pcgrad(module, seed), data, accumulate=True)
    module = joined.ddp()
    results["accumulate no_sync"] = accumulating(module, pcgrad(module, seed), data)
    for second in ("recompute", "reuse"):
        module = joined.ddp()
        optimizer = joined.adam_gse(module, seed, second_update=second)
        results[f"gse {second}"] = joined.train(module, optimizer, data, accumulate=second == "reuse")
    return results


@pytest.fixture(scope="module", params=WORLDS)
def ways(ranks, request):
    return ranks.run(in_ways, request.param)


@pytest.mark.parametrize(
    "way",
    [
        *["bucket views", "find unused", "static graph", "no wrapper", "one head callables"],
        *["one head tensors", "group", "parameter", "accumulate", "accumulate no_sync"],
        *["gse recompute", "gse reuse"],
    ],
)
def test_however_the_model_is_wrapped_and_the_step_made(ways, way):
    module = joined.OneHead() if way.startswith("one head") else joined.Model()
    options = {"granularity": way} if way in ("group", "parameter") else {}
    optimizer = pcgrad(module, **options)
    if way.startswith("gse"):
        optimizer = joined.adam_gse(module, second_update=way.split()[1])
    accumulate = way.startswith("accumulate") or way == "gse reuse"
    check(
        [found[way] for found in ways], joined.train(module, optimizer, joined.batch, accumulate=accumulate)
    )


def own_backward(module, data):
    """Returns tasks that back-propagate by themselves, in two parts, and return None."""

    def task(k):
        def back_propagate():
            (0.25 * joined.loss(module, data(0, k), k)).backward()
            (0.75 * joined.loss(module, data(0, k), k)).backward()

        return back_propagate

    return [task(k) for k in range(joined.T)]


class Branching(joined.Model):
    """From the second step on, task 2 reaches its head on the last rank alone, and task 0 no head at all."""

    def forward(self, x, k, *, step, is_last):
        if step > 0 and (k == 0 or (k == 2 and not is_last)):
            return torch.tanh(self.trunk(x)).sum(1, keepdim=True)
        return super().forward(x, k)


def branching(model, parts, world):
    """Trains on the parts of the ranks given, of so many in all; their losses are averaged."""
    optimizer = pcgrad(model, seed_of(parts[0]))
    gradients = []

    def task(step, k):
        losses = []
        for rank in parts:
            x, y, weight = joined.batch(step, k, rank, world)
            losses.append(
                weight * nn.functional.mse_loss(model(x, k, step=step, is_last=rank == world - 1), y)
            )
        return sum(losses) / len(losses)

    for step in range(3):
        optimizer.zero_grad()
        optimizer.backward([lambda k=k, step=step: task(step, k) for k in range(joined.T)])
        gradients.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
        optimizer.step()
    return gradients


def in_one_backward(rank, world):
    module = joined.ddp()
    optimizer = pcgrad(module, seed_of(rank))
    optimizer.backward(own_backward(module, joined.part_of(rank, world)))
    assert module.module.unused.weight.grad is None
    own = [p.grad for p in module.parameters() if p.grad is not None]
    alone = None
    group = torch.distributed.new_group([0])
    if rank == 0:
        module = joined.Model()
        alone = joined.train(module, pcgrad(module, process_group=group), joined.batch)
    return own, branching(Branching(), [rank], world), alone


@pytest.fixture(scope="module")
def backwards(ranks):
    return ranks.run(in_one_backward, 2)


def test_a_callable_that_back_propagates_itself(backwards):
    module = joined.Model()
    pcgrad(module).backward(own_backward(module, joined.batch))
    expected = [p.grad for p in module.parameters() if p.grad is not None]
    check([own for own, _, _ in backwards], expected)


def test_a_parameter_reached_on_one_rank_only_or_no_longer(backwards):
    expected = branching(Branching(), [0, 1], 2)
    assert sum(g is None for g in expected[0]) < sum(g is None for g in expected[1])
    for _, found, _ in backwards:
        for mine, right in zip(found, expected, strict=True):
            assert [g is None for g in mine] == [g is None for g in right]
            check([[g for g in mine if g is not None]], [g for g in right if g is not None])


def test_a_group_of_one_rank_averages_nothing(backwards):
    module = joined.Model()
    expected = joined.train(module, pcgrad(module), joined.batch)
    assert all(map(torch.equal, backwards[0][2], expected))


def test_without_a_process_group_there_is_one_rank():
    assert distributed.ranks(None) == 1
    layer = nn.Linear(2, 2)
    assert PCGrad(torch.optim.SGD(layer.parameters(), lr=1.0))._replicas.begin(["a"], [], None) is None
