"""Sharded parameters, against one process with whole ones: FSDP2, HSDP, tensor parallel; what is refused."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradsurgery import PCGrad, diagnose, sharding
from gradsurgery.projection import random_order
from tests.gradsurgery import joined
from tests.gradsurgery.joined import check, pcgrad, seed_of
from tests.gradsurgery.reference import algorithm1
from tests.gradsurgery.test_replicas import Messages, refused
from tests.versions import needs_fully_shard

pytestmark = needs_fully_shard
WORLDS = [2, 4]


def half_sharded():
    """The trunk is sharded, its bias and the heads are plain parameters."""
    from torch.distributed.fsdp import fully_shard

    module = joined.Model()
    fully_shard(module.trunk, ignored_params={module.trunk.bias})
    return module


def clipped(module):
    return lambda: nn.utils.clip_grad_norm_([p for p in module.parameters() if p.grad is not None], 0.5)


def in_ways(rank, world):
    """Returns by way what the parameters become."""
    data, seed = joined.part_of(rank, world), seed_of(rank)
    results = {}
    for name, module, kind in [
        ("tensors", joined.fsdp(), "tensors"),
        ("no reshard", joined.fsdp(reshard_after_forward=False), "callables"),
        ("hsdp", joined.hsdp(world), "callables"),
        ("mixed callables", half_sharded(), "callables"),
        ("mixed tensors", half_sharded(), "tensors"),
    ]:
        results[name] = joined.train(module, pcgrad(module, seed), data, kind=kind)
    for granularity in ("group", "parameter"):
        module = joined.fsdp()
        results[granularity] = joined.train(module, pcgrad(module, seed, granularity=granularity), data)
    module = joined.fsdp()
    results["accumulate"] = joined.train(module, pcgrad(module, seed), data, accumulate=True)
    module = joined.fsdp()
    results["clip"] = joined.train(module, pcgrad(module, seed), data, after=clipped(module))
    for second in ("recompute", "reuse"):
        module = joined.fsdp()
        optimizer = joined.adam_gse(module, seed, second_update=second)
        results[f"gse {second}"] = joined.train(module, optimizer, data, accumulate=second == "reuse")
    return results


@pytest.fixture(scope="module", params=WORLDS)
def ways(ranks, request):
    return ranks.run(in_ways, request.param)


@pytest.mark.parametrize(
    "way",
    [
        *["tensors", "no reshard", "hsdp", "mixed callables", "mixed tensors", "group", "parameter"],
        *["accumulate", "clip", "gse recompute", "gse reuse"],
    ],
)
def test_however_the_model_is_sharded_and_the_step_made(ways, way):
    module = joined.Model()
    options = {"granularity": way} if way in ("group", "parameter") else {}
    optimizer = pcgrad(module, **options)
    if way.startswith("gse"):
        optimizer = joined.adam_gse(module, second_update=way.split()[1])
    expected = joined.train(
        module,
        optimizer,
        joined.batch,
        accumulate=way in ("accumulate", "gse reuse"),
        after=clipped(module) if way == "clip" else None,
    )
    found = [own[way] for own in ways]
    check(found, expected)
    for own in found[1:]:  # the Gramian and the weights are the same bits, so that nothing can drift
        assert torch.equal(own[-2], found[0][-2])
        assert torch.equal(own[-1], found[0][-1])


def third_backwards(rank, world):
    """Returns the messages of a third surgery, of all before it, and of the tasks' backwards without one."""
    found = []
    for module, options in [(joined.hsdp(world), {}), (joined.fsdp(), {"granularity": "parameter"})]:
        optimizer = pcgrad(module, **options)
        operate, data = optimizer._operate, joined.part_of(rank, world)
        for step in range(3):
            with Messages() as whole:
                optimizer._operate = lambda **_: None
                optimizer.backward(joined.tasks(module, data, step))
            with Messages() as surgery:
                operate()
        with Messages() as plain:
            for task in joined.tasks(module, data, step).values():
                task().backward()
        found.append((surgery.found, whole.found, plain.found))
    return found


def test_one_message_of_T_by_T_numbers_adds_up_the_products(ranks):
    for results in ranks.run(third_backwards, 4):
        for (surgery, whole, plain), surgeries in zip(results, [1, 2], strict=True):
            assert surgery == [(0, surgeries * joined.T**2, torch.float64, True)]
            comparison = (0, 10, torch.int64, False)
            assert whole == [comparison, *plain]


class Blocks(nn.Module):
    """Equal blocks, large enough for a row to be told from them."""

    def __init__(self, count=8, width=512):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


class Largest(TorchDispatchMode):
    """Records the most bytes that one operation's result lies in."""

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return result


def held(rank, world):
    """Returns bytes: a whole row's, this rank's rows', the largest result's in the surgery and in all."""
    from torch.distributed.fsdp import fully_shard

    module = Blocks()
    row = sum(p.nbytes for p in module.parameters())
    for block in module.blocks:
        fully_shard(block)
    fully_shard(module)
    optimizer = pcgrad(module)
    x = torch.randn(4, 512)
    operate, found = optimizer._operate, []

    def operated(**options):
        for gradients in optimizer._gradients.rows.values():
            storages = {g.to_local().untyped_storage() for g in gradients.values()}
            found.append(sum(storage.nbytes() for storage in storages))
        with Largest() as largest:
            operate(**options)
        found.append(largest.nbytes)

    optimizer._operate = operated
    with Largest() as largest:
        optimizer.backward([lambda k=k: (module(x) - k).square().mean() for k in range(2)])
    return row, found, largest.nbytes


def test_no_rank_ever_holds_a_whole_row(ranks):
    world = 4
    for row, found, largest in ranks.run(held, world):
        *rows, surgery = found
        assert rows == [row // world] * 2
        assert surgery <= rows[0]  # written in place, into what its reduce-scatter has made
        assert row / 10 < largest < row / 7  # one of the eight blocks, for its own forward and backward


def in_half_precision(rank, world):
    """Returns the gradient under a policy, the rows that FSDP2 itself makes under it, and their Gramian."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    module = joined.fsdp(mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32)).float()
    data = joined.part_of(rank, world)
    tasks = joined.tasks(lambda x, k: module(x.float(), k).double(), data, 0)
    rows = []
    for task in tasks.values():
        module.zero_grad()
        task().backward()
        rows.append(
            torch.cat([g.flatten() for g in joined.whole([p.grad for p in module.trunk.parameters()])])
        )
    module.zero_grad()
    optimizer = pcgrad(module)
    optimizer.backward(tasks)
    found = torch.cat([g.flatten() for g in joined.whole([p.grad for p in module.trunk.parameters()])])
    return found, torch.stack(rows), optimizer.conflicts.gramian


def test_a_mixed_precision_policy(ranks):
    for found, rows, gramian in ranks.run(in_half_precision, 2):
        order = random_order(joined.T, torch.Generator().manual_seed(5)).tolist()
        assert found.dtype == rows.dtype == torch.float32
        torch.testing.assert_close(found, algorithm1(rows, order).float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gramian, rows.double() @ rows.double().T, rtol=1e-5, atol=1e-6)


class Parallel(nn.Module):
    """What tensor parallel divides: an embedding, a norm, two linear layers; and a plain scale."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.words = nn.Embedding(12, 4).double()
        self.norm = nn.LayerNorm(4).double()
        self.up = nn.Linear(4, 8).double()
        self.down = nn.Linear(8, 4).double()
        self.scale = nn.Parameter(torch.ones(4).double())

    def forward(self, words):
        return self.down(torch.tanh(self.up(self.norm(self.words(words))))) * self.scale


def words_of(step, k, rank=0, world=1):
    generator = torch.Generator().manual_seed(100 * step + k)
    words = torch.randint(12, (4, 6), generator=generator)
    y = 3 * torch.randn(4, 6, 4, generator=generator).double()
    return words.chunk(world)[rank], y.chunk(world)[rank]


def train_parallel(module, rank=0, world=1, seed=5):
    """Trains on the part of a data parallel rank."""
    optimizer = pcgrad(module, seed, breakdown={"embedding": [module.words.weight]})
    for step in range(joined.STEPS):
        optimizer.zero_grad()
        data = [words_of(step, k, rank, world) for k in range(joined.T)]
        optimizer.backward([lambda x=x, y=y: nn.functional.mse_loss(module(x), y) for x, y in data])
        optimizer.step()
    gramians = [part.gramian for part in optimizer.conflicts.parts.values()]
    return joined.whole([*module.parameters(), *gramians])


def tensor_parallel(rank, world):
    """Returns what tensor parallel by 2 trains, alone on 2 ranks and under FSDP2 on 4."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    mesh = dist.init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    plan = {
        "words": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(),
    }
    module = parallelize_module(Parallel(), mesh["tensor"], plan)
    if world > 2:
        fully_shard(module, mesh=mesh["data"], ignored_params={module.scale})
    return train_parallel(module, mesh["data"].get_local_rank(), world // 2, seed_of(rank))


@pytest.mark.parametrize("world", WORLDS)
def test_tensor_parallel_alone_and_under_fully_shard(ranks, world):
    check(ranks.run(tensor_parallel, world), train_parallel(Parallel()))


def linear_problem():
    """Returns a weight (4, 3), inputs (8, 4), and factors of the outputs for each task, (T, 8, 3)."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator).double() for shape in [(4, 3), (8, 4), (joined.T, 8, 3)]]


def placed(rank, world):
    """Returns the gradient of a DTensor weight, placed in three ways, and the Gramian, for sharded inputs."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = dist.init_device_mesh("cpu", (world,))
    weight, x, factors = linear_problem()
    x, *factors = (distribute_tensor(t, mesh, [Shard(0)]) for t in (x, *factors))
    results = []
    for placement in (Replicate(), Shard(0), Shard(1)):
        w = nn.Parameter(distribute_tensor(weight, mesh, [placement]))
        optimizer = PCGrad(torch.optim.SGD([w], lr=0.1))
        optimizer.backward([lambda w=w, f=f: (x @ w * f).sum() for f in factors])
        assert w.grad.placements == w.placements
        results += joined.whole([w.grad, optimizer.conflicts.gramian])
    return results


@pytest.mark.parametrize("world", [2, 3])
def test_dtensors_replicated_and_sharded_unevenly(ranks, world):
    weight, x, factors = linear_problem()
    w = nn.Parameter(weight)
    optimizer = PCGrad(torch.optim.SGD([w], lr=1.0))
    optimizer.backward([(x @ w * f).sum() for f in factors])
    check(ranks.run(placed, world), [w.grad, optimizer.conflicts.gramian] * 3)
    assert optimizer.conflicts.conflict_rate > 0


def misuses(rank, world):
    """Returns by misuse its error."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor, Partial

    data, found = joined.part_of(rank, world), {}
    for name, turn_off in [
        ("held back", lambda module: module.set_requires_gradient_sync(False)),
        ("held back in part", lambda module: module.trunk.set_requires_gradient_sync(False)),
        ("not all-reduced", lambda module: module.set_requires_all_reduce(False)),
    ]:
        module = joined.hsdp(world)
        optimizer = pcgrad(module)
        turn_off(module)
        losses = {name: task() for name, task in joined.tasks(module, data, 0).items()}
        found[name] = refused(lambda: optimizer.backward(losses, accumulate=True))  # noqa: B023

    mesh = dist.init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("pipeline", "data"))
    module = joined.fsdp(mesh=mesh["data"])
    optimizer = pcgrad(module)
    found["other mesh"] = refused(lambda: optimizer.backward(joined.tasks(module, data, 0)))
    optimizer = pcgrad(module, process_group=mesh["data"].get_group())
    found["its group"] = refused(lambda: optimizer.backward(joined.tasks(module, data, 0)))

    whole = joined.fsdp()
    found["diagnosis"] = refused(lambda: diagnose(joined.tasks(whole, data, 0), whole.trunk.parameters()))

    mesh = dist.init_device_mesh("cpu", (world,))
    weight = nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Partial()]))
    optimizer = PCGrad(torch.optim.SGD([weight], lr=0.1))
    found["partial"] = refused(lambda: optimizer.backward([weight.sum(), weight.sum()]))

    for original in (False, True):
        module = FullyShardedDataParallel(
            joined.Model(), use_orig_params=original, device_id=torch.device("cpu")
        )
        found[f"fsdp1 {original}"] = refused(lambda: pcgrad(module))  # noqa: B023
    return found


@pytest.fixture(scope="module")
def errors(ranks):
    return ranks.run(misuses, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("held back", r"set_requires_gradient_sync\(False\).*: set it to True, and accumulate with backward"),
        ("held back in part", r"set_requires_gradient_sync\(False\).*: set it to True"),
        ("not all-reduced", r"set_requires_all_reduce\(False\)"),
        (
            "other mesh",
            r"got 4 ranks and a DTensor on a mesh of 2: put all parameters on .*=mesh.get_group\(\)",
        ),
        ("diagnosis", "must be whole, got some of fully_shard, .*: do this before fully_shard"),
        ("partial", r"to Partial is for internal use only|Can not redistribute from R to P\("),  # torch's own
        ("fsdp1 False", "got flattened ones of FullyShardedDataParallel: .*fully_shard"),
        ("fsdp1 True", "got flattened ones of FullyShardedDataParallel: .*fully_shard"),
    ],
)
def test_what_cannot_be_right_is_refused_on_each_rank(errors, name, message):
    for found in errors:
        assert found[name]
        assert re.search(message, found[name]), found[name]


def test_what_is_held_back_is_refused_where_a_module_has_one_group(monkeypatch):
    """As in torch 2.4, whose modules of fully_shard have no list of groups; another module's has none."""
    weight, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    group = SimpleNamespace(
        reduce_grads=False, all_reduce_grads=True, fsdp_params=[SimpleNamespace(sharded_param=weight)]
    )
    states = [SimpleNamespace(_fsdp_param_group=group), SimpleNamespace(_fsdp_param_group=None)]
    old = SimpleNamespace(_module_state_mapping=dict(enumerate([*states, SimpleNamespace()])))
    monkeypatch.setitem(sys.modules, "torch.distributed._composable_state", old)
    sharding.refuse_held_back([other])
    with pytest.raises(ValueError, match=r"set_requires_gradient_sync\(False\)"):
        sharding.refuse_held_back([weight])


def test_the_group_of_a_mesh_within_the_world_will_do(errors):
    assert [found["its group"] for found in errors] == [None] * 4
