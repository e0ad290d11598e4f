"""T rows of task gradients, one tensor a parameter: their Gramian (T, T), and their weighted sum in place."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from . import distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Row: TypeAlias = dict[Tensor, Tensor]
"""The gradient of one task, by parameter; a parameter that the task does not reach is not in it."""

Flats: TypeAlias = list[Tensor | None]
"""One parameter's T gradients, each ``(n,)``; None where the task does not reach it."""

CHUNK = 2**19
"""Elements of a row multiplied at a time on the CPU: T chunks stay in cache for all T² products."""
SLAB = 2**22
"""Elements of a row gathered at a time elsewhere: the launches grow with P / SLAB, not with the tensors."""
_SPLITS = 128  # a slab's product is cut into this many, enough for every multiprocessor of a GPU
_SAFE = (1e-24, 1e37)  # squared norms between which no fp32 square matters that under- or overflows
_LARGEST = 2.0**96  # weights beyond it could overflow fp32 before they meet their tiny gradient


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

    def reached(self, parameters: Iterable[Tensor]) -> list[tuple[Tensor, int]]:
        """Returns the parameters that any task reaches, each with the number of tasks that do."""
        counts = ((p, sum(p in row for row in self.rows.values())) for p in parameters)
        return [(p, count) for p, count in counts if count]

    def gramian(self, parameters: Sequence[Tensor]) -> Tensor:
        """Returns the inner products of the rows over these parameters, ``(T, T)``, in float64.

        It lies on the parameters' device where that is one and has float64, else on the CPU, and nothing
        waits for the device. A chunk whose squares leave fp32's range is multiplied in float64, so that the
        scale of the gradients does not matter.
        """
        total = torch.zeros(len(self.rows), len(self.rows), dtype=torch.float64, device=_home(parameters))
        for groups, members in distributed.by_shard_groups(parameters).items():
            local = torch.zeros_like(total)
            direct, gathered = self._flat_rows(members)
            for flats in direct:
                local += _products(flats)
            for slab in _slabs(gathered):
                local += _gathered_products(slab).to(local.device)
            total += distributed.sum_over(local, groups)
        return total

    def combine(self, parameters: Sequence[Tensor], weights: Tensor) -> Row:
        """Returns ``weightsᵀ J`` over these parameters, in the storage of the first row that has each.

        The rows are used up.

        Args:
            parameters: Parameters that at least one task reaches.
            weights: ``(T,)``.
        """
        direct, gathered = self._flat_rows(parameters)
        if direct:
            factors = weights.tolist()
            if max(map(abs, factors)) > _LARGEST:
                direct, gathered = [], [*direct, *gathered]
            for flats in direct:
                _add_up(flats, factors)
        for slab in _slabs(gathered):
            _gathered_add_up(slab, weights)
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

    def sum(self) -> Row:
        """Returns the plain sum of the rows in new memory."""
        total: Row = {}
        for row in self.rows.values():
            for parameter, gradient in row.items():
                if parameter in total:
                    total[parameter].add_(gradient)
                else:
                    total[parameter] = gradient.clone()
        return total

    def _flat_rows(self, parameters: Iterable[Tensor]) -> tuple[list[Flats], list[Flats]]:
        """Returns each parameter's rows as flat real tensors: native ones of the CPU, and the others."""
        direct: list[Flats] = []
        gathered: list[Flats] = []
        for parameter in parameters:
            flats = [flat(row[parameter]) if parameter in row else None for row in self.rows.values()]
            some = _first(flats)
            if some.numel() == 0:
                continue
            native = some.device.type == "cpu" and some.dtype in (torch.float32, torch.float64)
            (direct if native else gathered).append(flats)
        return direct, gathered


def take(parameters: Iterable[Tensor], held: Iterable[Row]) -> Row:
    """Takes the gradients out of ``.grad`` and leaves None there.

    They are taken over without a copy, unless memory is shared with another gradient, taken now or held
    from before, or is laid out unlike the parameter: the sum is to be written there, in flat chunks.

    Raises:
        ValueError: If a gradient is sparse.
    """
    occupied: dict[int, list[tuple[int, int]]] = {}
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
        gradient = distributed.as_placed(gradient.detach(), parameter)
        local, model = distributed.local(gradient), distributed.local(parameter)
        if not _same_layout(local, model):
            gradient = torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)
        elif _occupy(occupied, local):
            gradient = gradient.clone()
        taken[parameter] = gradient
    return taken


def flat(gradient: Tensor) -> Tensor:
    """Returns the memory of a dense tensor, this rank's part of it, as a real vector ``(n,)``."""
    local = distributed.local(gradient)
    vector = local.as_strided((local.numel(),), (1,))
    return torch.view_as_real(vector).view(-1) if vector.is_complex() else vector


def _occupy(occupied: dict[int, list[tuple[int, int]]], tensor: Tensor) -> bool:
    """Notes the memory of a tensor and returns whether a part of it was noted before."""
    start = tensor.data_ptr()
    end = start + tensor.numel() * tensor.element_size()
    spans = occupied.setdefault(tensor.untyped_storage().data_ptr(), [])
    overlaps = any(start < b and a < end for a, b in spans)
    spans.append((start, end))
    return overlaps


def _same_layout(gradient: Tensor, parameter: Tensor) -> bool:
    """Returns whether the gradient is dense and its elements lie in the parameter's order."""
    if gradient.is_contiguous() and parameter.is_contiguous():
        return True
    if gradient.stride() != parameter.stride():
        return False
    order = sorted(range(gradient.dim()), key=gradient.stride, reverse=True)
    return gradient.permute(order).is_contiguous()


def _home(parameters: Sequence[Tensor]) -> torch.device:
    devices = {_precise(distributed.local(p).device) for p in parameters}
    return devices.pop() if len(devices) == 1 else torch.device("cpu")


def _precise(device: torch.device) -> torch.device:
    """Returns the device, or the CPU in place of one without float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _products(flats: Flats) -> Tensor:
    """Returns the products ``(T, T)`` of one parameter's rows, by chunks, summed in float64."""
    chunks = [() if t is None else torch.split(t, CHUNK) for t in flats]
    present = [t for t, parts in enumerate(chunks) if parts]
    total = [[0.0] * len(flats) for _ in flats]
    for k in range(max(map(len, chunks))):
        parts = {t: chunks[t][k] for t in present}
        squares = {t: torch.dot(part, part).item() for t, part in parts.items()}
        if not all(_is_safe(squares[t], part) for t, part in parts.items()):
            parts = {t: part.double() for t, part in parts.items()}
            squares = {t: torch.dot(part, part).item() for t, part in parts.items()}
        for i in present:
            total[i][i] += squares[i]
            for j in present[: present.index(i)]:
                product = torch.dot(parts[i], parts[j]).item()
                total[i][j] += product
                total[j][i] += product
    return torch.tensor(total, dtype=torch.float64)


def _is_safe(square: float, part: Tensor) -> bool:
    return _SAFE[0] < square < _SAFE[1] or (square == 0.0 and not part.any())


def _add_up(flats: Flats, weights: list[float]) -> None:
    """Writes the weighted sum of one parameter's rows into the first, by chunks."""
    present = [
        (torch.split(t, CHUNK), weight) for t, weight in zip(flats, weights, strict=True) if t is not None
    ]
    (targets, first), *others = present
    for k, target in enumerate(targets):
        if first != 1.0:
            target.mul_(first)
        for chunks, weight in others:
            target.add_(chunks[k], alpha=weight)


def _slabs(parameters: Iterable[Flats]) -> Iterator[list[Flats]]:
    """Cuts rows into lists of at most SLAB elements a row, each of one device and dtype."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[Flats]] = {}
    for flats in parameters:
        some = _first(flats)
        pieces = [[None] * -(-some.numel() // SLAB) if t is None else torch.split(t, SLAB) for t in flats]
        by_kind.setdefault((some.device, some.dtype), []).extend(map(list, zip(*pieces, strict=True)))
    for kind in by_kind.values():
        slab: list[Flats] = []
        room = SLAB
        for piece in kind:
            size = _first(piece).numel()
            if size > room:
                yield slab
                slab, room = [], SLAB
            slab.append(piece)
            room -= size
        if slab:
            yield slab


def _first(piece: Flats) -> Tensor:
    return next(t for t in piece if t is not None)


def _gather(slab: list[Flats]) -> Tensor:
    """Returns the slab's rows in float64, ``(T, n)``, n padded with zeros to a multiple of the splits."""
    zero = _first(slab[0]).new_zeros(1)
    sizes = [_first(piece).numel() for piece in slab]
    padding = zero.expand(-sum(sizes) % _SPLITS)
    pieces = []
    for t in range(len(slab[0])):
        for piece, size in zip(slab, sizes, strict=True):
            part = piece[t]
            pieces.append(zero.expand(size) if part is None else part)
        pieces.append(padding)
    rows = torch.cat(pieces).view(len(slab[0]), -1)
    return rows.to(_precise(rows.device)).double()


def _gathered_products(slab: list[Flats]) -> Tensor:
    rows = _gather(slab)
    splits = rows.view(len(rows), _SPLITS, -1).transpose(0, 1)
    return torch.bmm(splits, splits.transpose(1, 2)).sum(0)


def _gathered_add_up(slab: list[Flats], weights: Tensor) -> None:
    targets = [_first(piece) for piece in slab]
    rows = _gather(slab)
    total = (weights.to(rows.device, non_blocking=True) @ rows).to(targets[0].dtype).to(targets[0].device)
    sizes = [t.numel() for t in targets]
    torch._foreach_copy_(targets, list(total[: sum(sizes)].split_with_sizes(sizes)))
