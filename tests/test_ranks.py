"""The ranks that other tests use: they meet, fail loudly, never hang, and outlive a failure."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.ranks import Ranks


def summed(rank, world, start):
    total = torch.tensor(float(start + rank))
    dist.all_reduce(total)
    return total, dist.get_world_size(), os.getpid()


def broken(rank, world):
    print(f"printed by {rank}")
    if rank == 1:
        raise ValueError("a fault of rank 1")
    dist.barrier()


def hanging(rank, world):
    if rank == 1:
        time.sleep(600)
    dist.barrier()


def killed(rank, world):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def test_the_ranks_of_a_call_meet_and_are_the_same_processes_as_before(ranks):
    pids = []
    for world in (2, 3, 1, 2):
        totals, sizes, processes = zip(*ranks.run(summed, world, 10), strict=True)
        assert [total.item() for total in totals] == [sum(range(10, 10 + world))] * world
        assert set(sizes) == {world}
        pids.append(processes)
    assert len(set(pids[1])) == 3
    assert pids[0] == pids[1][:2] == pids[3]


@pytest.mark.parametrize(
    ("function", "seconds", "shown"),
    [
        (broken, 60, ["rank 1 of 2 raised", "ValueError: a fault of rank 1", "log of rank 0\nprinted by 0"]),
        (hanging, 3, ["rank 1 of 2 ended with code 1", "Timeout (0:00:03)!", "in hanging"]),
        (killed, 60, ["rank 1 of 2 ended with code -9"]),
    ],
    ids=["broken", "hanging", "killed"],
)
def test_a_fault_of_a_rank_is_shown_and_the_next_call_has_new_ranks(tmp_path, function, seconds, shown):
    own = Ranks(tmp_path)
    with pytest.raises(AssertionError, match=rf"{function.__name__} failed") as failure:
        own.run(function, 2, seconds=seconds)
    for part in shown:
        assert part in str(failure.value)
    assert own.run(summed, 1, 7)[0][0] == 7
    own.stop()
