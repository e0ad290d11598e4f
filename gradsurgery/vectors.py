"""Products and weighted sums of T rows that lie in many tensors: P numbers a row, T² products.

On the CPU, float32 and float64 rows are multiplied and added up where they are, in chunks that stay in cache;
but small tensors are gathered there before they are multiplied, since one product of matrices is then faster
than T² calls a tensor. Elsewhere, and for other dtypes, rows are gathered by slabs into one
``(T, n)`` float64 matrix, so that the launches grow with P / SLAB, not with the number of tensors, and
nothing waits for the device.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from . import kernels

Piece: TypeAlias = list[Tensor | None]
"""T gradients of one parameter, or of a part of it, dense and laid out alike, not empty; None for a task that
does not reach it."""

CHUNK = 9 * 2**14
"""Elements of a row multiplied at a time where they are; a float32 sum of many more is off by over 1e-6."""
SUMMED = 2**19
"""Elements of a row added up at a time on the CPU, or gathered where its dtype is another."""
GATHERED = 15 * 2**15
"""Elements of all rows gathered at a time on the CPU."""
SLAB = 2**22
"""Elements of a row gathered at a time on other devices."""
SMALL = 2**14
"""Elements of a tensor from which on it is worth T² calls of its own."""
_BLOCK = 4  # rows multiplied with all before them in one product of matrices
_SPLITS = 128  # a slab's product is cut into this many, enough for every multiprocessor of a GPU
_CPU_SPLITS = 16  # likewise, for sums in float32 that are short enough to be accurate
_ALIGNED = 16 * _CPU_SPLITS  # elements a row, so that each split begins at a line of the cache
_SAFE = (1e-24, 1e37)  # squared norms between which no float32 square matters that under- or overflows
_LARGEST = 2.0**96  # a weight beyond it could overflow float32 before it meets its tiny gradient


def home(devices: Iterable[torch.device]) -> torch.device:
    """Returns where T² numbers about tensors on these devices belong: there if it is one with float64."""
    distinct = {_precise(device) for device in devices}
    return distinct.pop() if len(distinct) == 1 else torch.device("cpu")


def gramian(parameters: Sequence[Piece], tasks: int, device: torch.device) -> Tensor:
    """Returns the rows' inner products ``(T, T)``, in float64.

    A chunk whose squares leave float32's range is multiplied in float64: the scale does not matter.
    """
    total = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
    native, others = _divide(parameters)
    if native and kernels.take(native, tasks):
        total += kernels.gramian(native, tasks).to(device)
    elif native:
        total += _native_products(native, tasks)
    for slab in _slabs(others):
        total += _slab_products(_gather(slab, multiple=_SPLITS).double()).to(device)
    return total


def combine(parameters: Sequence[Piece], *weights: Tensor) -> None:
    """Writes the weighted sum of the rows into each parameter's first one.

    Args:
        parameters: The rows; with a second sum, what that is written into comes last: new memory, or a row
            that is not the first.
        *weights: ``(T,)``, of one sum or two.
    """
    tasks = len(weights[0])
    native, others = _divide(parameters)
    if native:
        factors = [some.tolist() for some in weights]
        if max(abs(factor) for some in factors for factor in some) > _LARGEST:
            native, others = [], list(parameters)
        elif kernels.take(native, tasks):
            targets = [first(piece[k * tasks :]) for piece in native for k in range(len(weights))]
            kernels.combine([piece[:tasks] for piece in native], factors, targets)
            native = []
    for slab in _slabs(native, SUMMED):
        rows = [piece[:tasks] for piece in slab]
        if len(weights) == 1:
            _add_up(rows, factors[0])
            continue
        copies = [[t.clone() if t is first(piece) else t for t in piece] for piece in rows]
        _add_up(copies, factors[1])
        _add_up(rows, factors[0])
        torch._foreach_copy_([first(piece[tasks:]) for piece in slab], [first(piece) for piece in copies])
    for slab in _slabs(others):
        _write_sums(slab, torch.stack(weights))


def first(piece: Piece) -> Tensor:
    """Returns the gradient of the first task that reaches the parameter."""
    return next(t for t in piece if t is not None) if piece[0] is None else piece[0]


def flat(tensor: Tensor) -> Tensor:
    """Returns the memory of a dense tensor as a vector ``(n,)``."""
    if tensor.is_contiguous():
        return tensor if tensor.dim() == 1 else tensor.view(-1)
    return tensor.as_strided((tensor.numel(),), (1,))


def _divide(parameters: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Returns the parameters whose rows the CPU's own kernels take as they are, and the others."""
    native: list[Piece] = []
    others: list[Piece] = []
    for piece in parameters:
        some = first(piece)
        is_native = some.is_cpu and some.dtype in (torch.float32, torch.float64)
        (native if is_native else others).append(piece)
    return native, others


def _precise(device: torch.device) -> torch.device:
    """Returns the device, or the CPU in place of one without float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _native_products(parameters: Sequence[Piece], tasks: int) -> Tensor:
    """Returns the products ``(T, T)``, summed over chunks in float64."""
    lower = [[0.0] * tasks for _ in range(tasks)]
    small = []
    for parameter in parameters:
        if first(parameter).numel() < SMALL:
            small.append(parameter)
            continue
        reaching = [t for t, row in enumerate(parameter) if row is not None]
        for piece in _cut(parameter, CHUNK):
            _add(lower, reaching, _dots([flat(row) for row in piece if row is not None]))
    most = max(GATHERED // tasks // _ALIGNED, 1) * _ALIGNED
    size = min(most, sum(first(parameter).numel() for parameter in small) + _ALIGNED)
    buffers: dict[torch.dtype, Tensor] = {}  # one for all slabs: to map new memory for each can cost as much
    with torch.autocast("cpu", enabled=False):  # it would multiply matrices, not dots, in bfloat16
        for slab in _slabs(small, most):
            dtype = first(slab[0]).dtype
            if dtype not in buffers:
                buffers[dtype] = torch.empty(tasks * size, dtype=dtype, device="cpu")
            rows = _gather(slab, multiple=_ALIGNED, buffer=buffers[dtype])
            _add(lower, range(tasks), _matrix_products(rows))
    total = torch.tensor(lower, dtype=torch.float64, device="cpu").tril()
    return total + total.tril(-1).T


def _add(lower: list[list[float]], tasks: Sequence[int], products: Sequence[Sequence[float]]) -> None:
    """Adds products of these tasks' rows, of each with those up to it at least."""
    for t, line in zip(tasks, products, strict=True):
        for s, product in zip(tasks, line, strict=False):
            lower[t][s] += product


def _dots(rows: Sequence[Tensor]) -> list[list[float]]:
    """Returns the products of each row with those up to it, itself the last.

    The others are in cache by then, so that a row comes from memory while it is multiplied.
    """
    products = [[torch.dot(row, other).item() for other in rows[: k + 1]] for k, row in enumerate(rows)]
    return products if _are_safe(products, rows) else _dots([row.double() for row in rows])


def _matrix_products(rows: Tensor) -> list[list[float]]:
    """Returns the products of each row with those up to it at least, from ``(T, n)``."""
    splits = rows.view(len(rows), _CPU_SPLITS, -1).transpose(0, 1)
    products = []
    for end in range(_BLOCK, len(rows) + _BLOCK, _BLOCK):
        block = torch.bmm(splits[:, end - _BLOCK : end], splits[:, :end].transpose(1, 2))
        products += block.sum(0, dtype=torch.float64).tolist()
    return products if _are_safe(products, rows) else _matrix_products(rows.double())


def _are_safe(products: Sequence[Sequence[float]], rows: Sequence[Tensor] | Tensor) -> bool:
    """Returns whether float32 was enough for the products, told by the squares."""
    if rows[0].dtype == torch.float64:
        return True
    squares = [line[k] for k, line in enumerate(products)]
    # Rare words' gradients are all zeros; to look for others among the bytes is five times as fast.
    return all(
        _SAFE[0] < s < _SAFE[1] or (s == 0.0 and not rows[k].view(torch.uint8).any())
        for k, s in enumerate(squares)
    )


def _add_up(slab: Sequence[Piece], weights: Sequence[float]) -> None:
    """Writes the weighted sum of the rows into each piece's first one."""
    small = []
    for piece in slab:
        if first(piece).numel() < SMALL:
            small.append(piece)
            continue
        (target, weight), *others = [(t, w) for t, w in zip(piece, weights, strict=True) if t is not None]
        if weight not in (0.0, 1.0) and others:  # a factor of 0 would drop what is not finite
            row, factor = others.pop(0)
            flat(target).unsqueeze(1).addr_(flat(row), row.new_ones(1), beta=weight, alpha=factor)
        elif weight != 1.0:
            target.mul_(weight)
        for row, factor in others:
            target.add_(row, alpha=factor)
    targets = [first(piece) for piece in small]
    for parts, weight in zip(zip(*small, strict=True), weights, strict=bool(small)):
        own = [target for target, part in zip(targets, parts, strict=True) if part is target]
        if own and weight != 1.0:
            torch._foreach_mul_(own, weight)
        if len(own) < len(parts):
            added = [(t, p) for t, p in zip(targets, parts, strict=True) if p is not None and p is not t]
            if added:
                torch._foreach_add_(*map(list, zip(*added, strict=True)), alpha=weight)


def _slab_products(rows: Tensor) -> Tensor:
    """Returns the products ``(T, T)`` of rows ``(T, n)``, n a multiple of the splits."""
    splits = rows.view(len(rows), _SPLITS, -1).transpose(0, 1)
    return torch.bmm(splits, splits.transpose(1, 2)).sum(0)


def _write_sums(slab: Sequence[Piece], weights: Tensor) -> None:
    """Does what :func:`combine` does with one slab, for weights ``(K, T)``, in float64."""
    tasks = weights.shape[1]
    rows = _gather([piece[:tasks] for piece in slab]).double()
    for k, total in enumerate(weights.to(rows.device, non_blocking=True) @ rows):  # (K, n)
        targets = [flat(first(piece[tasks:] if k else piece)) for piece in slab]
        parts = total.to(targets[0]).split_with_sizes([t.numel() for t in targets])
        torch._foreach_copy_(targets, list(parts))


def _slabs(parameters: Iterable[Piece], size: int | None = None) -> Iterator[list[Piece]]:
    """Cuts the parameters into lists of at most ``size`` elements a row, each of one device and dtype."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[Piece]] = {}
    for parameter in parameters:
        some = first(parameter)
        by_kind.setdefault((some.device, some.dtype), []).append(parameter)
    for (device, _), members in by_kind.items():
        most = size or (SUMMED if device.type == "cpu" else SLAB)
        slab: list[Piece] = []
        room = most
        for parameter in members:
            for piece in _cut(parameter, most):
                length = first(piece).numel()
                if length > room:
                    yield slab
                    slab, room = [], most
                slab.append(piece)
                room -= length
        yield slab


def _cut(parameter: Piece, size: int) -> Iterable[Piece]:
    """Cuts the rows into pieces of at most ``size`` elements."""
    length = first(parameter).numel()
    if length <= size:
        return (parameter,)
    count = -(-length // size)
    splits = [[None] * count if row is None else torch.split(flat(row), size) for row in parameter]
    return map(list, zip(*splits, strict=True))


def _gather(slab: Sequence[Piece], *, multiple: int = 1, buffer: Tensor | None = None) -> Tensor:
    """Returns the slab's rows as ``(T, n)``, n padded with zeros to a multiple, where there is float64.

    They lie in the buffer, if there is one.
    """
    sizes = [first(piece).numel() for piece in slab]
    zero = first(slab[0]).new_zeros(1)
    padding = [zero.expand(-sum(sizes) % multiple)]
    parts = []
    for row in zip(*slab, strict=True):
        parts += [zero.expand(n) if part is None else flat(part) for part, n in zip(row, sizes, strict=True)]
        parts += padding
    length = len(slab[0]) * (sum(sizes) + len(padding[0]))
    rows = torch.cat(parts, out=None if buffer is None else buffer[:length]).view(len(slab[0]), -1)
    return rows.to(_precise(rows.device))
