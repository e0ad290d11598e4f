"""T rows of task gradients, one tensor a parameter: their Gramian (T, T), and their weighted sum in place."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from . import distributed, vectors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Row: TypeAlias = dict[Tensor, Tensor]
"""The gradient of one task, by parameter; a parameter that the task does not reach is not in it."""


class TaskGradients:
    """The task gradients J, ``(T, P)``, held as the tensors that autograd made.

    Attributes:
        rows: By task, its gradient.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def add(self, name: str, row: Row) -> None:
        """Adds a gradient to the task's row."""
        held = self.rows.setdefault(name, row)
        if held is row:
            return
        for parameter, gradient in row.items():
            if parameter in held:
                held[parameter].add_(gradient)
            else:
                held[parameter] = gradient

    def reached(self, parameters: Iterable[Tensor]) -> dict[Tensor, int]:
        """Returns the parameters that any task reaches, each with the number of tasks that do."""
        counts = ((p, sum(p in row for row in self.rows.values())) for p in parameters)
        return {p: count for p, count in counts if count}

    def check_reach(self) -> None:
        """Raises a ValueError if a task reaches no parameter."""
        for name, row in self.rows.items():
            if not row:
                raise ValueError(
                    f"task {name!r} must reach a parameter of the optimizer, got no gradient: give the"
                    " optimizer what its loss depends on, and return the loss from a callable"
                )

    def gramian(self, parameters: Sequence[Tensor]) -> Tensor:
        """Returns the inner products of the rows over these parameters, ``(T, T)``, in float64.

        It lies on the parameters' device where they have one in common, and else on the CPU.
        """
        device = vectors.home(distributed.local(p).device for p in parameters)
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64, device=device)
        for groups, members in distributed.by_shard_groups(parameters).items():
            local = vectors.gramian(self._pieces(members), len(self.rows), device)
            total += distributed.sum_over(local, groups)
        return total

    def gramians(self, divided: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Returns :meth:`gramian` for each part of the parameters, all on one device."""
        found = {name: self.gramian(parameters) for name, parameters in divided.items()}
        device = vectors.home(gramian.device for gramian in found.values())
        return {name: gramian.to(device) for name, gramian in found.items()}

    def combine(self, parameters: Sequence[Tensor], weights: Tensor) -> Row:
        """Returns ``weightsᵀ J`` over these parameters, in the memory of the first row that has each.

        The rows are used up.

        Args:
            parameters: Parameters that at least one task reaches.
            weights: ``(T,)``.
        """
        vectors.combine(self._pieces(parameters), weights)
        return self.first(parameters)

    def first(self, parameters: Iterable[Tensor]) -> Row:
        """Returns for each parameter the gradient of the first task that reaches it."""
        return {p: next(row[p] for row in self.rows.values() if p in row) for p in parameters}

    def average(self, parameters: Sequence[Tensor], group: "ProcessGroup | None") -> None:
        """Replaces the rows by their mean over the ranks, but for sharded parameters, whose rows are means.

        A task that reaches a parameter on some ranks only has a zero gradient on the others.

        Raises:
            ValueError: If the ranks' tasks differ.
        """
        replicated = [p for p in parameters if not distributed.is_sharded(p)]
        if not replicated:
            return
        reached = [p in row for row in self.rows.values() for p in replicated]
        anywhere = distributed.agree(list(self.rows), reached, device=replicated[0].device, group=group)
        flats = []
        for k, row in enumerate(self.rows.values()):
            for p, reaches in zip(replicated, anywhere[k * len(replicated) :], strict=False):
                if reaches:
                    flats.append(flat(row.setdefault(p, torch.zeros_like(p))))
        distributed.average(flats, group)

    def sum(self, parameters: Sequence[Tensor], weights: Sequence[float], *, copy: bool = False) -> Row:
        """Returns the weighted sum of the rows, task by task as autograd would add them up.

        Args:
            parameters: Parameters; those that no task reaches are not in the sum.
            weights: One for each row.
            copy: Whether it is to lie in new memory; else it lies in that of the first row that has each, and
                the rows are used up.
        """
        total: Row = {}
        for row, weight in zip(self.rows.values(), weights, strict=True):
            for parameter in parameters:
                if parameter not in row:
                    continue
                gradient = row[parameter]
                if parameter in total:
                    total[parameter].add_(gradient, alpha=weight)
                else:
                    total[parameter] = gradient.clone() if copy else gradient
                    if weight != 1.0:
                        total[parameter].mul_(weight)
        return total

    def _pieces(self, parameters: Iterable[Tensor]) -> list[vectors.Piece]:
        rows = self.rows.values()
        found = [[_real(row[p]) if p in row else None for row in rows] for p in parameters]
        return [piece for piece in found if vectors.first(piece).numel()]


def take(parameters: Iterable[Tensor], held: Iterable[Row]) -> Row:
    """Takes the gradients out of ``.grad`` and leaves None there.

    They are taken over without a copy, unless memory is shared with another gradient, taken now or held
    from before, or is laid out unlike the parameter: the sum is to be written there, in flat chunks.

    Raises:
        ValueError: If a gradient is sparse.
    """
    occupied: dict[int, list[Tensor]] = {}
    for row in held:
        for other in row.values():
            _occupy(occupied, distributed.local(other))
    taken: Row = {}
    for index, parameter in enumerate(parameters):
        gradient = parameter.grad
        if gradient is None:
            continue
        parameter.grad = None
        if gradient.layout != torch.strided:
            raise ValueError(
                f"the gradient of parameter {index}, shape {tuple(parameter.shape)}, is {gradient.layout}:"
                " gradient surgery takes dense gradients, so build the embedding with sparse=False"
            )
        gradient = distributed.as_placed(gradient.detach().resolve_conj(), parameter)
        local, model = distributed.local(gradient), distributed.local(parameter)
        if not _same_layout(local, model):
            gradient = torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)
        elif _occupy(occupied, local):
            gradient = gradient.clone()
        taken[parameter] = gradient
    return taken


def flat(gradient: Tensor) -> Tensor:
    """Returns the memory of a dense tensor, this rank's part of it, as a real vector ``(n,)``."""
    return vectors.flat(_real(gradient))


def _real(gradient: Tensor) -> Tensor:
    """Returns a dense tensor, this rank's part of it, as a dense real one in the same memory."""
    local = distributed.local(gradient)
    return torch.view_as_real(vectors.flat(local)) if local.is_complex() else local


def _occupy(occupied: dict[int, list[Tensor]], tensor: Tensor) -> bool:
    """Notes the memory of a tensor and returns whether a part of it was noted before."""
    neighbours = occupied.setdefault(tensor.untyped_storage().data_ptr(), [])
    overlaps = any(_overlap(tensor, other) for other in neighbours)
    neighbours.append(tensor)
    return overlaps


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Returns whether two dense tensors have memory in common."""
    return a.data_ptr() < b.data_ptr() + b.nbytes and b.data_ptr() < a.data_ptr() + a.nbytes


def _same_layout(gradient: Tensor, parameter: Tensor) -> bool:
    """Returns whether the gradient is dense and its elements lie in the parameter's order."""
    if gradient.is_contiguous() and parameter.is_contiguous():
        return True
    if gradient.stride() != parameter.stride():
        return False
    order = sorted(range(gradient.dim()), key=gradient.stride, reverse=True)
    return gradient.permute(order).is_contiguous()
