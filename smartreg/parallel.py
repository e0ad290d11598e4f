"""Keeps data-parallel modules from exchanging gradients in passes that are not the last of a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def no_sync(forward: object) -> Iterator[None]:
    """Keeps data-parallel modules that are called inside the block from averaging gradients over their ranks.

    Gradients of the block's backwards stay where they are until the next backward that averages:
    ``DistributedDataParallel`` keeps them in ``.grad``, modules of ``fully_shard`` unsharded.

    Args:
        forward: What is called. One with ``no_sync()``, such as a data-parallel module, does it itself; one
            with ``modules()`` names its modules; those of any other callable are found when they are called.
    """
    if callable(own := getattr(forward, "no_sync", None)):
        with own():
            yield
        return
    if not (dist.is_available() and dist.is_initialized()):
        yield
        return
    restore: dict[nn.Module, Callable[[], None]] = {}

    def switch_off(module: nn.Module, _: object = None) -> None:
        if module not in restore and not torch.compiler.is_compiling():
            if hasattr(module, "require_backward_grad_sync"):
                restore[module] = _switch_off_replicated(module)
            elif hasattr(module, "set_requires_gradient_sync"):
                restore[module] = _switch_off_sharded(module)

    handle = None
    if callable(modules := getattr(forward, "modules", None)):
        for module in modules():
            switch_off(module)
    else:
        handle = register_module_forward_pre_hook(switch_off)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
        for put_back in restore.values():
            put_back()


def _switch_off_replicated(module: Any) -> Callable[[], None]:
    """Switches a ``DistributedDataParallel`` off and returns what puts it back."""
    flag = module.require_backward_grad_sync
    module.require_backward_grad_sync = False
    return lambda: setattr(module, "require_backward_grad_sync", flag)


def _switch_off_sharded(module: Any) -> Callable[[], None]:
    """Switches a module of ``fully_shard`` off and returns what puts it back."""
    state = module._get_fsdp_state()  # the flags can be set, but only be read here
    groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
    flags = [(group, group.reduce_grads, group.all_reduce_grads) for group in groups if group is not None]
    module.set_requires_gradient_sync(False, recurse=False)

    def put_back() -> None:
        for group, reduces, reduces_all in flags:
            group.reduce_grads, group.all_reduce_grads = reduces, reduces_all

    return put_back
