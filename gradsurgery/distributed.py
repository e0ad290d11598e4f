"""More than one process: rows averaged over the ranks, and ranks that cannot drift apart unnoticed.

The rows of replicated parameters (``DistributedDataParallel``, or the same module on every rank without it)
are averaged before the Gramian, because the surgery is not linear: the average of the ranks' surgeries is
another vector. The messages of a task are under way while the next task is differentiated. For parameters
that are divided among the ranks see :mod:`gradsurgery.sharding`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BUCKET = 2**22
"""Elements of small tensors averaged in one message."""
ALONE = 2**18
"""Elements of a tensor from which on it is averaged where it is, in a message of its own."""
_BITS = 2**55 - 1  # of a digest: its negative is an int64, too


def is_on() -> bool:
    """Returns whether this process is a rank, be it the only one."""
    return dist.is_available() and dist.is_initialized()


def ranks(group: "ProcessGroup | None") -> int:
    """Returns the number of ranks in the group (default: all), 1 without ``torch.distributed``."""
    return dist.get_world_size(group) if is_on() else 1


def members(group: "ProcessGroup | None") -> list[int]:
    """Returns the ranks of the group (default: all), as the world counts them."""
    return dist.get_process_group_ranks(group or dist.group.WORLD) if is_on() else [0]


def add_up(matrices: Sequence[Tensor], group: "ProcessGroup | None") -> list[Tensor]:
    """Returns the sum over the ranks of each of some matrices ``(T, T)``, in one message."""
    message = torch.stack(list(matrices))
    dist.all_reduce(message, group=group)
    return list(message)


class Means:
    """Flat tensors on their way to their means over the ranks."""

    def __init__(self, group: "ProcessGroup | None") -> None:
        self._group = group
        self._under_way: list[tuple[Any, Tensor, list[Tensor]]] = []

    def begin(self, tensors: Sequence[Tensor]) -> None:
        """Sends the tensors, which are not to be touched until :meth:`finish`."""
        share = ranks(self._group)
        for bucket in _buckets(tensors):
            message = bucket[0] if len(bucket) == 1 else torch.cat(bucket)
            # Divided first: a sum could overflow float16.
            work = dist.all_reduce(message.div_(share), group=self._group, async_op=True)
            self._under_way.append((work, message, bucket))

    def finish(self) -> None:
        """Waits, after which each tensor holds its mean."""
        for work, message, bucket in self._under_way:
            work.wait()
            if len(bucket) > 1:
                torch._foreach_copy_(bucket, list(message.split_with_sizes([t.numel() for t in bucket])))
        self._under_way = []


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Divides tensors by messages: large ones by themselves, small ones together, of one device and dtype."""
    filled: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() >= ALONE:
            yield [tensor]
            continue
        bucket = filled.setdefault((tensor.device, tensor.dtype), [])
        if sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield list(bucket)
            bucket.clear()
        bucket.append(tensor)
    yield from (bucket for bucket in filled.values() if bucket)


def anywhere(flags: Sequence[bool], device: torch.device, group: "ProcessGroup | None") -> list[bool]:
    """Returns for each flag whether it holds on any rank."""
    message = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(message, op=dist.ReduceOp.MAX, group=group)
    return [bool(flag) for flag in message.tolist()]


class Comparison:
    """A message that tells whether each of some numbers is the same on every rank."""

    def __init__(self, numbers: Sequence[int], device: torch.device, group: "ProcessGroup | None") -> None:
        self._message = torch.tensor([[n, -n] for n in numbers], dtype=torch.int64, device=device)
        self._work = dist.all_reduce(self._message, op=dist.ReduceOp.MAX, group=group, async_op=True)

    def same(self) -> list[bool]:
        """Waits, and returns for each number whether the ranks agree on it."""
        self._work.wait()
        return [highest == -lowest for highest, lowest in self._message.tolist()]


def digest(value: object) -> int:
    """Returns a number that other values do not have, below 2⁵⁵."""
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:8], "big") & _BITS


def checksum(tensors: Sequence[Tensor]) -> int:
    """Returns a number that tells tensors of other bits, each read once, below 2⁵⁵."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = []
    for tensor in tensors:
        real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        sums.append(real.view(integers[real.element_size()]).sum(dtype=torch.int64))  # modulo 2⁶⁴
    return digest([int(total) for total in sums])


def share_generator(generator: torch.Generator, group: "ProcessGroup | None") -> None:
    """Puts the generator of every rank into the state of the first rank's."""
    states = [generator.get_state()]
    dist.broadcast_object_list(states, src=dist.get_global_rank(group, 0) if group else 0, group=group)
    generator.set_state(states[0])
