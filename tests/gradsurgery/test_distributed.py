"""Two ranks, each with half of every batch, against one process with the whole; in float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from gradsurgery import PCGrad, distributed
from tests.gradsurgery import ranks

WORLD = 2

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By rank, what each scenario of ranks.py left there."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(ranks.__file__))]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(WORLD), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(WORLD)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD)]


def check(results, name, expected):
    for rank in range(WORLD):
        for mine, right in zip(results[rank][name], expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


SAME_TRAINING = [
    *["ddp callables", "ddp bucket views callables", "ddp tensors", "ddp unused tensors"],
    *["one head callables", "one head tensors", "replicas callables"],
    *["fsdp callables", "fsdp tensors", "hsdp callables", "ddp accumulate", "fsdp accumulate"],
    *["ddp gse recompute", "fsdp gse recompute", "ddp gse reuse"],
]


@pytest.mark.parametrize("name", SAME_TRAINING)
def test_ranks_train_as_one_process_on_the_joined_batch(results, name):
    module = ranks.OneHead() if name.startswith("one head") else ranks.Model()
    if "gse" in name:
        optimizer = ranks.adam_gse(module, second_update=name.split()[-1])
    else:
        optimizer = ranks.pcgrad(module)
    expected = ranks.train(module, optimizer, ranks.batch, accumulate="accumulate" in name)
    check(results, name, expected)


def test_the_scenarios_can_tell_a_wrong_order_and_local_surgery():
    """What they train depends on the order, and on the surgery."""
    trained = []
    for seed in (5, 77):
        module = ranks.Model()
        trained.append(ranks.train(module, ranks.pcgrad(module, seed), ranks.batch)[0])
    module = ranks.Model()
    trained.append(ranks.train(module, ranks.pcgrad(module, scope="all"), ranks.batch)[0])
    module = ranks.Model()
    trained.append(ranks.train(module, ranks.pcgrad(module), lambda s, k: ranks.batch(s, k, 0, WORLD))[0])
    for i, a in enumerate(trained):
        assert not any(torch.allclose(a, b, rtol=1e-6) for b in trained[:i])


def test_a_callable_that_back_propagates_itself(results):
    module = ranks.Model()
    optimizer = ranks.pcgrad(module)
    optimizer.backward(ranks.own_backward(module, ranks.batch))
    check(results, "own backward", [p.grad for p in module.parameters()])


def test_dtensors_replicated_and_sharded(results):
    weight, x, factors = ranks.linear_problem()
    w = nn.Parameter(weight)
    optimizer = PCGrad(torch.optim.SGD([w], lr=1.0))
    optimizer.backward([(x @ w * f).sum() for f in factors])
    check(results, "dtensor", [w.grad, optimizer.conflicts.gramian] * 3)
    assert optimizer.conflicts.conflict_rate > 0


def test_a_parameter_reached_on_one_rank_only(results):
    module = ranks.Branching(0)
    optimizer = ranks.pcgrad(module)
    tasks = [lambda k=k: ranks.loss(module, ranks.batch(0, k), k) for k in range(2)]
    optimizer.backward([*tasks, lambda: ranks.branching_loss(module, 0, WORLD)])
    check(results, "branching", [p.grad for p in module.parameters()])


def test_other_tasks_on_another_rank_are_refused(results):
    for rank, names in enumerate((["a", "b"], ["b", "a"])):
        message = f"the same tasks in the same order on every rank, got {names} on rank {rank}"
        assert message in results[rank]["other tasks"]


def test_a_group_of_one_rank_averages_nothing(results):
    module = ranks.Model()
    expected = ranks.train(module, ranks.pcgrad(module), ranks.batch)
    for mine, right in zip(results[0]["alone"], expected, strict=True):
        assert torch.equal(mine, right)


def test_flattened_parameters_are_refused():
    layer = nn.Linear(2, 2)
    layer.weight._fsdp_flattened = True
    with pytest.raises(ValueError, match=r"got flattened ones of FullyShardedDataParallel: .*fully_shard"):
        PCGrad(torch.optim.SGD(layer.parameters(), lr=1.0))


def test_without_a_process_group_there_is_one_rank():
    assert distributed.ranks(None) == 1
    tensor = torch.ones(2)
    assert distributed.local(tensor) is tensor
    assert distributed.by_shard_groups([tensor]) == {(): [tensor]}
