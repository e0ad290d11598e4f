"""The tasks of one backward: losses or callables, by name, and how each is differentiated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

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
            raise TypeError(
                f"the loss of task {name!r} must be a tensor or a callable, got {type(task).__name__}:"
                " pass the loss itself, not its value"
            )
    return tasks


def differentiate(
    name: str, task: Task, parameters: Sequence[Tensor], *, retain_graph: bool = False, hooks: bool = True
) -> Tensor | None:
    """Adds the gradient of one task to the parameters' ``.grad``.

    Args:
        name: The task's name, for the messages.
        task: The task.
        parameters: All parameters of the optimizer.
        retain_graph: Whether the graph of a loss is needed again; that of a callable never is.
        hooks: Whether hooks that wait for gradients to be accumulated may run, those of a
            ``DistributedDataParallel`` whose forward is past among them; without, ``.grad`` must be None.

    Returns:
        The loss, detached; None if a callable returned None.

    Raises:
        ValueError: If the loss is not one number with a graph.
    """
    loss = task if isinstance(task, Tensor) else task()
    if loss is None:
        return None
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
    if isinstance(task, Tensor) and not hooks:
        reachable = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss, reachable, retain_graph=retain_graph, allow_unused=True)
        for parameter, gradient in zip(reachable, gradients, strict=True):
            parameter.grad = gradient
    else:
        loss.backward(retain_graph=retain_graph and isinstance(task, Tensor))  # type: ignore[no-untyped-call]
    return loss.detach()


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
