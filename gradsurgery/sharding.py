"""Parameters whose elements are divided among the ranks: ``DTensor``, as ``fully_shard`` makes them.

Autograd leaves the gradient of each task on the ranks as its parameter lies there, averaged over them. It
stays there: a rank multiplies and adds up its own part of the rows.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


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


def copies(parameter: Tensor, ranks: int) -> int:
    """Returns on how many of the ranks each element of the parameter is.

    Raises:
        ValueError: If it is divided among other ranks than these.
    """
    if not is_sharded(parameter):
        return ranks
    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    if mesh.size() != ranks:
        raise ValueError(
            f"process_group must be of the ranks that the parameters are on, got {ranks} ranks and a DTensor"
            f" on a mesh of {mesh.size()}: put all parameters on one mesh, by fully_shard over its data"
            " dimension and a tensor-parallel plan of all modules; or, if no other ranks hold replicas, pass"
            " process_group=mesh.get_group(), of a mesh with several dimensions"
            " dist.new_group(mesh.mesh.flatten().tolist())"
        )
    divided = [mesh.size(k) for k, placement in enumerate(placements) if not placement.is_replicate()]
    return int(ranks // torch.Size(divided).numel())


def refuse_flattened(parameters: Iterable[Tensor]) -> None:
    """Raises a ValueError for parameters of ``FullyShardedDataParallel``, whose hooks own ``.grad``."""
    if any(getattr(p, "_fsdp_flattened", False) or hasattr(p, "_is_flat_param") for p in parameters):
        raise ValueError(
            "optimizer must hold whole or DTensor parameters, got flattened ones of FullyShardedDataParallel:"
            " shard the module with torch.distributed.fsdp.fully_shard instead"
        )


def refuse_held_back(parameters: Iterable[Tensor]) -> None:
    """Raises a ValueError if ``fully_shard`` is told to add up gradients before it reduces them.

    It would add up those of different tasks, unsharded.
    """
    groups = list(_fully_sharded())
    own = set(parameters) if groups else set()
    for group in groups:
        held_back = not (group.reduce_grads and group.all_reduce_grads)
        if held_back and any(p.sharded_param in own for p in group.fsdp_params):
            raise ValueError(
                "fully_shard must reduce the gradient of each task by itself, got a module with"
                " set_requires_gradient_sync(False) or set_requires_all_reduce(False): set it to True,"
                " and accumulate with backward(losses, accumulate=True)"
            )


def refuse_fully_sharded(parameters: Iterable[Tensor]) -> None:
    """Raises a ValueError for parameters of ``fully_shard``, whose gradients ``autograd.grad`` misses."""
    groups = list(_fully_sharded())
    own = set(parameters) if groups else set()
    if any(p.sharded_param in own for group in groups for p in group.fsdp_params):
        raise ValueError(
            "parameters must be whole, got some of fully_shard, whose gradients a backward alone makes: do"
            " this before fully_shard"
        )


def _fully_sharded() -> Iterator[Any]:
    """Yields the groups of parameters of ``fully_shard``, found where torch keeps its modules' states."""
    composable = sys.modules.get("torch.distributed._composable_state")
    for reference in list(getattr(composable, "_module_state_mapping", {}).values()):
        state = reference() if callable(reference) else reference
        groups = getattr(state, "_fsdp_param_groups", None)
        if groups is None:  # an older torch, which has one group a module
            groups = [getattr(state, "_fsdp_param_group", None)]
        yield from (group for group in groups if group is not None)
