"""Products and weighted sums of T rows that lie in many tensors: P numbers a row, T² products.

On the CPU, float32 and float64 rows are multiplied where they are, in chunks that stay in cache. Elsewhere,
and for other dtypes, they are gathered by slabs into one ``(T, n)`` float64 matrix, so that the launches
grow with P / SLAB, not with the number of tensors, and nothing waits for the device.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Flats: TypeAlias = list[Tensor | None]
"""One parameter's T gradients, each ``(n,)``, n > 0; None for a task that does not reach it."""

CHUNK = 2**19
"""Elements of a row multiplied at a time on the CPU."""
SLAB = 2**22
"""Elements of a row gathered at a time elsewhere."""
_SPLITS = 128  # a slab's product is cut into this many, enough for every multiprocessor of a GPU
_SAFE = (1e-24, 1e37)  # squared norms between which no float32 square matters that under- or overflows
_LARGEST = 2.0**96  # a weight beyond it could overflow float32 before it meets its tiny gradient


def home(devices: Iterable[torch.device]) -> torch.device:
    """Returns where T² numbers about tensors on these devices belong: there if it is one with float64."""
    distinct = {_precise(device) for device in devices}
    return distinct.pop() if len(distinct) == 1 else torch.device("cpu")


def gramian(parameters: Sequence[Flats], tasks: int, device: torch.device) -> Tensor:
    """Returns the rows' inner products ``(T, T)``, in float64.

    A chunk whose squares leave float32's range is multiplied in float64: the scale does not matter.
    """
    total = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
    direct, gathered = _divide(parameters)
    for flats in direct:
        total += _products(flats)
    for slab in _slabs(gathered):
        rows = _gather(slab)
        splits = rows.view(tasks, _SPLITS, -1).transpose(0, 1)
        total += torch.bmm(splits, splits.transpose(1, 2)).sum(0).to(device)
    return total


def combine(parameters: Sequence[Flats], weights: Tensor) -> None:
    """Writes the weighted sum of the rows into each parameter's first one."""
    direct, gathered = _divide(parameters)
    if direct:
        factors = weights.tolist()
        if max(map(abs, factors)) > _LARGEST:
            direct, gathered = [], list(parameters)
    for flats in direct:
        _add_up(flats, factors)
    for slab in _slabs(gathered):
        targets = [first(piece) for piece in slab]
        sizes = [t.numel() for t in targets]
        rows = _gather(slab)
        total = (weights.to(rows.device, non_blocking=True) @ rows).to(targets[0].dtype)
        parts = total[: sum(sizes)].to(targets[0].device).split_with_sizes(sizes)
        torch._foreach_copy_(targets, list(parts))


def first(flats: Flats) -> Tensor:
    """Returns the gradient of the first task that reaches the parameter."""
    return next(t for t in flats if t is not None)


def _divide(parameters: Sequence[Flats]) -> tuple[list[Flats], list[Flats]]:
    """Returns the parameters whose rows are multiplied where they are, and the others."""
    direct: list[Flats] = []
    gathered: list[Flats] = []
    for flats in parameters:
        some = first(flats)
        native = some.device.type == "cpu" and some.dtype in (torch.float32, torch.float64)
        (direct if native else gathered).append(flats)
    return direct, gathered


def _precise(device: torch.device) -> torch.device:
    """Returns the device, or the CPU in place of one without float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _products(flats: Flats) -> Tensor:
    """Returns the products ``(T, T)`` of one parameter's rows, summed over chunks in float64."""
    chunks = {t: torch.split(row, CHUNK) for t, row in enumerate(flats) if row is not None}
    total = [[0.0] * len(flats) for _ in flats]
    for k in range(max(map(len, chunks.values()))):
        parts = {t: split[k] for t, split in chunks.items()}
        squares = {t: torch.dot(part, part).item() for t, part in parts.items()}
        if not all(_is_safe(squares[t], part) for t, part in parts.items()):
            parts = {t: part.double() for t, part in parts.items()}
            squares = {t: torch.dot(part, part).item() for t, part in parts.items()}
        for i, part in parts.items():
            total[i][i] += squares[i]
            for j in range(i):
                if j in parts:
                    product = torch.dot(part, parts[j]).item()
                    total[i][j] += product
                    total[j][i] += product
    return torch.tensor(total, dtype=torch.float64)


def _is_safe(square: float, part: Tensor) -> bool:
    return _SAFE[0] < square < _SAFE[1] or (square == 0.0 and not part.any())


def _add_up(flats: Flats, weights: list[float]) -> None:
    """Writes the weighted sum of one parameter's rows into the first, by chunks."""
    (targets, factor), *others = [
        (torch.split(row, CHUNK), weight)
        for row, weight in zip(flats, weights, strict=True)
        if row is not None
    ]
    for k, target in enumerate(targets):
        if factor != 1.0:
            target.mul_(factor)
        for chunks, weight in others:
            target.add_(chunks[k], alpha=weight)


def _slabs(parameters: Iterable[Flats]) -> Iterator[list[Flats]]:
    """Cuts the parameters into lists of at most SLAB elements a row, each of one device and dtype."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[Flats]] = {}
    for flats in parameters:
        some = first(flats)
        count = -(-some.numel() // SLAB)
        splits = [[None] * count if row is None else torch.split(row, SLAB) for row in flats]
        by_kind.setdefault((some.device, some.dtype), []).extend(map(list, zip(*splits, strict=True)))
    for pieces in by_kind.values():
        slab: list[Flats] = []
        room = SLAB
        for piece in pieces:
            size = first(piece).numel()
            if size > room:
                yield slab
                slab, room = [], SLAB
            slab.append(piece)
            room -= size
        yield slab


def _gather(slab: list[Flats]) -> Tensor:
    """Returns the slab's rows in float64, ``(T, n)``, n padded with zeros to a multiple of the splits."""
    zero = first(slab[0]).new_zeros(1)
    sizes = [first(piece).numel() for piece in slab]
    pieces = []
    for row in zip(*slab, strict=True):
        pieces += [zero.expand(size) if p is None else p for p, size in zip(row, sizes, strict=True)]
        pieces.append(zero.expand(-sum(sizes) % _SPLITS))
    rows = torch.cat(pieces).view(len(slab[0]), -1)
    return rows.to(_precise(rows.device)).double()
