"""A forward that is called again and again, and moves the buffers of its modules once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .hooks import hooked
from .unchanged import version

P = ParamSpec("P")
Y_co = TypeVar("Y_co", covariant=True)
_LARGE = 2**20
"""Bytes of a buffer from which on copies are spared."""


class Forward(Generic[P, Y_co]):
    """A function that is called once as ever, and then :meth:`again` with its modules as they were before.

    They differ in buffers, batch norm's running statistics and the like, and in the attributes beside them,
    such as the length for which a buffer has been made. What is called again works on copies, since autograd
    may need what it has written there: to put the former values back into the same memory would change its
    gradient. A large buffer that a call has left as it was, such as a frozen weight, is not copied again.

    Args:
        function: What is called. Of one with ``modules()``, such as a module, of a bound method of one, and
            of a ``functools.partial`` of these the modules are known. Those of any other callable are found
            by a hook on all modules, call by call; a module compiled in place by ``Module.compile()`` runs no
            such hook.
    """

    def __init__(self, function: Callable[P, Y_co]) -> None:
        self.function = function
        self._known = modules_of(function)
        self._seen: dict[nn.Module, None] = {}
        # By the identity of the tensor, which is held: what a buffer was before the first call.
        self._noted: dict[int, tuple[Tensor, Tensor]] = {}
        self._constant: dict[int, Tensor] = {}
        self._attributes: dict[nn.Module, dict[str, object]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Y_co:
        """Calls the function, and notes what its modules are before."""
        own: list[tuple[nn.Module, str, Tensor]] = []

        def note(module: nn.Module) -> None:
            self._seen[module] = None
            buffers = _own(module)
            if buffers and module not in self._attributes:
                self._attributes[module] = dict(vars(module))
            for name, b in buffers.items():
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
            outputs = self.function(*args, **kwargs)
        for b, copy in list(self._noted.values()):
            if _is_large(b) and _is_same(b, copy):
                self._constant[id(b)] = b
                del self._noted[id(b)]
        return outputs

    def again(self, *args: P.args, **kwargs: P.kwargs) -> Y_co:
        """Calls the function with its modules as noted, or else as they are, and leaves them as they are.

        Buffers are the same tensors of the same values afterwards.
        """
        with self._lending() as (lend, give_back), self._visited(lend, give_back):
            return self.function(*args, **kwargs)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lends in the block what has been called: a checkpoint calls it anew in a backward."""
        with self._lending() as (lend, give_back):
            try:
                for module in self._seen if self._known is None else self._known:
                    lend(module)
                yield
            finally:
                give_back()

    @contextmanager
    def _lending(self) -> Iterator[tuple[Callable[[nn.Module], None], Callable[[], None]]]:
        """Gives what lends a module copies of its buffers, and what gives all modules their own back.

        Lent again, a buffer goes on as what its copy has become. Buffers are told apart by identity, for one
        may have several names, and functional_call() puts others in their places. Attributes are put back at
        the end alone, since the function may read what its modules have left there.
        """
        values: dict[int, tuple[Tensor, Tensor | None, int | None]] = {}
        copies: dict[int, Tensor] = {}
        lent: dict[tuple[nn.Module, str], Tensor] = {}
        kept: dict[nn.Module, dict[str, object]] = {}

        def lend(module: nn.Module) -> None:
            if any(is_lazy(buffer) for buffer in module._buffers.values() if buffer is not None):
                raise ValueError(
                    f"forward must know the shapes of its buffers, got a {type(module).__name__} that has not"
                    " been called: call the model once before this"
                )
            self._seen[module] = None
            buffers = _own(module)
            if buffers and module not in kept:
                kept[module] = dict(vars(module))
                _set_attributes(module, self._attributes.get(module, kept[module]))
            for name, b in buffers.items():
                if (module, name) in lent or id(b) in self._constant:
                    continue
                if id(b) not in values:
                    # A large one is not kept twice.
                    values[id(b)] = b, None if _is_large(b) else b.detach().clone(), version(b)
                    copies[id(b)] = _copy(self._noted[id(b)][1] if id(b) in self._noted else b)
                lent[module, name] = b
                module._buffers[name] = copies[id(b)]

        def give_back() -> None:
            for (module, name), b in lent.items():
                now = _own(module).get(name)
                if now is not None:
                    copies[id(b)] = now  # where the next call in the same function goes on
                module._buffers[name] = b
                _, value, former = values[id(b)]
                if value is not None and version(b) != former:
                    # What holds the tensor by itself has written to it; and autograd may hold it, too, and
                    # would take a visible write for an error.
                    b.data.copy_(value)
            lent.clear()

        try:
            yield lend, give_back
        finally:
            for module, attributes in kept.items():
                _set_attributes(module, attributes)
            for key, copy in copies.items():
                b, _, _ = values[key]
                if _is_large(b) and key not in self._noted and _is_same(b, copy):
                    self._constant[key] = b

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

        try:
            with hooked(enter, exit):
                yield
        finally:
            leave()


def modules_of(forward: object) -> list[nn.Module] | None:
    """Returns the modules that belong to what is called, None where they cannot be known."""
    if isinstance(forward, partial):
        return modules_of(forward.func)
    for each in (forward, getattr(forward, "__self__", None)):
        if callable(modules := getattr(each, "modules", None)):
            return list(modules())
    return None


def _own(module: nn.Module) -> dict[str, Tensor]:
    buffers = module._buffers.items()
    return {name: buffer for name, buffer in buffers if buffer is not None and not is_lazy(buffer)}


def _is_large(buffer: Tensor) -> bool:
    """Returns whether copies of a buffer are spared, but of those that a transform wraps for its time."""
    is_plain = buffer.layout is torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(buffer)
    return is_plain and buffer.nbytes > _LARGE


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _set_attributes(module: nn.Module, attributes: dict[str, object]) -> None:
    """Gives a module these attributes alone; its parameters and buffers, inside of two, are as they are."""
    own = vars(module)
    for name in own.keys() - attributes.keys():
        del own[name]
    own.update(attributes)


def _copy(buffer: Tensor) -> Tensor:
    """Returns a copy, attached to the graph of a buffer that has one, as of one given to functional_call."""
    return buffer.clone() if buffer.requires_grad else buffer.detach().clone()
