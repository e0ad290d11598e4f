"""Keeps the buffers of every module as they were, whoever calls it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def preserved_buffers() -> Iterator[None]:
    """Undoes what the forwards inside the block do to buffers, such as batch norm's running statistics.

    A forward is any callable, so the modules that it runs are known only once they are called.
    """
    saved: dict[nn.Module, dict[str, tuple[Tensor, Tensor]]] = {}
    thread = threading.get_ident()

    def save(module: nn.Module, _: object) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() != thread or module in saved:
            return
        for part in module.modules():
            if part not in saved:
                saved[part] = {k: (b, b.detach().clone()) for k, b in part._buffers.items() if b is not None}

    handle = register_module_forward_pre_hook(save)
    try:
        yield
    finally:
        handle.remove()
        for module, buffers in saved.items():
            for name, (buffer, value) in buffers.items():
                # Through .data: autograd may hold the buffer and would take a visible write for an error.
                buffer.data.copy_(value)
                module._buffers[name] = buffer
