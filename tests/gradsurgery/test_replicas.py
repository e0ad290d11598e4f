"""What the ranks must have in common is compared, refused by name if it differs, and costs few messages."""

import re

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import distributed_c10d as c10d

from gradsurgery import PCGrad
from tests.gradsurgery import joined
from tests.gradsurgery.joined import pcgrad, seed_of
from tests.versions import needs_fully_shard


def refused(call):
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def backward(optimizer, module, rank, world, names="ab"):
    data = joined.part_of(rank, world)
    optimizer.backward({name: lambda k=k: joined.loss(module, data(0, k), k) for k, name in enumerate(names)})


def misuse(rank, world):
    """Yields a misuse, and what becomes of it on this rank."""
    module = joined.Model()
    for name, names in [("order", "ab" if rank else "ba"), ("number", "abc"[: 2 + rank])]:
        optimizer = pcgrad(module)
        yield name, refused(lambda: backward(optimizer, module, rank, world, names))  # noqa: B023
    for name in ("order later", "number later"):
        optimizer = pcgrad(module)
        backward(optimizer, module, rank, world)
        names = {"order later": "ab" if rank else "ba", "number later": "abc"[: 2 + rank]}[name]
        yield name, refused(lambda: backward(optimizer, module, rank, world, names))  # noqa: B023

    other = nn.Linear(6, 1 + rank).double()
    optimizer = PCGrad(torch.optim.SGD(other.parameters(), lr=0.1))
    yield "shapes", refused(lambda: optimizer.backward([lambda: other(torch.ones(2, 6).double()).sum()] * 2))

    module = joined.Model()
    if rank == 1:
        with torch.no_grad():
            module.heads[1].bias.add_(1e-15)
    optimizer = pcgrad(module)
    yield "initial values", refused(lambda: backward(optimizer, module, rank, world))
    optimizer = pcgrad(module, check_every=0)
    yield "unchecked", refused(lambda: backward(optimizer, module, rank, world))

    module = joined.Model()
    optimizer = pcgrad(module, seed_of(rank))
    backward(optimizer, module, rank, world)
    if rank == 1:
        torch.rand(1, generator=optimizer.generator)
    yield "draw", refused(lambda: backward(optimizer, module, rank, world))

    optimizer = pcgrad(module)
    backward(optimizer, module, rank, world)
    if rank == 1:
        optimizer.load_state_dict(optimizer.state_dict())
    yield "load", refused(lambda: backward(optimizer, module, rank, world))

    module = joined.ddp(static_graph=True)
    optimizer = pcgrad(module)
    yield "static graph", refused(lambda: backward(optimizer, module, rank, world))
    module = joined.ddp()
    losses = [joined.loss(module, joined.batch(0, k, rank, world), k) for k in range(2)]
    optimizer = pcgrad(module)
    yield "forward outside", refused(lambda: optimizer.backward([lambda loss=loss: loss for loss in losses]))


def misuses(rank, world):
    return dict(misuse(rank, world))


@pytest.fixture(scope="module")
def errors(ranks):
    return ranks.run(misuses, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "order",
            r"ValueError: losses must name the same tasks in the same order on every rank, got \['.*\] on",
        ),
        ("number", "the same tasks in the same order on every rank.*: build the mapping alike"),
        ("order later", "the same tasks in the same order on every rank.*: build the mapping alike"),
        ("number later", "the same tasks in the same order on every rank.*: build the mapping alike"),
        ("shapes", "the same parameters on every rank, got 2 on rank {rank} .*: for ranks with other parts"),
        ("initial values", "got other values on rank {rank} at backward 0: .*DistributedDataParallel"),
        ("draw", "generator must be in the same state on every rank, got another on rank {rank}"),
        ("load", r"must be called alike on every rank.*load_state_dict\(\), on rank {rank}"),
        ("static graph", "got static_graph=True.*: leave it out, or pass losses"),
        (
            "forward outside",
            "RuntimeError: DistributedDataParallel must .* inside the callables .*: move it into a callable",
        ),
    ],
)
def test_what_differs_between_ranks_is_refused_on_each(errors, name, message):
    for rank, found in enumerate(errors):
        assert re.search(message.replace("{rank}", str(rank)), found[name]), found[name]


def test_parameters_may_be_left_uncompared(errors):
    assert [found["unchecked"] for found in errors] == [None, None]


def later_misuses(rank, world):
    """Returns by misuse, at a second backward, what becomes of it on this rank."""
    told = {}
    for name in ("order", "number", "draw", "load"):
        module, names = joined.fsdp(), "abc"
        optimizer = pcgrad(module, seed_of(rank))
        backward(optimizer, module, rank, world)
        if name == "order":
            names = "abc" if rank else "cba"
        if name == "number":
            names = "abc"[: 2 + rank]
        if rank == 1 and name == "draw":
            torch.rand(1, generator=optimizer.generator)
        if rank == 1 and name == "load":
            optimizer.load_state_dict(optimizer.state_dict())
        told[name] = refused(lambda: backward(optimizer, module, rank, world, names))  # noqa: B023
    return told


@needs_fully_shard
def test_what_differs_between_ranks_of_shards_is_refused_on_each_at_any_backward(ranks):
    for told in ranks.run(later_misuses, 2):
        assert "the same tasks in the same order on every rank" in told["order"]
        assert "the same tasks in the same order on every rank" in told["number"]
        assert "generator must be in the same state on every rank" in told["draw"]
        assert "must be called alike on every rank" in told["load"]


def drifting(rank, world):
    """Returns by interval in which backward a change that was made after the third is told."""
    told = {}
    for every in (1, 4, 0):
        module = joined.Model()
        optimizer = pcgrad(module, check_every=every)
        for step in range(10):
            error = refused(lambda: backward(optimizer, module, rank, world))  # noqa: B023
            if error:
                told[every] = step, error
                break
            optimizer.step()
            if step == 2 and rank == 1:
                module.trunk.weight.detach()[0, 0] += 1e-12
    return told


def test_a_drift_is_told_at_the_interval(ranks):
    for told in ranks.run(drifting, 2):
        assert {every: step for every, (step, _) in told.items()} == {1: 3, 4: 4}
        assert "got other values" in told[4][1]
        assert "at backward 4" in told[4][1]


class Messages:
    """Records what is sent inside the block: after how many forwards, elements, dtype, and not waited for?"""

    def __enter__(self):
        self.forwards, self.found = 0, []
        self.originals = dist.all_reduce, c10d.broadcast
        dist.all_reduce, c10d.broadcast = map(self.recording, self.originals)
        return self

    def recording(self, original):
        def collective(tensor, *args, **options):
            waits = not options.get("async_op", False)
            self.found.append((self.forwards, tensor.numel(), tensor.dtype, waits))
            return original(tensor, *args, **options)

        return collective

    def __exit__(self, *_):
        dist.all_reduce, c10d.broadcast = self.originals


def three_backwards(rank, world):
    module, data = joined.ddp(), joined.part_of(rank, world)
    optimizer = pcgrad(module, seed_of(rank))
    found = []
    for step in range(3):
        with Messages() as messages:

            def task(k, step=step, messages=messages):
                messages.forwards += 1
                return joined.loss(module, data(step, k), k)

            optimizer.backward([lambda k=k, task=task: task(k) for k in range(joined.T)])
        found.append(messages.found)
        optimizer.step()
    return found


def test_a_row_is_under_way_while_the_next_task_runs_and_the_order_takes_no_message(ranks):
    row = 6 * 3 + 3 + 3 + 1  # the trunk and one head, small enough for one message
    comparison, reach = (0, 10, torch.int64, False), (3, joined.T * 10, torch.int32, True)
    sent = [comparison, *((k, row, torch.float64, False) for k in (1, 2, 3)), reach]
    for first, *others in ranks.run(three_backwards, 2):
        assert others == [sent, sent]
        assert len(first) > len(sent)  # the order's generator, once
