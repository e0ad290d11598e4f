"""A forward that is called again and again, and moves the buffers of its modules once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

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
        self._seen: dict[nn.Module, None] = {}
        # By the identity of the tensor, which is held: what a buffer was before the first call.
        self._noted: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Y_co:
        """Calls the function, and notes what its buffers are before."""
        own: list[tuple[nn.Module, str, Tensor]] = []

        def note(module: nn.Module) -> None:
            self._seen[module] = None
            for name, b in _own(module).items():
                own.append((module, name, b))
                if id(b) not in self._noted:
                    self._noted[id(b)] = b, _copy(b)

        def leave() -> None:
            for module, name, b in own:
                now = _own(module).get(name)
                if now is not None and now is not b:  # replaced
                    self._noted.setdefault(id(now), (now, self._noted[id(b)][1]))
            own.clear()

        with self._visited(note, leave):
            return self.function(*args, **kwargs)

    def again(self, *args: P.args, **kwargs: P.kwargs) -> Y_co:
        """Calls the function with buffers as noted, or else as they are, and leaves them as they are.

        They are the same tensors of the same values afterwards.
        """
        with self._visited(*self._lending()):
            return self.function(*args, **kwargs)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lends in the block what has been called: a checkpoint calls it anew in a backward."""
        lend, give_back = self._lending()
        try:
            for module in self._seen if self._known is None else self._known:
                lend(module)
            yield
        finally:
            give_back()

    def _lending(self) -> tuple[Callable[[nn.Module], None], Callable[[], None]]:
        """Returns what lends a module copies of its buffers, and what gives all modules their own back.

        Lent again, a buffer goes on as what its copy has become. Buffers are told apart by identity, for one
        may have several names, and functional_call() puts others in their places.
        """
        values: dict[int, tuple[Tensor, Tensor]] = {}
        copies: dict[int, Tensor] = {}
        lent: dict[tuple[nn.Module, str], Tensor] = {}

        def lend(module: nn.Module) -> None:
            self._seen[module] = None
            for name, b in _own(module).items():
                if (module, name) in lent:
                    continue
                if id(b) not in values:
                    values[id(b)] = b, b.detach().clone()
                    copies[id(b)] = _copy(self._noted[id(b)][1] if id(b) in self._noted else b)
                lent[module, name] = b
                module._buffers[name] = copies[id(b)]

        def give_back() -> None:
            for (module, name), b in lent.items():
                now = _own(module).get(name)
                if now is not None:
                    copies[id(b)] = now  # where the next call in the same function goes on
                module._buffers[name] = b
                # What holds the tensor by itself may have written to it; and autograd may hold it, too, and
                # would take a visible write for an error.
                b.data.copy_(values[id(b)][1])
            lent.clear()

        return lend, give_back

    @contextmanager
    def _visited(self, visit: Callable[[nn.Module], None], leave: Callable[[], None]) -> Iterator[None]:
        """Visits each module before it is called in the block; leaves them after the outermost call."""
        if self._known is not None:
            try:
                for module in self._known:
                    visit(module)
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
    buffers = module._buffers.items()
    return {name: buffer for name, buffer in buffers if buffer is not None and not is_lazy(buffer)}


def _copy(buffer: Tensor) -> Tensor:
    """Returns a copy, attached to the graph of a buffer that has one, as of one given to functional_call."""
    return buffer.clone() if buffer.requires_grad else buffer.detach().clone()
