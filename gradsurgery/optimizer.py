"""GradientSurgery: an optimizer whose backward takes one loss a task and settles their conflicts."""

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import ddp, distributed, sharding
from .breakdown import Breakdown, checked_breakdown, divide
from .conflicts import ConflictReport, add_up, report_on
from .gradients import Row, TaskGradients
from .gramians import EPSILON, rounding_of
from .graphs import SharedOutputs
from .options import (
    Granularity,
    NonFinite,
    Reduction,
    Scope,
    check_option,
    checked_generator,
    checked_scope,
    checked_task_weights,
    factors,
    in_scope,
    parts,
)
from .replicas import Replicas
from .tasks import Losses, check_positions, differentiate, gradients_set_aside, is_finite, named_tasks
from .wrapper import Closure, OptimizerWrapper, StateDict

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class GradientSurgery(OptimizerWrapper):
    """Base of the methods: an optimizer around an optimizer, which combines T task gradients into one.

    A method is a subclass with :meth:`weights`, a function of the Gramian ``G = J Jᵀ`` of the ``(T, P)``
    matrix of task gradients; the update's gradient is ``weightsᵀ J``. J is read twice, and the result written
    once, into the memory of the first task's gradient.

    .. code-block:: python

        optimizer = PCGrad(torch.optim.AdamW(model.parameters()))
        optimizer.zero_grad()
        optimizer.backward({"a": loss_a, "b": loss_b})
        optimizer.step()

    Which task reaches a parameter is read from whether autograd made a gradient, not from its values. A
    parameter that no task reaches keeps its ``.grad``. For several ranks see :mod:`gradsurgery.replicas`.

    Args:
        optimizer: The optimizer that makes the update.
        reduction: ``"sum"`` over the tasks, or ``"mean"``, 1/T for every parameter however many tasks reach
            it.
        scope: ``"shared"`` operates on the parameters that two tasks or more reach, and a task's own head
            keeps its own gradient; ``"all"`` operates on every parameter. Or parameters, or a callable that
            returns them, asked at each backward (``scope=model.encoder.parameters``): the others get the
            plain sum.
        granularity: One surgery for all parameters (``"global"``), for each parameter group (``"group"``), or
            for each parameter (``"parameter"``).
        task_weights: By task, what its loss is multiplied by, positive. A task that a step has not is no
            obstacle; one without a weight is an error, since a misspelt name could not be told from it.
        nonfinite: What becomes of a loss that is not finite: ``"pass"`` leaves it to a ``GradScaler``, which
            sees a gradient that is not finite; ``"raise"`` makes it a ValueError, and waits for each loss.
        breakdown: Divides the report by parts, at no second pass over the gradients: ``"group"`` by parameter
            group, a module by its children, or a mapping from names to parameters; parameters that are in
            none are the part ``"other"``.
        generator: Source of the random choices, on the CPU; by default one of its own, which begins alike in
            every run, whatever ``torch.manual_seed``. A state_dict has it.
        process_group: The ranks that hold replicas, or parts of sharded parameters (default: all).
        check_every: After how many backwards the ranks compare their parameters, lest they drift; 0 is never.

    Attributes:
        conflicts: The report of the last backward, None before it. Of weighted tasks, it shows the gradients
            of the weighted losses.
        tasks: For :meth:`weights`: the names of the tasks in the Gramian's order. A task may be absent from
            a step and come back, at another place.
        part: For :meth:`weights`: which surgery of the step this is. 0, or the index of the parameter group
            or of the parameter, by granularity.
        rounding: For :meth:`weights`: how much of a cosine between two of these gradients is rounding, by
            their dtypes; 2.2e-16 of float64, 1.2e-7 of float32, 9.5e-7 of float16, 6.1e-5 of bfloat16.

    Raises:
        TypeError: If ``optimizer`` is not an optimizer, or ``scope`` holds what is no parameter.
        ValueError: If an option has no such value, or parameters belong to ``FullyShardedDataParallel``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        reduction: Reduction = "sum",
        scope: Scope = "shared",
        granularity: Granularity = "global",
        task_weights: Mapping[str, float] | None = None,
        nonfinite: NonFinite = "pass",
        breakdown: Breakdown | None = None,
        generator: torch.Generator | None = None,
        process_group: "ProcessGroup | None" = None,
        check_every: int = 1000,
    ) -> None:
        super().__init__(optimizer)
        check_option("reduction", reduction, ("sum", "mean"))
        check_option("granularity", granularity, ("global", "group", "parameter"))
        check_option("nonfinite", nonfinite, ("pass", "raise"))
        sharding.refuse_flattened(self._parameters())
        self.reduction = reduction
        self.scope = checked_scope(scope)
        self.granularity = granularity
        self.task_weights = None if task_weights is None else checked_task_weights(task_weights)
        self.nonfinite = nonfinite
        self.breakdown = checked_breakdown(breakdown)
        self.generator = checked_generator(generator)
        self.process_group = process_group
        self.conflicts: ConflictReport | None = None
        self.tasks: tuple[str, ...] = ()
        self.part = 0
        self.rounding = EPSILON
        self._gradients = TaskGradients()
        self._operated = False
        self._outputs = SharedOutputs()
        self._replicas = Replicas(process_group, check_every)

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights of the task gradients in their sum.

        Args:
            gramian: Inner products of the task gradients, ``(T, T)``, float64.

        Returns:
            ``(T,)``, on the Gramian's device.
        """
        raise NotImplementedError(f"{type(self).__name__} has no weights(gramian); take PCGrad")

    def method_state(self) -> dict[str, Any]:
        """Returns what :meth:`weights` remembers, in plain containers and tensors, for the state_dict."""
        return {}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`method_state` returned, this method's or that of another's checkpoint."""

    def backward(self, losses: Losses, *, accumulate: bool = False) -> dict[str, Tensor | None]:
        """Back-propagates each task by itself and writes the combined gradient into ``.grad``.

        A ``.grad`` that is there before is added to, as ``loss.backward()`` would; so is a task's gradient
        over several calls with ``accumulate=True``, of which k and one last call without it equal one big
        batch. After a task has raised an error, ``.grad`` is what it was before, and ``zero_grad()`` drops
        what the call has added to the accumulated gradients.

        Args:
            losses: By task, or in a sequence, losses or callables. A callable is called, its loss
                back-propagated and its graph freed before the next one's turn, so that one task's activations
                are alive at a time; with losses, all graphs live until the last is done.
            accumulate: Whether more is to come before the step: the gradients are kept, ``.grad`` is left
                alone.

        Returns:
            The losses by name, detached; None of a callable that returned None.

        Raises:
            TypeError: If ``losses`` is no mapping or sequence, a name no string, or a task neither a tensor
                nor a callable.
            ValueError: If there is no task or one that reaches no parameter, or a loss is not one number with
                a graph, or a gradient is sparse.
            RuntimeError: If a backward has freed the graph of a loss already.
        """
        values = self._collect(losses, accumulate=accumulate)
        if not accumulate:
            self._operate()
        return values

    def step(self, closure: Closure | None = None) -> Any:
        """Makes the inner optimizer's update with ``.grad`` as it is.

        Args:
            closure: Called first, for loops that leave the backward to the step: it clears the gradients,
                calls ``backward(losses)`` and returns the loss.

        Returns:
            What the closure returned.
        """
        value = self._evaluated(closure)
        if not self._operated:
            warnings.warn(
                f"{type(self).__name__}.step() applies the gradients as they are, with no surgery, for no"
                " backward(losses) came before it: call optimizer.backward(losses) in place of"
                " loss.backward(), the last time without accumulate=True",
                stacklevel=3,
            )
        self._operated = False
        self.optimizer.step()
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears ``.grad`` and the gradients accumulated by ``backward(losses, accumulate=True)``."""
        self._gradients = TaskGradients()
        super().zero_grad(set_to_none)

    def _parameters(self) -> list[Tensor]:
        # Each once: torch only warns of a parameter that a group lists twice.
        return list(dict.fromkeys(p for group in self.param_groups for p in group["params"]))

    def _finite(self, *, accumulate: bool = False) -> Callable[[Tensor], bool] | None:
        """Returns what tells whether a loss is finite; None if no loss is to be waited for.

        Ranks may accumulate in different numbers of calls, so that these send nothing.
        """
        if self.nonfinite == "pass":
            return None
        return is_finite if accumulate else self._replicas.finite

    def _collect(self, losses: Losses, *, accumulate: bool) -> dict[str, Tensor | None]:
        """Adds the tasks' gradients to the rows and averages them over the ranks once they are complete."""
        tasks = named_tasks(losses)
        check_positions(losses, self._gradients.rows)
        factors(self.task_weights, tasks)  # refuses a task without a weight before any is differentiated
        parameters = self._parameters()
        # With nothing accumulated before, a task that fails leaves nothing behind.
        gradients = self._gradients if self._gradients.rows else TaskGradients()
        values: dict[str, Tensor | None] = {}
        pending = sum(isinstance(task, Tensor) for task in tasks.values())
        sharding.refuse_held_back(parameters)
        names = [*gradients.rows, *tasks]
        means = None if accumulate else self._replicas.begin(names, parameters, self.generator)
        # The forward of a loss is past, and its DistributedDataParallel would take the backward for its own.
        hooks = not distributed.is_on() or any(map(sharding.is_sharded, parameters))
        ranks = distributed.members(self.process_group)
        finite = self._finite(accumulate=accumulate)
        look = None if self._outputs.is_done or self.scope != "shared" else self._outputs.look
        with gradients_set_aside(parameters), ddp.unsynchronized(ranks):
            for name, task in tasks.items():
                pending -= isinstance(task, Tensor)
                values[name] = differentiate(
                    name, task, parameters, finite=finite, retain_graph=pending > 0, hooks=hooks, look=look
                )
                gradients.take(name, parameters)
                if means:
                    means.begin(name, gradients.rows[name])
        if means:
            means.finish(gradients.rows)
        if look and not accumulate and len(gradients.rows) > 1:
            self._outputs.conclude(gradients.rows, stacklevel=4)
        if not accumulate:
            gradients.check_reach()
        self._gradients = gradients
        return values

    @torch.no_grad()
    def _operate(self, *, plain: bool = False) -> Row:
        """Combines the rows into ``.grad``, reports on them, and returns the plain sum if it is wanted."""
        gradients, self._gradients = self._gradients, TaskGradients()
        self.tasks = tuple(gradients.rows)
        share = 1 / len(self.tasks) if self.reduction == "mean" else 1.0
        scale = torch.tensor(factors(self.task_weights, self.tasks), dtype=torch.float64, device="cpu")
        reached = gradients.reached(self._parameters())
        members = in_scope(self.scope, reached, self._parameters())
        own = list(reached.keys() - set(members))
        total = gradients.sum(own, scale.tolist(), copy=True) if plain else {}
        combined = gradients.sum(own, (scale * share).tolist())
        surgeries = parts(self.granularity, members, self.param_groups)
        divided = [divide(self.breakdown, parameters, self.param_groups) for _, parameters in surgeries]
        found = gradients.gramians(divided, self.process_group)
        gramians, weights = [], []
        for (index, parameters), by_part in zip(surgeries, found, strict=True):
            self.part = index
            self.rounding = rounding_of({p.dtype for p in parameters})
            scale = scale.to(next(iter(by_part.values())).device, non_blocking=True)
            gramians.append({name: g * scale * scale.unsqueeze(1) for name, g in by_part.items()})
            weights.append(self._checked_weights(add_up(gramians[-1].values())) * share)
            sums = gradients.combine(parameters, *(weights[-1] * scale, scale)[: 1 + plain])
            for whole, some in zip((combined, total), sums, strict=False):
                whole.update(some)
        for parameter, gradient in combined.items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.conflicts = report_on(
            self.tasks, gramians, weights, one=self.granularity == "global", parts=self.breakdown is not None
        )
        self._operated = True
        return total

    def _checked_weights(self, gramian: Tensor) -> Tensor:
        weights = self.weights(gramian).to(gramian)
        if weights.shape != gramian.shape[:1]:
            raise ValueError(
                f"{type(self).__name__}.weights must return shape {tuple(gramian.shape[:1])}, got"
                f" {tuple(weights.shape)}: return one weight a task"
            )
        # Zeros have no part in the sum, and are not to be multiplied by what a method makes of their length.
        return weights.where(weights.isfinite() | (gramian.diagonal() != 0), 1.0)

    def _own_state(self) -> StateDict:
        state: StateDict = {"generator": self.generator.get_state(), "method": self.method_state()}
        if self._gradients.rows:
            indices = {p: k for k, p in enumerate(self._parameters())}
            rows = self._gradients.rows.items()
            state["rows"] = {name: {indices[p]: g for p, g in row.items()} for name, row in rows}
        return state

    def _load_own_state(self, state: StateDict) -> None:
        if "generator" in state:
            self.generator.set_state(state["generator"].cpu())
        self._replicas.forget()
        self._gradients = TaskGradients()
        parameters = self._parameters()
        if "method" in state:
            self.load_method_state(copy.deepcopy(state["method"]))
        for name, row in state.get("rows", {}).items():
            held = {parameters[k]: g.to(parameters[k].device, copy=True) for k, g in row.items()}
            self._gradients.rows[name] = held

    def __deepcopy__(self, memo: dict[int, Any]) -> "GradientSurgery":
        memo[id(self.process_group)] = self.process_group  # cannot be copied: it is this process's own
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "generator": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(state["generator"])
        super().__setstate__({**state, "generator": generator})
