"""What the methods that solve a small problem on the host have in common: cosines, lengths, factors."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps
_SINGLE = torch.finfo(torch.float32).eps


def rounding_of(dtypes: Iterable[torch.dtype]) -> float:
    """Returns what gradients of these dtypes leave uncertain of a cosine between two of them.

    Products of float64 are multiplied in float64, of all others in float32 at least. Two gradients that are
    one but for the rounding of their numbers, by u each, have a cosine of ``1 - u²``.
    """
    found = [torch.finfo(dtype).eps for dtype in dtypes]
    return max([EPSILON, *(max(_SINGLE, eps**2) for eps in found if eps > EPSILON)])


def solve_on_host(gramian: Tensor, solve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Returns the weights that a function of cosines and lengths gives, on the Gramian's device.

    Reading the T² numbers waits for the device. A task whose gradient is zero, for one that reaches none of
    the parameters, is left out of the problem, and its weight is 1. Where the Gramian is not finite, neither
    is any weight: it must show in the result.

    Args:
        gramian: Inner products of the task gradients, ``(T, T)``.
        solve: Of the K other tasks, takes the cosines ``(K, K)`` and the lengths ``(K,)``, the largest of
            which is 1, both float64 on the CPU; returns the weights ``(K,)``.
    """
    host = gramian.to("cpu", torch.float64)
    weights = torch.ones_like(host.diagonal())
    kept = host.diagonal() > 0
    if not host.isfinite().all():
        weights.fill_(torch.nan)
    elif kept.any():
        lengths = host.diagonal()[kept].sqrt()
        cosines = (host[kept][:, kept] / lengths / lengths.unsqueeze(1)).clamp(-1, 1)
        weights[kept] = solve(cosines.fill_diagonal_(1), lengths / lengths.max())
    return weights.to(gramian.device)


def spectrum(matrix: Tensor, rounding: float = EPSILON) -> tuple[Tensor, Tensor]:
    """Returns the r eigenvalues that are more than rounding, ascending, and their vectors, ``(T, r)``."""
    values, vectors = torch.linalg.eigh(matrix)
    # Entries uncertain by that much leave an eigenvalue uncertain by T times as much; eigh, by its own size.
    kept = values > len(matrix) * max(rounding, EPSILON * float(values[-1]))
    return values[kept], vectors[:, kept]


def factor(matrix: Tensor, rounding: float = EPSILON) -> Tensor:
    """Returns A ``(r, T)`` with ``AᵀA`` the matrix: vectors in r dimensions with its inner products."""
    values, vectors = spectrum(matrix, rounding)
    return (vectors * values.sqrt()).T


def equiangular(cosines: Tensor, rounding: float = EPSILON) -> Tensor:
    """Returns the weights of the unit gradients in the vector whose product with each of them is 1.

    Where there is no such vector, as for opposite gradients, it comes closest to it; 0 if none comes closer.
    """
    values, vectors = spectrum(cosines, rounding)
    shares = vectors.sum(0)
    shares = shares.where(shares.abs() > 4 * max(rounding, len(cosines) * EPSILON), 0.0)
    return vectors @ (shares / values)
