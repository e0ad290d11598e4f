"""The tasks of one backward: losses or callables, by name, and how each is differentiated."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from .graphs import refuse_reentrant_checkpoint

Task: TypeAlias = Tensor | Callable[[], Tensor | None]
"""A loss, one number, or a callable that returns one, or that back-propagates by itself and returns None."""

Losses: TypeAlias = Mapping[str, Task] | Sequence[Task]


def named_tasks(losses: Losses) -> dict[str, Task]:
    """Returns the tasks by name, those of a sequence by their index.

    Raises:
        TypeError: If ``losses`` is no mapping or sequence, a name no string, or a task neither a tensor nor a
            callable.
        ValueError: If there is no task.
    """
    if isinstance(losses, Mapping):
        tasks = dict(losses)
    elif isinstance(losses, Sequence):
        tasks = {str(index): task for index, task in enumerate(losses)}
    else:
        raise TypeError(
            f"losses must be a mapping or a sequence with one loss a task, got {type(losses).__name__}:"
            " pass the losses unsummed, as {'a': loss_a, 'b': loss_b}"
        )
    if not tasks:
        raise ValueError(
            f"losses must hold at least one task, got {losses!r}: pass {{'a': loss_a, 'b': loss_b}}"
        )
    for name, task in tasks.items():
        if not isinstance(name, str):
            raise TypeError(
                f"losses must be named by strings, got {name!r}: name each task, as {{'a': loss_a}}"
            )
        if not (isinstance(task, Tensor) or callable(task)):
            remedy = "the loss itself, not its value"
            if isinstance(task, tuple):
                remedy = "names and losses as a mapping, {'a': loss_a}"
            raise TypeError(
                f"the loss of task {name!r} must be a tensor or a callable, got {type(task).__name__}:"
                f" pass {remedy}"
            )
    return tasks


def check_positions(losses: Losses, held: Collection[str]) -> None:
    """Raises a ValueError if positions in a sequence would name other tasks than in the calls before.

    Args:
        losses: The tasks of this call.
        held: The names of the tasks accumulated so far.
    """
    if held and not isinstance(losses, Mapping) and set(held) != {str(k) for k in range(len(losses))}:
        raise ValueError(
            f"losses must have names where the calls of an accumulation differ in tasks, got {len(losses)} in"
            f" a sequence after tasks {', '.join(map(repr, held))}: pass {{'a': loss_a}} in each call"
        )


def differentiate(
    name: str,
    task: Task,
    parameters: Sequence[Tensor],
    *,
    finite: Callable[[Tensor], bool] | None = None,
    retain_graph: bool = False,
    hooks: bool = True,
    look: Callable[[str, Tensor], None] | None = None,
) -> Tensor | None:
    """Adds the gradient of one task to the parameters' ``.grad``.

    Args:
        name: The task's name, for the messages.
        task: The task.
        parameters: All parameters of the optimizer.
        finite: Tells whether a loss is finite, on every rank; None waits for no loss and refuses none.
        retain_graph: Whether the graph of a loss is needed again; that of a callable never is.
        hooks: Whether hooks that wait for gradients to be accumulated may run, those of a
            ``DistributedDataParallel`` whose forward is past among them; without, ``.grad`` must be None.
        look: Is shown the name and the loss before its graph is freed.

    Returns:
        The loss, detached; None if a callable returned None.

    Raises:
        ValueError: If the loss is not one number with a graph, or not finite; or, without hooks, if a
            reentrant checkpoint, or another function that back-propagates by itself, is in its graph.
        RuntimeError: If a backward has freed its graph already.
    """
    with _graphs_explained(name, task):
        loss = task if isinstance(task, Tensor) else task()
        if loss is None:
            return None
        _check_loss(name, loss, finite)
        if look:
            look(name, loss)
        if isinstance(task, Tensor) and not hooks:
            refuse_reentrant_checkpoint(name, loss)
            reachable = [p for p in parameters if p.requires_grad]
            gradients = torch.autograd.grad(loss, reachable, retain_graph=retain_graph, allow_unused=True)
            _refuse_backward_inside(name, parameters)
            for parameter, gradient in zip(reachable, gradients, strict=True):
                parameter.grad = gradient
        else:
            loss.backward(retain_graph=retain_graph and isinstance(task, Tensor))  # type: ignore[no-untyped-call]
    return loss.detach()


def is_finite(loss: Tensor) -> bool:
    """Waits for a loss, and returns whether it is finite on this rank."""
    return bool(loss.isfinite())


def autocast_of_now(devices: Collection[str]) -> Callable[[], AbstractContextManager[None]]:
    """Returns a function of contexts under the autocast that is in force now, or without one as now.

    Args:
        devices: The types of the devices that are used.
    """
    autocasts = [
        torch.autocast(
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
            cache_enabled=torch.is_autocast_cache_enabled(),
        )
        for device in devices
        if torch.amp.is_autocast_available(device)
    ]

    @contextmanager
    def context() -> Iterator[None]:
        with ExitStack() as stack:
            for autocast in autocasts:
                stack.enter_context(autocast)
            yield

    return context


@contextmanager
def gradients_set_aside(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Empties every ``.grad`` inside the block, and afterwards puts back what was there."""
    before = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def _check_loss(name: str, loss: object, finite: Callable[[Tensor], bool] | None) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"the loss of task {name!r} must be one number, got {got}: reduce it to its mean or sum"
        )
    if not loss.requires_grad:
        raise ValueError(
            f"the loss of task {name!r} must have a graph, got {loss!r} that requires no gradient: leave it"
            " attached, and run its forward with gradients enabled"
        )
    if finite is not None and not finite(loss):
        got = f"{loss.item()}" + (", and on another rank one that is not" if loss.isfinite() else "")
        raise ValueError(
            f"the loss of task {name!r} must be finite, got {got}: look into its forward, or take"
            " nonfinite='pass' to let a GradScaler skip the step"
        )


def _refuse_backward_inside(name: str, parameters: Sequence[Tensor]) -> None:
    """Refuses what has written into ``.grad``, which was empty: ``autograd.grad`` returns none of that."""
    if any(parameter.grad is not None for parameter in parameters):
        raise ValueError(
            f"the loss of task {name!r} must have no function in its graph that back-propagates by itself,"
            " got one, as reversible layers have: pass a callable that returns the loss"
        )


@contextmanager
def _graphs_explained(name: str, task: Task) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "through the graph a second time" not in str(error):
            raise
        remedy = (
            "run its whole forward inside the callable, or pass the losses of a shared forward themselves"
        )
        if isinstance(task, Tensor):
            remedy = "call optimizer.backward(losses) in place of loss.backward(), once for each forward"
        raise RuntimeError(
            f"the loss of task {name!r} must have its graph, got one that a backward has freed: {remedy}"
        ) from error
