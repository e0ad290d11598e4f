"""Parameters whose elements are divided among the ranks: ``DTensor``, as ``fully_shard`` makes them.

Autograd leaves the gradient of each task on the ranks as its parameter lies there, averaged over them. It
stays there: a rank multiplies and adds up its own part of the rows.
"""

import sys
from collections.abc import Iterable

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
            f" on a mesh of {mesh.size()}: pass process_group=mesh.get_group(), or of a mesh with several"
            " dimensions dist.new_group(mesh.mesh.flatten().tolist())"
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

    It would add up those of different tasks, unsharded. Its modules are found where torch keeps their state.
    """
    composable = sys.modules.get("torch.distributed._composable_state")
    references = list(getattr(composable, "_module_state_mapping", {}).values())
    own = set(parameters) if references else set()
    for reference in references:
        state = reference() if callable(reference) else reference
        for group in getattr(state, "_fsdp_param_groups", ()):
            held_back = not (group.reduce_grads and group.all_reduce_grads)
            if held_back and any(p.sharded_param in own for p in group.fsdp_params):
                raise ValueError(
                    "fully_shard must reduce the gradient of each task by itself, got a module with"
                    " set_requires_gradient_sync(False) or set_requires_all_reduce(False): set it to True,"
                    " and accumulate with backward(losses, accumulate=True)"
                )
