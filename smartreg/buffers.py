"""Keeps the buffers of modules as they were."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def preserved_buffers(forward: object = None) -> Iterator[None]:
    """Undoes what the forwards inside the block do to buffers, such as batch norm's running statistics.

    Args:
        forward: What is called. One with ``modules()``, such as a module, names its modules itself. Those of
            any other callable are known only once they are called, which a hook on all modules sees; a module
            compiled in place by ``Module.compile()`` runs no such hook.
    """
    saved: dict[nn.Module, dict[str, tuple[Tensor, Tensor]]] = {}
    thread = threading.get_ident()

    def save(module: nn.Module) -> None:
        if module not in saved:
            saved[module] = {k: (b, b.detach().clone()) for k, b in module._buffers.items() if b is not None}

    def hook(module: nn.Module, _: object) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != thread or module in saved:
            return
        for part in module.modules():
            save(part)

    handle = None
    if callable(modules := getattr(forward, "modules", None)):
        for module in modules():
            save(module)
    else:
        handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
        for module, buffers in saved.items():
            for name, (buffer, value) in buffers.items():
                # Through .data: autograd may hold the buffer and would take a visible write for an error.
                buffer.data.copy_(value)
                module._buffers[name] = buffer
