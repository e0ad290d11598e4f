"""One rank of a group: runs every scenario below and saves the trained weights. Started by test_distributed.

Usage: python ranks.py RANK WORLD FOLDER
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from gradsurgery import GSE, PCGrad

T, STEPS, BATCH, LR = 3, 3, 8, 0.05


class Model(nn.Module):
    """A trunk under T heads; the forward of task k reaches the trunk and head k."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(6, 3).double()
        self.heads = nn.ModuleList(nn.Linear(3, 1).double() for _ in range(T))

    def forward(self, x, k):
        return self.heads[k](torch.tanh(self.trunk(x)))


class OneHead(Model):
    """Every forward reaches every parameter, so that a reducer is content with each backward."""

    def forward(self, x, k):
        h = torch.tanh(self.trunk(x))
        return (k + 1) * self.heads[0](h) - self.heads[1](h) + k * self.heads[2](h)


def batch(step, k, rank=None, world=1):
    """Returns the joined batch, or a rank's part of it."""
    generator = torch.Generator().manual_seed(12_000 + 100 * step + k)
    x = torch.randn(BATCH, 6, generator=generator).double()
    y = 3 * torch.randn(BATCH, 1, generator=generator).double()
    part = slice(None) if rank is None else slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    return x[part], y[part]


def loss(module, data, k):
    x, y = data
    return nn.functional.mse_loss(module(x, k), y)


def train(module, surgery, data, *, kind="callables", accumulate=False):
    """Trains for a few steps; ``data(step, k)`` is a batch. Returns the weights and the last Gramian."""

    def task(step, k):
        return lambda: loss(module, data(step, k), k)

    for step in range(STEPS):
        surgery.zero_grad()
        for part in [10 + step, step] if accumulate else [step]:
            tasks = {f"task{k}": task(part, k) for k in range(T)}
            if kind == "tensors":
                tasks = {name: forward() for name, forward in tasks.items()}
            surgery.backward(tasks, accumulate=accumulate and part != step)
        surgery.step()
    return [*(p.detach().clone() for p in module.parameters()), surgery.conflicts.gramian]


def pcgrad(module, seed=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return PCGrad(torch.optim.SGD(module.parameters(), lr=LR), generator=generator, **options)


def adam_gse(module, seed=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return GSE(PCGrad(torch.optim.Adam(module.parameters(), lr=LR), generator=generator), **options)


class Branching(Model):
    """Only the first rank's forward of task 2 reaches its head."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def forward(self, x, k):
        if k == 2 and self.rank != 0:
            return torch.tanh(self.trunk(x)).sum(1, keepdim=True)
        return super().forward(x, k)


def branching_loss(model, step, world):
    """Returns the joined loss of task 2 of the ranks' Branching models, on one process."""
    losses = []
    for rank in range(world):
        model.rank = rank
        losses.append(loss(model, batch(step, 2, rank, world), 2))
    return sum(losses) / world


def own_backward(module, data):
    def task(k):
        def back_propagate():
            loss(module, data(0, k), k).backward()

        return back_propagate

    return [task(k) for k in range(T)]


def linear_problem():
    """Returns a weight (4, 3), inputs (8, 4), and factors of the outputs for each task, (T, 8, 3)."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator).double() for shape in [(4, 3), (8, 4), (T, 8, 3)]]


def dtensor_gradients(mesh):
    """Returns the gradient of a DTensor weight, placed in three ways, and the Gramian, for sharded inputs."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    weight, x, factors = linear_problem()
    x, *factors = (distribute_tensor(t, mesh, [Shard(0)]) for t in (x, *factors))
    results = []
    for placement in (Replicate(), Shard(0), Shard(1)):
        w = nn.Parameter(distribute_tensor(weight, mesh, [placement]))
        optimizer = PCGrad(torch.optim.SGD([w], lr=LR))
        optimizer.backward([lambda w=w, f=f: (x @ w * f).sum() for f in factors])
        assert w.grad.placements == w.placements
        results += [w.grad, optimizer.conflicts.gramian]
    return results


def scenarios(rank, world):
    """Yields a name and what this rank's parameters, or their gradients, have become."""

    def part(step, k):
        return batch(step, k, rank, world)

    def ddp(model=Model, **options):
        return nn.parallel.DistributedDataParallel(model(), **options)

    def sharded(mesh=None):
        from torch.distributed.fsdp import fully_shard

        model = Model()
        fully_shard(model.trunk, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    seed = 5 if rank == 0 else 77  # the ranks' generators differ: the first rank's must count
    for name, module, kind in [
        ("ddp callables", ddp(), "callables"),
        ("ddp bucket views callables", ddp(gradient_as_bucket_view=True), "callables"),
        ("ddp tensors", ddp(), "tensors"),
        ("ddp unused tensors", ddp(find_unused_parameters=True), "tensors"),
        ("one head callables", ddp(OneHead), "callables"),
        ("one head tensors", ddp(OneHead), "tensors"),
        ("replicas callables", Model(), "callables"),
        ("fsdp callables", sharded(), "callables"),
        ("fsdp tensors", sharded(), "tensors"),
        (
            "hsdp callables",
            sharded(dist.init_device_mesh("cpu", (world, 1), mesh_dim_names=("replicas", "shards"))),
            "callables",
        ),
    ]:
        yield name, train(module, pcgrad(module, seed), part, kind=kind)
        assert getattr(module, "require_backward_grad_sync", True)  # put back
    for name, module in [("ddp", ddp()), ("fsdp", sharded())]:
        yield f"{name} accumulate", train(module, pcgrad(module, seed), part, accumulate=True)
    for name, module in [("ddp", ddp()), ("fsdp", sharded())]:
        yield f"{name} gse recompute", train(module, adam_gse(module, seed), part)
    module = ddp()
    yield "ddp gse reuse", train(module, adam_gse(module, seed, second_update="reuse"), part)

    module = ddp()
    optimizer = pcgrad(module, seed)
    optimizer.backward(own_backward(module, part))
    yield "own backward", [p.grad for p in module.parameters()]

    yield "dtensor", dtensor_gradients(dist.init_device_mesh("cpu", (world,)))

    module = Branching(rank)
    optimizer = pcgrad(module, seed)
    optimizer.backward([lambda k=k: loss(module, part(0, k), k) for k in range(T)])
    yield "branching", [p.grad for p in module.parameters()]

    module = Model()
    names = "ab" if rank == 0 else "ba"
    try:
        pcgrad(module).backward({name: lambda: loss(module, part(0, 0), 0) for name in names})
    except ValueError as error:
        yield "other tasks", str(error)

    alone = dist.new_group([0])
    if rank == 0:
        module = Model()
        yield "alone", train(module, pcgrad(module, process_group=alone), batch)


def main(rank, world, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    results = {
        name: [getattr(t, "full_tensor", lambda t=t: t)() for t in result]
        if isinstance(result, list)
        else result
        for name, result in scenarios(rank, world)
    }
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo that outlive the interpreter abort it now and then


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
