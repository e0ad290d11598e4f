"""Training on the joined batches by one process, or by a rank on its parts: a model, data, a loop."""

import torch
import torch.distributed as dist
from torch import nn

from gradsurgery import GSE, PCGrad

T, STEPS, BATCH, LR = 3, 6, 8, 0.05


class Model(nn.Module):
    """A trunk under T heads; the forward of task k reaches the trunk and head k, and none what is unused."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(6, 3).double()
        self.heads = nn.ModuleList(nn.Linear(3, 1).double() for _ in range(T))
        self.unused = nn.Linear(2, 1).double()

    def forward(self, x, k):
        return self.heads[k](torch.tanh(self.trunk(x)))


class OneHead(Model):
    """Every forward reaches every parameter, so that a reducer is content with each backward."""

    def __init__(self):
        super().__init__()
        del self.unused

    def forward(self, x, k):
        h = torch.tanh(self.trunk(x))
        return (k + 1) * self.heads[0](h) - self.heads[1](h) + k * self.heads[2](h)


def batch(step, k, rank=None, world=1):
    """Returns the joined batch or a rank's part of it, and what its mean loss is to be multiplied by.

    The last step's batch is uneven: the ranks' mean losses are weighted by their sizes, so that the average
    over the ranks is the joined mean.
    """
    generator = torch.Generator().manual_seed(12_000 + 100 * step + k)
    size = BATCH - 1 if step == STEPS - 1 else BATCH
    x = torch.randn(size, 6, generator=generator).double()
    y = 3 * torch.randn(size, 1, generator=generator).double()
    if rank is None:
        return x, y, 1.0
    x, y = x.tensor_split(world)[rank], y.tensor_split(world)[rank]
    return x, y, world * len(x) / size


def loss(module, data, k):
    x, y, weight = data
    return weight * nn.functional.mse_loss(module(x, k), y)


def part_of(rank, world):
    return lambda step, k: batch(step, k, rank, world)


def tasks(module, data, step):
    """Returns the step's callables."""
    return {f"task{k}": lambda k=k: loss(module, data(step, k), k) for k in range(T)}


def train(module, optimizer, data, *, kind="callables", accumulate=False, steps=range(STEPS), after=None):
    """Trains; ``data(step, k)`` is a batch. Returns the parameters, and the last Gramian and weights."""

    for step in steps:
        optimizer.zero_grad()
        for part in [10 + step, step] if accumulate else [step]:
            losses = tasks(module, data, part)
            if kind == "tensors":
                losses = {name: forward() for name, forward in losses.items()}
            optimizer.backward(losses, accumulate=accumulate and part != step)
        if after is not None:
            after()
        optimizer.step()
    report = optimizer.conflicts
    return whole([*module.parameters(), report.gramian, report.weights])


def whole(tensors):
    """Returns copies of tensors, sharded ones put together."""
    return [getattr(t, "full_tensor", lambda t=t: t)().detach().clone() for t in tensors]


def pcgrad(module, seed=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return PCGrad(torch.optim.SGD(module.parameters(), lr=LR), generator=generator, **options)


def adam_gse(module, seed=5, **options):
    generator = torch.Generator().manual_seed(seed)
    return GSE(PCGrad(torch.optim.Adam(module.parameters(), lr=LR), generator=generator), **options)


def seed_of(rank):
    """The ranks' generators differ: the first rank's must count."""
    return 5 if rank == 0 else 77


def ddp(model=Model, **options):
    return nn.parallel.DistributedDataParallel(model(), **options)


def fsdp(model=Model, mesh=None, **options):
    from torch.distributed.fsdp import fully_shard

    module = model()
    fully_shard(module.trunk, mesh=mesh, **options)
    return fully_shard(module, mesh=mesh, **options)


def hsdp(world):
    return fsdp(mesh=dist.init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicas", "shards")))


def check(found, expected):
    """Every rank's tensors, or none of them, are those that one process has."""
    assert found
    for rank, mine in enumerate(found):
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-10, atol=1e-12, msg=lambda text, rank=rank: f"rank {rank}: {text}"
            )
