"""Exact least squares under inequalities, by active sets (Lawson and Hanson 1974, chapter 23)."""

import torch
from torch import Tensor

from .gramians import EPSILON


def nonnegative_least_squares(A: Tensor, target: Tensor, start: Tensor | None = None) -> Tensor:
    """Returns the x ≥ 0 ``(T,)`` that minimises ``‖A x − target‖``, algorithm NNLS.

    Args:
        A: ``(r, T)``. The size of a column does not matter.
        target: ``(r,)``.
        start: ``(T,)``, an x ≥ 0 that may be near; by default 0.
    """
    size = torch.linalg.vector_norm(target)
    sizes: Tensor = torch.linalg.vector_norm(A, dim=0)
    sizes = sizes.where(sizes > 0, 1.0)
    A = A / sizes
    x = A.new_zeros(A.shape[1]) if start is None else start * sizes
    x, positive = _minimise_within(A, target, x, x > 0)
    for _ in range(4 * len(x) + 8):  # about T are needed; rounding must not make it endless
        descent = A.T @ (target - A @ x)
        noise = 8 * len(A) * EPSILON * (size + x.sum())
        candidates = ~positive & (descent > noise)
        if not candidates.any():
            break
        positive[descent.where(candidates, 0.0).argmax()] = True
        x, positive = _minimise_within(A, target, x, positive)
    return x / sizes


def _minimise_within(A: Tensor, target: Tensor, x: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Moves to the minimum with these coordinates free, and fixes at 0 each that meets 0 on the way."""
    positive = positive.clone()
    while positive.any():
        free = torch.linalg.lstsq(A[:, positive], target.unsqueeze(1), driver="gelsd").solution
        goal = torch.zeros_like(x)
        goal[positive] = free.squeeze(1)
        blocking = positive & (goal <= 0)
        if not blocking.any():
            return goal, positive
        reach = torch.where(blocking, x / (x - goal).where(x != goal, 1.0), torch.inf)
        first = reach.argmin()
        x = (x + reach[first] * (goal - x)).where(positive, 0.0).clamp(min=0)
        positive &= x > 0
        positive[first] = False
        x = x.where(positive, 0.0)
    return x, positive


def least_distance(A: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the shortest z with ``Aᵀ z ≥ bounds`` and its multipliers v ≥ 0, ``z = A v``; algorithm LDP.

    Args:
        A: ``(r, T)``, of unit columns.
        bounds: ``(T,)``.

    Returns:
        z ``(r,)`` and v ``(T,)``; infinite where no z is far enough.
    """
    scale = bounds.max()
    if scale <= 0:
        return torch.zeros_like(A[:, 0]), torch.zeros_like(bounds)
    rows = torch.cat([A, (bounds / scale).unsqueeze(0)])
    target = torch.zeros_like(rows[:, 0])
    target[-1] = 1
    x = nonnegative_least_squares(rows, target)
    gap = (target - rows @ x).square().sum()
    if gap <= 64 * len(bounds) * EPSILON:
        return torch.full_like(A[:, 0], torch.inf), torch.full_like(bounds, torch.inf)
    v = x * scale / gap
    return A @ v, v
