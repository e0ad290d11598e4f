"""GSE: two updates a step, the first with the operated gradient and the second with the summed loss's."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import ddp, distributed
from .conflicts import ConflictReport
from .gradients import Row, TaskGradients
from .optimizer import GradientSurgery
from .options import check_option, factors
from .projection import PCGrad
from .replicas import average
from .tasks import Losses, Task, autocast_of_now, differentiate, named_tasks
from .wrapper import Closure, OptimizerWrapper, StateDict

SecondUpdate: TypeAlias = Literal["recompute", "reuse"]
_Evaluated: TypeAlias = tuple[str, Task, Callable[[], AbstractContextManager[None]]]


class GSE(OptimizerWrapper):
    """The "gradient surgery experiment": each step makes two updates.

    The first is a method's, by default with the mean of PCGrad's adjusted gradients; the second follows at
    once, with the gradient of the summed loss.

    .. code-block:: python

        optimizer = GSE(torch.optim.AdamW(model.parameters()))
        optimizer.zero_grad()
        optimizer.backward({"a": lambda: loss(batch_a), "b": lambda: loss(batch_b)})
        optimizer.step()

    Both updates go through one inner optimizer. AdamW, whose moments they share, divides both by the same
    root mean square, so that the mean makes the first weigh 1/T of the second where no tasks conflict, and
    about a quarter in a fine-tuning on three tasks (.26; with ``reduction="sum"`` .53).

    What happens to ``.grad`` between ``backward`` and ``step``, such as clipping, concerns the first update.
    The second gradient exists only inside ``step``, and ``before_second_update`` is the place to clip it.
    After the step ``.grad`` holds the second gradient. A ``.grad`` from before ``backward``, for instance of
    another ``backward``, is in the first only. A parameter outside the optimizer gets the gradients of both
    evaluations.

    A ``state_dict`` or a copy holds no callables: to recompute after resuming, save it between a step and the
    next ``backward``.

    Args:
        optimizer: A method around an optimizer, or an optimizer, which is the same as
            ``PCGrad(optimizer, reduction="mean")``.
        second_update: ``"recompute"`` evaluates the callables again, with new dropout masks, at the
            parameters that the first update has reached; ``"reuse"`` takes the sum of the gradients that the
            first was made from: no further backward, and one of them is kept until the step.
        before_second_update: Called with the second gradient in ``.grad``.
        scaler: The ``GradScaler`` that scales the losses and makes the steps. It unscales the second gradient
            before ``before_second_update``, skips the second update where that gradient is not finite, and
            both updates where the first is not.

    Raises:
        TypeError: If ``optimizer`` is not an optimizer, or its update needs a closure.
        ValueError: If ``second_update`` has no such value.
    """

    _wraps_methods = True

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        second_update: SecondUpdate = "recompute",
        before_second_update: Callable[[], object] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        check_option("second_update", second_update, ("recompute", "reuse"))
        self.method = (
            optimizer if isinstance(optimizer, GradientSurgery) else PCGrad(optimizer, reduction="mean")
        )
        super().__init__(self.method)
        self.second_update = second_update
        self.before_second_update = before_second_update
        self.scaler = scaler
        self._tasks: list[_Evaluated] = []
        self._sum: Row = {}
        self._is_ready = False

    @property
    def conflicts(self) -> ConflictReport | None:
        """The report of the last backward, None before it."""
        return self.method.conflicts

    def backward(self, losses: Losses, *, accumulate: bool = False) -> dict[str, Tensor | None]:
        """Does what the method's ``backward`` does, and prepares the second update.

        Args:
            losses: See :meth:`GradientSurgery.backward`. To recompute, all are callables, and they are kept
                until the step; so are those of every call with ``accumulate=True``.
            accumulate: See :meth:`GradientSurgery.backward`.

        Returns:
            The losses by name, detached; None of a callable that returned None.

        Raises:
            ValueError: If the second update is recomputed, and a task is a tensor.
        """
        tasks = named_tasks(losses)
        recompute = self.second_update == "recompute"
        for name, task in tasks.items():
            if recompute and isinstance(task, Tensor):
                raise ValueError(
                    f"the loss of task {name!r} must be a callable, got a tensor: second_update='recompute'"
                    f" evaluates it again, so pass a function that returns it, or take second_update='reuse'"
                )
        values = self.method._collect(losses, accumulate=accumulate)
        if self._is_ready:  # for a step that was not made, as when a GradScaler skips it
            self._forget()
        if recompute:
            autocast = autocast_of_now({parameter.device.type for parameter in self.method._parameters()})
            self._tasks.extend((name, task, autocast) for name, task in tasks.items())
        if not accumulate:
            self._sum = self.method._operate(plain=not recompute)
            self._is_ready = True
        return values

    def step(self, closure: Closure | None = None) -> Any:
        """Makes the two updates.

        Args:
            closure: Called first, for loops that leave the backward to the step: it clears the gradients,
                calls ``backward(losses)`` and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            RuntimeError: If there was no ``backward`` since the last step.
        """
        value = self._evaluated(closure)
        if not self._is_ready:
            raise RuntimeError(
                "step() makes two updates out of backward(losses), got none since the last step or"
                " zero_grad(): call optimizer.backward(losses) before it, the last time without"
                " accumulate=True"
            )
        tasks, total = self._tasks, self._sum
        self._forget()
        self.method.step()
        if self.second_update == "recompute":
            total = self._recomputed_sum(tasks)
        for parameter in self.method._parameters():
            parameter.grad = total.get(parameter)
        inner = self.method.optimizer
        if self.scaler is not None:
            self.scaler.unscale_(inner)  # the second gradient's infinities are found and counted as its own
        if self.before_second_update is not None:
            self.before_second_update()
        if self.scaler is None:
            inner.step()
        else:
            self.scaler.step(inner)
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears ``.grad``, the accumulated gradients and what was kept for the second update."""
        self._forget()
        super().zero_grad(set_to_none)

    def _load_own_state(self, state: StateDict) -> None:
        self._forget()  # what was prepared belongs to the gradients that the method has just replaced

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # A GradScaler's step asks every optimizer this, and so tells that there is one.
        if self.scaler is None:
            raise ValueError(
                "scaler must be the GradScaler whose step() makes the two updates, got None: pass"
                " GSE(..., scaler=scaler), which unscales the second gradient, too"
            )
        return False

    def _forget(self) -> None:
        self._tasks = []
        self._sum = {}
        self._is_ready = False

    def __getstate__(self) -> dict[str, Any]:
        # A copied parameter has no .grad, and copied callables would evaluate the original's model.
        return {**super().__getstate__(), "_tasks": [], "_sum": {}, "_is_ready": False}

    def _recomputed_sum(self, tasks: list[_Evaluated]) -> Row:
        """Returns the gradient of the tasks' summed loss, from the callables."""
        torch.clear_autocast_cache()  # in which an autocast around step() keeps the weights of before
        method, parameters, total = self.method, self.method._parameters(), TaskGradients()
        for parameter in parameters:
            parameter.grad = None
        ranks = distributed.members(method.process_group)
        with torch.enable_grad(), ddp.unsynchronized(ranks):
            for name, task, autocast in tasks:
                with autocast():
                    differentiate(name, task, parameters, finite=method._finite())
                (factor,) = factors(method.task_weights, [name])
                total.take("sum", parameters, factor=factor)
        if distributed.ranks(method.process_group) > 1:
            average(total.rows, parameters, method.process_group)
        return total.rows["sum"]
