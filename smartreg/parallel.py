"""Keeps data-parallel modules from exchanging gradients in passes that are not the last of a step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .hooks import hooked

_FLAGS = ("require_backward_grad_sync", "require_forward_param_sync")


@contextmanager
def no_sync(forward: object) -> Iterator[None]:
    """Keeps data-parallel modules that are called inside the block from averaging gradients over their ranks.

    Gradients of the block's backwards stay where they are until the next backward that averages:
    ``DistributedDataParallel`` keeps them in ``.grad``, modules of ``fully_shard`` unsharded.

    Args:
        forward: What is called. One with ``no_sync()``, such as a trainer's, does it itself; one with
            ``modules()`` names its modules; those of any other callable are found when they are called.
    """
    is_replicated = hasattr(forward, "require_backward_grad_sync")
    if not is_replicated and callable(own := getattr(forward, "no_sync", None)):
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

    hooks: AbstractContextManager[None] = nullcontext()
    if callable(modules := getattr(forward, "modules", None)):
        for module in modules():
            switch_off(module)
    else:
        hooks = hooked(switch_off)
    try:
        with hooks:
            yield
    finally:
        for put_back in restore.values():
            put_back()


def _switch_off_replicated(module: Any) -> Callable[[], None]:
    """Switches a ``DistributedDataParallel`` off and returns what puts it back.

    A forward without averaging takes the next one's broadcast of buffers back, too, which is put back.
    """
    flags = {name: getattr(module, name, True) for name in _FLAGS}
    module.require_backward_grad_sync = False

    def put_back() -> None:
        for name, flag in flags.items():
            setattr(module, name, flag)

    return put_back


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
