"""A forward that is called again and again, and moves the buffers of its modules once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

P = ParamSpec("P")
Y_co = TypeVar("Y_co", covariant=True)


class Forward(Generic[P, Y_co]):
    """A function that is called once as ever, and then :meth:`again` with buffers as they were before.

    Buffers are batch norm's running statistics and the like. What is called again works on copies, since
    autograd may need what it has written there: to put the former values back into the same memory would
    change its gradient.

    Args:
        function: What is called. Of one with ``modules()``, such as a module, of a bound method of one, and
            of a ``functools.partial`` of these the modules are known. Those of any other callable are found
            by a hook on all modules, call by call; a module compiled in place by ``Module.compile()`` runs no
            such hook.
    """

    def __init__(self, function: Callable[P, Y_co]) -> None:
        self.function = function
        self._known = _modules(function)
        self._noted: dict[nn.Module, dict[str, Tensor]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Y_co:
        """Calls the function, and notes what its buffers are before."""

        def note(module: nn.Module) -> None:
            if module not in self._noted:
                self._noted[module] = {k: b.detach().clone() for k, b in _own(module).items()}

        with self._visited(note, lambda: None):
            return self.function(*args, **kwargs)

    def again(self, *args: P.args, **kwargs: P.kwargs) -> Y_co:
        """Calls the function with buffers as noted, or else as they are, and leaves them as they are.

        They are the same tensors of the same values afterwards.
        """
        lent: dict[nn.Module, dict[str, tuple[Tensor, Tensor]]] = {}

        def lend(module: nn.Module) -> None:
            if module in lent:
                return
            noted = self._noted.get(module, {})
            lent[module] = {k: (b, b.detach().clone()) for k, b in _own(module).items()}
            for name, (_, value) in lent[module].items():
                module._buffers[name] = noted.get(name, value).clone()

        def give_back() -> None:
            for module, buffers in lent.items():
                for name, (buffer, value) in buffers.items():
                    # What holds the tensor by itself, as DistributedDataParallel, may have written to it; and
                    # autograd may hold it, too, and would take a visible write for an error.
                    buffer.data.copy_(value)
                    module._buffers[name] = buffer
            lent.clear()

        with self._visited(lend, give_back):
            return self.function(*args, **kwargs)

    @contextmanager
    def _visited(self, visit: Callable[[nn.Module], None], leave: Callable[[], None]) -> Iterator[None]:
        """Visits each module before it is called in the block; leaves them after the outermost call."""
        if self._known is not None:
            for module in self._known:
                visit(module)
            try:
                yield
            finally:
                leave()
            return
        thread, depth = threading.get_ident(), 0

        def is_elsewhere() -> bool:
            return torch.compiler.is_compiling() or threading.get_ident() != thread

        def enter(module: nn.Module, _: object) -> None:
            nonlocal depth
            if is_elsewhere():
                return
            depth += 1
            for part in module.modules():
                visit(part)

        def exit(_: nn.Module, __: object, ___: object) -> None:
            nonlocal depth
            if is_elsewhere():
                return
            depth -= 1
            if not depth:  # before functional_call() takes its own buffers out again
                leave()

        hooks = (
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(exit, always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            leave()


def _modules(forward: object) -> list[nn.Module] | None:
    """Returns the modules that belong to what is called, None where they cannot be known."""
    if isinstance(forward, partial):
        return _modules(forward.func)
    for each in (forward, getattr(forward, "__self__", None)):
        if callable(modules := getattr(each, "modules", None)):
            return list(modules())
    return None


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
