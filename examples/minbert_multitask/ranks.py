"""Several processes for one run, as torchrun starts them: who writes, what is averaged, who was lost.

torchrun tells each process its rank and the number of ranks by environment variables. Every rank holds the
model and all the data and takes its rows of each batch (see ``shares.py``); the first rank writes. In one
process every function here does nothing.
"""

import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.optim import Optimizer

T = TypeVar("T")
_GRACE = 5.0
"""Seconds in which the ranks that are alive say why they stop."""


def world() -> int:
    """Returns the number of ranks."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Returns this process's rank."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if world() > 1 else 0


def is_first() -> bool:
    """Returns whether this is the rank that writes and prints."""
    return rank() == 0


def restarted() -> bool:
    """Returns whether torchrun has started the ranks again after one was lost."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def group(*, timeout: float) -> Iterator[None]:
    """Joins the ranks inside the block.

    Args:
        timeout: Seconds after which a rank that does not answer is given up.

    Raises:
        ValueError: If the timeout is not positive.
        ConnectionError: If a rank is lost, or stops for a reason of its own; the message names it.
    """
    if not 0 < timeout < math.inf:
        raise ValueError(f"rank-timeout must be a positive number of seconds, got {timeout:g}")
    if world() == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    previous = signal.signal(signal.SIGTERM, _stop)  # by which torchrun ends the ranks that are left
    store: PrefixStore | None = None
    try:
        found, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
        # torchrun may keep the store, with what lost ranks have left there.
        store = PrefixStore(f"start{_restarts()}", found)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=rank(),
            world_size=world(),
            timeout=timedelta(seconds=timeout),
        )
        yield
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until the reason is told
        traceback.clear_frames(error.__traceback__)  # where a failed exchange would keep the connections open
        _leave()
        if isinstance(error, _Stopped) or (isinstance(error, RuntimeError) and _is_of_a_connection(error)):
            raise ConnectionError(_why(store, error)) from error
        _exchange_notes(store, " ".join(str(error).split()), seconds=0)
        raise
    except SystemExit:
        _exchange_notes(store, "", seconds=0)  # for the first, which refused something, and waits
        raise
    finally:
        _leave()
        signal.signal(signal.SIGTERM, previous)


def on_first(function: Callable[[], T]) -> T:
    """Calls a function on the first rank alone, and returns on every rank what it returned.

    Raises:
        ValueError: What the function raises, on the first rank; the others end without a word.
        OSError: Likewise.
    """
    if world() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = function()
        except (ValueError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1] if is_first() else SystemExit(2)
    result: T = outcome[0]
    return result


def mean(tensor: Tensor) -> Tensor:
    """Replaces a tensor by its mean over the ranks, and returns it."""
    if world() > 1:
        dist.all_reduce(tensor)
        tensor /= world()
    return tensor


def interleaved(mine: list[T]) -> list[T]:
    """Returns the items of all ranks, of which each has made every ``world()``-th, beginning with its own."""
    if world() == 1:
        return mine
    all_ranks: list[list[T]] = [[] for _ in range(world())]
    dist.all_gather_object(all_ranks, mine)
    total = sum(map(len, all_ranks))
    return [all_ranks[index % world()][index // world()] for index in range(total)]


def average_before_each_step(optimizer: Optimizer) -> None:
    """Lets an optimizer step with the mean of the ranks' gradients, which reach the same parameters.

    An optimizer of gradsurgery needs none of it: it averages each task's gradient before the surgery.
    """

    def average(*_: object) -> None:
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        message = mean(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = message.split_with_sizes([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    if world() > 1:
        optimizer.register_step_pre_hook(average)


class _Stopped(Exception):  # noqa: N818
    """The process was told to stop."""


def _stop(number: int, _: object) -> None:
    raise _Stopped(f"was told to stop by {signal.Signals(number).name}")


def _leave() -> None:
    """Closes the connections, by which ranks that wait for this one notice."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_of_a_connection(error: Exception) -> bool:
    """Returns whether the error tells of another rank, and not of this one's own computation."""
    words = ("gloo", "connection", "timed out")  # of gloo, torch raises plain RuntimeErrors
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _why(store: PrefixStore | None, error: Exception) -> str:
    """Returns one sentence on why this rank stops: which ranks have ended, and for what reason."""
    if isinstance(error, _Stopped):
        notes = _exchange_notes(store, str(error), seconds=0)
        silent: set[int] = set()
    else:
        notes = _exchange_notes(store, "", seconds=_GRACE)
        silent = set(range(world())) - notes.keys() if notes else {0} - {rank()}  # who may hold the store
    found = [f"rank {other} was killed or does not answer" for other in sorted(silent)]
    found += [
        f"rank {other} stopped: {why}" for other, why in sorted(notes.items()) if why and other != rank()
    ]
    if isinstance(error, _Stopped):
        found = [f"it {error}", *found]
    found = found or ["the connection was lost" if store else "not every rank has joined"]
    what = (
        "" if isinstance(error, _Stopped) else re.sub(r"\[[^]]*\] ?|\. This is typically.*", "", str(error))
    )
    return (
        f"rank {rank()} of {world()} stops, for {' and '.join(found)}{what and f' ({what})'};"
        " the same command with --resume goes on from the last checkpoint"
    )


def _exchange_notes(store: PrefixStore | None, mine: str, *, seconds: float) -> dict[int, str]:
    """Leaves word why this rank stops, "" where it is because of another, and returns what all have left."""
    notes: dict[int, str] = {}
    # Where no torchrun keeps the store it ends with the first rank, which lets the others read first.
    keeps_it = is_first() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if keeps_it:
        seconds = _GRACE

    def exchange() -> None:
        assert store is not None
        store.set(f"stopped/{rank()}", mine)
        _look_for(store, "stopped", set(range(world())), notes, seconds=seconds)
        store.set(f"read/{rank()}", "")
        if keeps_it:
            _look_for(store, "read", set(notes), {}, seconds=_GRACE)

    def attempt() -> None:
        with suppress(RuntimeError, AssertionError):
            exchange()

    with _quiet():  # torch prints its own stack where the store is gone with the rank that held it
        thread = threading.Thread(target=attempt, daemon=True)  # which hangs where that rank does
        thread.start()
        thread.join(seconds + (_GRACE if keeps_it else 0) + 1)
    return notes


def _look_for(
    store: PrefixStore, key: str, authors: set[int], found: dict[int, str], *, seconds: float
) -> None:
    """Gathers into ``found`` what these ranks write under the key, until all have or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        for author in authors - found.keys():
            if store.check([f"{key}/{author}"]):
                found[author] = store.get(f"{key}/{author}").decode()
        if found.keys() >= authors or time.monotonic() > deadline:
            return
        time.sleep(0.05)


@contextmanager
def _quiet() -> Iterator[None]:
    """Sends what is written to the standard error, by libraries too, nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
