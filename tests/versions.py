"""What the installed torch can do by itself, for tests of what the oldest promised torch lacks."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
HAS_FULLY_SHARD = TORCH >= (2, 6)
needs_fully_shard = pytest.mark.skipif(not HAS_FULLY_SHARD, reason="fully_shard is public since torch 2.6")


def adagrad_takes_a_group_later():
    """Adagrad of torch 2.4 makes all its state when it is made: a KeyError for a group that comes later."""
    first, second = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.Adagrad([first])
    optimizer.add_param_group({"params": [second]})
    second.grad = torch.ones(1)
    try:
        optimizer.step()
    except KeyError:
        return False
    return True


def ddp_runs_batch_norm_twice():
    """DDP of torch 2.4 broadcasts running statistics into those that the first forward's backward needs."""
    return "_unsafe_preserve_version_counter" in inspect.getsource(DistributedDataParallel._sync_buffers)
