"""One rank of a group: runs every scenario below and saves the trained weights. Started by test_distributed.

Usage: python ranks.py RANK WORLD FOLDER
"""

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
        self.trunk = nn.Linear(6, 5).double()
        self.heads = nn.ModuleList(nn.Linear(5, 1).double() for _ in range(T))

    def forward(self, x, k):
        return self.heads[k](torch.tanh(self.trunk(x)))


class OneHead(Model):
    """Every forward reaches every parameter, so that a reducer is content with each backward."""

    def forward(self, x, k):
        h = torch.tanh(self.trunk(x))
        return (k + 1) * self.heads[0](h) - self.heads[1](h) + k * self.heads[2](h)


def batch(step, k, rank=None, world=1):
    """Returns the joined batch, or a rank's part of it."""
    generator = torch.Generator().manual_seed(100 * step + k)
    x = torch.randn(BATCH, 6, generator=generator).double()
    y = 3 * torch.randn(BATCH, 1, generator=generator).double()
    part = slice(None) if rank is None else slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    return x[part], y[part]


def loss(module, data, k):
    x, y = data
    return nn.functional.mse_loss(module(x, k), y)


def train(module, surgery, data, *, kind="callables", accumulate=False):
    """Trains for a few steps; ``data(step, k)`` is a batch."""

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
    return [p.detach().clone() for p in module.parameters()]


def pcgrad(module, seed=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return PCGrad(torch.optim.SGD(module.parameters(), lr=LR), generator=generator, **options)


def adam_gse(module, seed=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return GSE(PCGrad(torch.optim.Adam(module.parameters(), lr=LR), generator=generator), **options)


def scenarios(rank, world):
    def part(step, k):
        return batch(step, k, rank, world)

    def ddp(model=Model, **options):
        return nn.parallel.DistributedDataParallel(model(), **options)

    def sharded():
        from torch.distributed.fsdp import fully_shard

        model = Model()
        fully_shard(model.trunk)
        return fully_shard(model)

    def gathered(parameters):
        return [p.full_tensor() for p in parameters]

    seed = 5 if rank == 0 else 77  # the ranks' generators differ: the first rank's must count

    module = ddp()
    yield "ddp callables", train(module, pcgrad(module, seed), part)
    assert module.require_backward_grad_sync
    module = ddp(gradient_as_bucket_view=True)
    yield "ddp bucket views", train(module, pcgrad(module, seed), part)
    module = ddp()
    yield "ddp tensors", train(module, pcgrad(module, seed), part, kind="tensors")
    module = ddp(find_unused_parameters=True)
    yield "ddp unused tensors", train(module, pcgrad(module, seed), part, kind="tensors")
    module = ddp(OneHead)
    yield "one head tensors", train(module, pcgrad(module, seed), part, kind="tensors")
    module = ddp(OneHead)
    yield "one head callables", train(module, pcgrad(module, seed), part)
    module = ddp()
    yield "ddp accumulate", train(module, pcgrad(module, seed), part, accumulate=True)
    module = ddp()
    yield "ddp gse recompute", train(module, adam_gse(module, seed), part)
    module = ddp()
    yield "ddp gse reuse", train(module, adam_gse(module, seed, second_update="reuse"), part)
    module = Model()
    yield "replicas", train(module, pcgrad(module, seed), part)
    module = sharded()
    yield "fsdp callables", gathered(train(module, pcgrad(module, seed), part))
    module = sharded()
    yield "fsdp gse recompute", gathered(train(module, adam_gse(module, seed), part))
    module = sharded()
    yield "fsdp tensors", gathered(train(module, pcgrad(module, seed), part, kind="tensors"))


def main(rank, world, folder):
    init = f"file://{folder / 'rendezvous'}"
    dist.init_process_group(
        "gloo", init_method=init, rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    results = {}
    for name, weights in scenarios(rank, world):
        results[name] = weights
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
