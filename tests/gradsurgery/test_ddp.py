"""What ``DistributedDataParallel`` does by itself, under callables: buffers, groups, its reducer."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradsurgery import GSE, PCGrad
from tests.gradsurgery import joined
from tests.gradsurgery.joined import adam_gse, check, pcgrad
from tests.gradsurgery.test_replicas import refused


class Centred(joined.Model):
    """A forward that moves a buffer and uses it, as a codebook of vectors or a running normaliser does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(3).double())
        self.norm = nn.BatchNorm1d(3).double()

    def forward(self, x, k):
        h = self.trunk(x)
        if self.training:
            self.centre.mul_(0.5).add_(0.5 * h.detach().mean(0))
        return self.heads[k](torch.tanh(self.norm(h)) - self.centre)


def with_buffers(rank, world):
    found = []
    for kind, make in [("tensors", pcgrad), ("callables", pcgrad), ("callables", adam_gse)]:
        module = joined.ddp(Centred, find_unused_parameters=True)
        joined.train(module, make(module), joined.part_of(rank, world), kind=kind)
        module.eval()
        with torch.no_grad():  # by which the first rank's buffers reach the others
            module(joined.batch(0, 0)[0], 0)
        found.append([t.clone() for t in (*module.buffers(), *module.parameters())])
    return found


def test_buffers_are_broadcast_before_the_forwards_of_callables_as_of_losses(ranks):
    first, second = ranks.run(with_buffers, 2)
    (losses, callables, gse), (losses_there, callables_there, gse_there) = first, second
    check([losses_there, callables, callables_there], losses)
    check([gse_there], gse)


def inside_no_sync(rank, world):
    buffers = []
    for module in (joined.ddp(Centred), Centred()):
        optimizer = pcgrad(module)
        with getattr(module, "no_sync", nullcontext)():
            for step in range(2):
                optimizer.backward(joined.tasks(module, joined.part_of(rank, world), step), accumulate=True)
        buffers.append([buffer.clone() for buffer in module.buffers()])
    return buffers


def test_nothing_is_broadcast_inside_no_sync(ranks):
    for replica, alone in ranks.run(inside_no_sync, 2):
        check([replica], alone)


def of_subgroups(rank, world):
    group = [dist.new_group([0, 2]), dist.new_group([1, 3])][rank % 2]
    own = joined.part_of(rank // 2, 2)
    module = DistributedDataParallel(joined.Model(), process_group=group)
    told = []
    for make in (pcgrad, adam_gse):
        optimizer = make(module)
        told.append(refused(lambda: optimizer.backward(joined.tasks(module, own, 0))))  # noqa: B023
    module = DistributedDataParallel(joined.Model(), process_group=group)
    return told, joined.train(module, pcgrad(module, process_group=group), own)


def test_a_group_other_than_the_modules_is_refused(ranks):
    results = ranks.run(of_subgroups, 4)
    for rank, (told, _) in enumerate(results):
        for error in told:
            assert error.startswith("ValueError: process_group must be of the ranks of Distributed")
            assert f"{[0, 2] if rank % 2 == 0 else [1, 3]}, got [0, 1, 2, 3]" in error
    module = joined.Model()
    check([found for _, found in results], joined.train(module, pcgrad(module), joined.batch))


def for_a_log(module, data):
    module(data(7, 0)[0], 0)


def waiting_reducers(rank, world):
    """Returns what is said where a forward that is in no callable waits for a backward of its own."""
    data = joined.part_of(rank, world)
    module = joined.ddp()
    optimizer = pcgrad(module)
    for_a_log(module, data)
    told = [refused(lambda: optimizer.backward(joined.tasks(module, data, 0)))]

    module = joined.ddp()
    optimizer = pcgrad(module)
    both = [joined.loss(module, data(0, 0), 0), lambda: joined.loss(module, data(0, 1), 1)]
    told.append(refused(lambda: optimizer.backward(both)))
    return told


def test_a_forward_that_waits_for_its_own_backward_is_told_at_once(ranks):
    for told in ranks.run(waiting_reducers, 2):
        for error in told:
            assert error.startswith("RuntimeError: DistributedDataParallel must run with gradients inside")
            assert "torch.no_grad()" in error


def beside_a_log(rank, world):
    data, module = joined.part_of(rank, world), joined.ddp()

    def logging(step, k):
        with torch.no_grad():
            for_a_log(module, data)
        return data(step, k)

    return joined.train(module, pcgrad(module), logging)


def test_a_forward_without_gradients_disturbs_nothing(ranks):
    module = joined.Model()
    check(ranks.run(beside_a_log, 2), joined.train(module, pcgrad(module), joined.batch))


class Recomputed(torch.autograd.Function):
    """Runs a block again in its backward, as reversible layers do."""

    @staticmethod
    def forward(ctx, block, x):
        ctx.block = block
        ctx.save_for_backward(x)
        return block(x).detach()

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.block(x), gradient)
        return None, x.grad


class Reversible(joined.Model):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(3, 3).double()

    def forward(self, x, k):
        return self.heads[k](torch.tanh(Recomputed.apply(self.block, self.trunk(x))))


def back_propagating(rank, world):
    data, module = joined.part_of(rank, world), Reversible()
    found = joined.train(module, pcgrad(module), data)
    losses = [joined.loss(module, data(0, k), k) for k in range(joined.T)]
    before = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    told = refused(lambda: pcgrad(module).backward(losses))
    for parameter, gradient in zip(module.parameters(), before, strict=True):
        assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
    return found, told


def test_a_loss_that_back_propagates_by_itself_is_refused_and_its_callable_is_right(ranks):
    module = Reversible()
    expected = joined.train(module, pcgrad(module), joined.batch)
    for found, told in ranks.run(back_propagating, 2):
        check([found], expected)
        assert "'0' must have no function in its graph that back-propagates by itself" in told
        assert "pass a callable" in told


def skipping(rank, world):
    """Returns what each step says, where one loss is not finite on one rank alone, and the weights."""
    results = []
    for wrap in (lambda optimizer: optimizer, GSE):
        module = joined.ddp()
        optimizer = wrap(PCGrad(torch.optim.SGD(module.parameters(), lr=joined.LR), nonfinite="raise"))
        told = []

        def task(step, k, module=module):
            factor = float("nan") if (step, k, rank) == (1, 1, 1) else 1.0
            return factor * joined.loss(module, joined.batch(step, k, rank, world), k)

        for step in range(4):
            optimizer.zero_grad()
            tasks = [lambda k=k, step=step, task=task: task(step, k) for k in range(joined.T)]
            told.append(refused(lambda: optimizer.backward(tasks)))  # noqa: B023
            if told[-1] is None:
                optimizer.step()
        results.append((told, joined.whole(module.parameters())))
    return results


def test_a_loss_that_is_not_finite_on_one_rank_is_refused_on_all(ranks):
    first, second = ranks.run(skipping, 2)
    for (told, weights), (told_there, weights_there) in zip(first, second, strict=True):
        assert [told[0], told[2], told[3]] == [told_there[0], told_there[2], told_there[3]] == [None] * 3
        assert "task '1' must be finite, got" in told[1]
        assert "and on another rank one that is not: look into" in told[1]
        assert "task '1' must be finite, got nan: look into" in told_there[1]
        check([weights_there], weights)


def in_different_numbers_of_calls(rank, world):
    module = joined.ddp()
    optimizer = pcgrad(module, nonfinite="raise")
    for call in range(2 + rank):
        optimizer.backward(joined.tasks(module, joined.part_of(rank, world), call), accumulate=True)
    return joined.train(module, optimizer, joined.part_of(rank, world))


def test_ranks_may_accumulate_in_different_numbers_of_calls(ranks):
    first, second = ranks.run(in_different_numbers_of_calls, 2)
    check([second], first)


def on_its_own(rank, world, kind):
    module = joined.ddp()
    return joined.train(module, pcgrad(module), joined.part_of(rank, world), kind=kind)


@pytest.mark.parametrize("kind", ["callables", "tensors"])
def test_a_single_rank_trains_as_without_ddp(ranks, kind):
    """As ``torchrun --nproc-per-node 1`` makes it: DDP's reducer would wait for the heads of other tasks."""
    module = joined.Model()
    check(ranks.run(on_its_own, 1, kind), joined.train(module, pcgrad(module), joined.batch))


def compilations(rank, world):
    """Returns how often a module has been compiled after each step."""
    found, compiled = [], []

    def backend(graph, examples):
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()
    trunk = torch.compile(nn.Sequential(nn.Linear(6, 3), nn.Tanh()).double(), backend=backend)
    module = DistributedDataParallel(trunk)
    optimizer = pcgrad(module)
    for step in range(4):
        optimizer.zero_grad()
        data = joined.batch(step, 0)[0]
        optimizer.backward([lambda k=k, data=data: module(data)[:, k].square().mean() for k in range(2)])
        optimizer.step()
        found.append(len(compiled))
    return found


def test_a_compiled_module_is_not_compiled_anew_at_each_backward(ranks):
    for found in ranks.run(compilations, 1):
        assert found == [1] * 4
