"""T rows of task gradients, one tensor a parameter: their Gramian (T, T), and their weighted sum in place."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from . import distributed, sharding, vectors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Row: TypeAlias = dict[Tensor, Tensor]
"""The gradient of one task, by parameter; a parameter that the task does not reach is not in it."""

_Memory: TypeAlias = dict[int, list[Tensor]]
"""Tensors by the address of their storage."""


class TaskGradients:
    """The task gradients J, ``(T, P)``, held as the tensors that autograd made.

    Attributes:
        rows: By task, its gradient.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._memory: _Memory = {}

    def take(self, name: str, parameters: Iterable[Tensor], *, factor: float = 1.0) -> None:
        """Takes the gradients out of ``.grad``, leaves None there, and adds them to the task's row.

        They are taken over without a copy, unless memory is shared with another gradient, taken now or
        before, or is laid out unlike the parameter: sums are to be written there, in flat chunks.

        Args:
            name: The task.
            parameters: Parameters, with a gradient or without.
            factor: What the gradients are multiplied by.

        Raises:
            ValueError: If a gradient is sparse.
        """
        taken: Row = {}
        memory: _Memory = {}
        for index, parameter in enumerate(parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            parameter.grad = None
            if gradient.layout != torch.strided:
                raise ValueError(
                    f"the gradient of parameter {index}, shape {tuple(parameter.shape)}, is"
                    f" {gradient.layout}: gradient surgery takes dense gradients, so build the embedding with"
                    " sparse=False"
                )
            if gradient.requires_grad or gradient.is_conj():
                gradient = gradient.detach().resolve_conj()
            gradient = sharding.as_placed(gradient, parameter)
            local = sharding.local(gradient)
            address = local.untyped_storage().data_ptr()
            if not _same_layout(local, sharding.local(parameter)):
                gradient = torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)
            elif _overlaps(local, memory.get(address)) or _overlaps(local, self._memory.get(address)):
                gradient = gradient.clone()
            else:
                memory.setdefault(address, []).append(local)
            taken[parameter] = gradient if factor == 1.0 else gradient.mul_(factor)
        held = self.rows.setdefault(name, taken)
        if held is taken:
            for address, tensors in memory.items():
                self._memory.setdefault(address, []).extend(tensors)
            return
        for parameter, gradient in taken.items():
            if parameter in held:
                held[parameter].add_(gradient)
            else:
                held[parameter] = gradient
                local = sharding.local(gradient)
                self._memory.setdefault(local.untyped_storage().data_ptr(), []).append(local)

    def reached(self, parameters: Iterable[Tensor]) -> dict[Tensor, int]:
        """Returns the parameters that any task reaches, each with the number of tasks that do."""
        rows = self.rows.values()
        counts = ((p, [p in row for row in rows].count(True)) for p in parameters)
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
        return self.gramians([{"all": parameters}])[0]["all"]

    def gramians(
        self, surgeries: Sequence[Mapping[str, Sequence[Tensor]]], group: "ProcessGroup | None" = None
    ) -> list[dict[str, Tensor]]:
        """Returns :meth:`gramian` for each part of each surgery's parameters, those of one on one device.

        If any of them is sharded, each rank multiplies what it has, and one message adds up: T² numbers a
        part.

        Args:
            surgeries: The parameters by part.
            group: The ranks among which parameters may be divided (default: all).
        """
        everything = [p for divided in surgeries for parameters in divided.values() for p in parameters]
        if not any(map(sharding.is_sharded, everything)):
            products = [{k: self._products(p) for k, p in divided.items()} for divided in surgeries]
            devices = [vectors.home(g.device for g in found.values()) for found in products]
            return [
                {k: g.to(device) for k, g in found.items()}
                for found, device in zip(products, devices, strict=True)
            ]
        device = vectors.home(sharding.local(p).device for p in everything)
        shares = [self._share(p, device, group) for divided in surgeries for p in divided.values()]
        total = iter(distributed.add_up(shares, group))
        return [{name: next(total) for name in divided} for divided in surgeries]

    def _products(self, parameters: Sequence[Tensor]) -> Tensor:
        """Returns the products of what this rank has of the rows."""
        device = vectors.home(sharding.local(p).device for p in parameters)
        return vectors.gramian(self._pieces(parameters), len(self.rows), device)

    def _share(
        self, parameters: Sequence[Tensor], device: torch.device, group: "ProcessGroup | None"
    ) -> Tensor:
        """Returns this rank's share of the products, where each rank that has an element has one of it."""
        by_copies: dict[int, list[Tensor]] = {}
        for parameter in parameters:
            by_copies.setdefault(sharding.copies(parameter, distributed.ranks(group)), []).append(parameter)
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64, device=device)
        for count, members in by_copies.items():
            total += self._products(members).to(device) / count
        return total

    def combine(self, parameters: Sequence[Tensor], *weights: Tensor) -> list[Row]:
        """Returns ``weightsᵀ J`` over these parameters, of one vector of weights or, at no new pass, two.

        The first sum lies in the memory of the first row that has a parameter, the second in that of the
        second row, or in new memory where there is none. The rows are used up.

        Args:
            parameters: Parameters that at least one task reaches.
            *weights: ``(T,)`` each.
        """
        reaching = {p: [g for row in self.rows.values() if (g := row.get(p)) is not None] for p in parameters}
        sums = [
            {p: rows[k] if k < len(rows) else torch.empty_like(rows[0]) for p, rows in reaching.items()}
            for k in range(len(weights))
        ]
        vectors.combine(self._pieces(parameters, *sums[1:]), *weights)
        return sums

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

    def _pieces(self, parameters: Iterable[Tensor], *others: Row) -> list[vectors.Piece]:
        rows = (*self.rows.values(), *others)
        pieces = []
        for parameter in parameters:
            piece: vectors.Piece = [row.get(parameter) for row in rows]
            if parameter.is_complex() or sharding.is_sharded(parameter):
                piece = [None if gradient is None else _real(gradient) for gradient in piece]
            if vectors.first(piece).numel():
                pieces.append(piece)
        return pieces


def flat(gradient: Tensor) -> Tensor:
    """Returns the memory of a dense tensor, this rank's part of it, as a real vector ``(n,)``."""
    return vectors.flat(_real(gradient))


def _real(gradient: Tensor) -> Tensor:
    """Returns a dense tensor, this rank's part of it, as a dense real one in the same memory."""
    local = sharding.local(gradient)
    return torch.view_as_real(vectors.flat(local)) if local.is_complex() else local


def _overlaps(tensor: Tensor, others: Iterable[Tensor] | None) -> bool:
    """Returns whether a dense tensor has memory in common with others of the same storage."""
    return others is not None and any(_overlap(tensor, other) for other in others)


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
