"""``DistributedDataParallel`` kept from averaging by itself in the tasks' forwards and backwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from . import distributed

_names: list[int] = []
"""For each block in a block. A function that is compiled is compiled anew for a hook of another name."""
_OF_ANOTHER_FORWARD = ("mark a variable ready only once", "Expected to have finished reduction")
"""What the reducer says in a backward that it takes for that of an earlier forward."""


@contextmanager
def unsynchronized(among: Sequence[int] | None = None) -> Iterator[None]:
    """Keeps ``DistributedDataParallel`` modules called inside the block from averaging gradients themselves.

    Their reducer expects one backward a forward that reaches every parameter, and would mix up the rows of
    tasks. It is switched off as ``no_sync`` does it, at each forward, since a task is any callable. Buffers
    are broadcast at each forward, as ever.

    Args:
        among: The ranks over which the rows are averaged in its place; None if they are not.

    Raises:
        ValueError: If a module's replicas are on other ranks, or it has a static graph.
        RuntimeError: If a forward of a module from before the block waits for its backward.
    """
    if not distributed.is_on():
        yield
        return
    synchronized: dict[nn.parallel.DistributedDataParallel, bool] = {}

    def switch_off(module: nn.Module, _: object) -> None:
        if not isinstance(module, nn.parallel.DistributedDataParallel):
            return
        if module not in synchronized:
            _refuse_replicas(module, among)
            synchronized[module] = module.require_backward_grad_sync
        module.require_backward_grad_sync = False
        # Which the forward before has taken back, for it was one without averaging.
        module.require_forward_param_sync |= synchronized[module]

    try:
        with _before_each_forward(switch_off):
            yield
        for module in synchronized:
            module.reducer._check_reducer_finalized()
    except RuntimeError as error:
        if any(words in str(error) for words in _OF_ANOTHER_FORWARD):
            raise RuntimeError(
                "DistributedDataParallel must run with gradients inside the callables alone, got a forward"
                " from before, which waits for its own backward: move it into a callable, run it under"
                " torch.no_grad(), or, with no fully_shard beside it, pass losses alone"
            ) from error
        raise
    finally:
        for module, flag in synchronized.items():
            module.require_backward_grad_sync = flag
            module.require_forward_param_sync |= flag


@contextmanager
def _before_each_forward(function: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Calls a function of the module, and its arguments, before the forward of any module in the block."""
    hooks = nn.modules.module._global_forward_pre_hooks
    name = next((name for name in _names if name not in hooks), None)
    if name is None:
        name = RemovableHandle(hooks).id
        _names.append(name)
    hooks[name] = function
    try:
        yield
    finally:
        del hooks[name]


def _refuse_replicas(module: nn.parallel.DistributedDataParallel, among: Sequence[int] | None) -> None:
    """Refuses a module whose replicas are on other ranks, or whose reducer cannot be switched off."""
    if module.static_graph:
        raise ValueError(
            "DistributedDataParallel in a callable must be without static_graph, got static_graph=True, which"
            " needs its own averaging: leave it out, or pass losses"
        )
    if among is not None and (replicas := distributed.members(module.process_group)) != among:
        raise ValueError(
            f"process_group must be of the ranks of DistributedDataParallel, {replicas}, got {among}: pass"
            " process_group=module.process_group to the optimizer"
        )
