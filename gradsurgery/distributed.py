"""More than one process: rows averaged over the ranks, Gramians of sharded rows, one random order for all.

Replicated parameters (``DistributedDataParallel``, or the same module on every rank without it): each rank
takes the rows of its own batch, and the rows are averaged before the Gramian, because the surgery is not
linear: the average of the ranks' surgeries is another vector. Sharded parameters (``DTensor``, as
``fully_shard`` makes them): autograd has averaged and scattered them, so that the ranks' inner products are
added up, T² numbers in one message.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BUCKET = 2**22
"""Elements averaged in one message."""


def ranks(group: "ProcessGroup | None") -> int:
    """Returns the number of ranks in the group (default: all), 1 without ``torch.distributed``."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether this is a ``DTensor``, told by its attributes: importing the class is slow."""
    if type(tensor) is Tensor or type(tensor) is nn.Parameter:
        return False  # at once: to look for an attribute that is not there takes long
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """Returns this rank's part of a ``DTensor``, sharing its memory, and any other tensor itself."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def as_placed(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Returns the gradient placed on the ranks as its parameter is: a partial sum is added up."""
    if is_sharded(gradient) and gradient.placements != parameter.placements:  # type: ignore[attr-defined]
        placed: Tensor = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
        return placed
    return gradient


def refuse_flattened(parameters: Iterable[Tensor]) -> None:
    """Raises a ValueError for parameters of ``FullyShardedDataParallel``, whose hooks own ``.grad``."""
    if any(getattr(p, "_fsdp_flattened", False) or hasattr(p, "_is_flat_param") for p in parameters):
        raise ValueError(
            "optimizer must hold whole or DTensor parameters, got flattened ones of FullyShardedDataParallel:"
            " shard the module with torch.distributed.fsdp.fully_shard instead"
        )


def by_shard_groups(parameters: Sequence[Tensor]) -> dict[tuple[Any, ...], list[Tensor]]:
    """Returns the parameters by the process groups over which their elements are divided."""
    members: dict[tuple[Any, ...], list[Tensor]] = {}
    for parameter in parameters:
        groups: tuple[Any, ...] = ()
        if is_sharded(parameter):
            mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
            groups = tuple(mesh.get_group(k) for k, p in enumerate(placements) if not p.is_replicate())
        members.setdefault(groups, []).append(parameter)
    return members


def sum_over(matrix: Tensor, groups: Iterable[Any]) -> Tensor:
    """Returns the sum of a matrix over the ranks of the groups."""
    for group in groups:
        dist.all_reduce(matrix, group=group)
    return matrix


def average(tensors: Sequence[Tensor], group: "ProcessGroup | None") -> None:
    """Replaces each flat tensor by its mean over the ranks, in messages of about BUCKET elements."""
    buckets: dict[tuple[torch.device, torch.dtype], list[list[Tensor]]] = {}
    for tensor in tensors:
        filled = buckets.setdefault((tensor.device, tensor.dtype), [[]])
        if sum(t.numel() for t in filled[-1]) + tensor.numel() > BUCKET and filled[-1]:
            filled.append([])
        filled[-1].append(tensor)
    for bucket in (b for filled in buckets.values() for b in filled):
        message = bucket[0] if len(bucket) == 1 else torch.cat(bucket)
        dist.all_reduce(message.div_(ranks(group)), group=group)  # divided first: a sum could overflow fp16
        if len(bucket) > 1:
            torch._foreach_copy_(bucket, list(message.split_with_sizes([t.numel() for t in bucket])))


def agree(
    names: Sequence[str], reached: Sequence[bool], *, device: torch.device, group: "ProcessGroup | None"
) -> list[bool]:
    """Returns for each entry whether it holds on any rank.

    Raises:
        ValueError: If the ranks' tasks are not the same, in the same order.
    """
    digest = int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:7], "big")
    message = torch.tensor([digest, -digest, *reached], dtype=torch.int64, device=device)
    dist.all_reduce(message, op=dist.ReduceOp.MAX, group=group)
    highest, lowest, *anywhere = message.tolist()
    if highest != -lowest:
        raise ValueError(
            f"losses must name the same tasks in the same order on every rank, got {list(names)} on rank"
            f" {dist.get_rank(group)}: build the mapping alike on all ranks"
        )
    return [bool(entry) for entry in anywhere]


def share_generator(generator: torch.Generator, group: "ProcessGroup | None") -> None:
    """Puts the generator of every rank into the state of the first rank's."""
    states = [generator.get_state()]
    dist.broadcast_object_list(states, src=dist.get_global_rank(group, 0) if group else 0, group=group)
    generator.set_state(states[0])


@contextmanager
def unsynchronized() -> Iterator[None]:
    """Keeps ``DistributedDataParallel`` modules called inside the block from averaging gradients themselves.

    Their reducer expects one backward a forward that reaches every parameter, and would mix up the rows of
    tasks. It is switched off as ``no_sync`` does it, at each forward, since a task is any callable.
    """
    if ranks(None) == 1:
        yield
        return
    synchronized: dict[nn.parallel.DistributedDataParallel, bool] = {}

    def switch_off(module: nn.Module, _: object) -> None:
        if isinstance(module, nn.parallel.DistributedDataParallel):
            synchronized[module] = synchronized.get(module, False) or module.require_backward_grad_sync
            module.require_backward_grad_sync = False

    handle = nn.modules.module.register_module_forward_pre_hook(switch_off)
    try:
        yield
    finally:
        handle.remove()
        for module, flag in synchronized.items():
            module.require_backward_grad_sync = flag
