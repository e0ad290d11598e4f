"""Methods that look for the shortest vector of a hull, or of a ball: MGDA, CAGrad."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .gramians import EPSILON, factor, solve_on_host
from .least_squares import least_distance, nonnegative_least_squares
from .optimizer import GradientSurgery

_RIDGE = 1e-10  # by which CAGrad's multipliers stay below 1e5 of its radius


class MGDA(GradientSurgery):
    """Multiple-gradient descent (Désidéri 2012; Sener and Koltun 2018, arXiv 1810.04650, equation 3).

    The update is T times the shortest convex combination of the gradients, ``min ‖Jᵀw‖²`` over
    ``w ≥ 0, Σw = 1``; with ``reduction="mean"`` it is the combination itself. It conflicts with no task, and
    its product with each gradient is at least its own square. The minimum is exact, not Frank-Wolfe's.

    A task whose gradient is zero, for one that reaches none of the parameters, is left out: it would make the
    update zero. The arguments are those of :class:`GradientSurgery`. The T² numbers are read on the host,
    which waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, none negative, whose sum is T."""
        return mgda_weights(gramian)


class CAGrad(GradientSurgery):
    """Conflict-averse gradient descent (Liu et al. 2021, arXiv 2110.14048, Algorithm 1).

    With g the mean of the gradients, the update is T times the d (the d itself with ``reduction="mean"``)
    that gives the worst off most, ``max min_i g_i·d`` over ``‖d - g‖ ≤ c ‖g‖``. No task is worse off than the
    worst off is with the mean; from ``c=1`` on, none is in conflict. Of several such d, as at a
    Pareto-stationary point, it is the one nearest to g. A single task keeps its gradient, where the ball's
    end is 1 + c times as long; a task whose gradient is zero is left out.

    The T² numbers are read on the host, which waits for the device.

    Args:
        optimizer: The optimizer that makes the update.
        c: The ball's radius as a share of ``‖g‖``. 0 gives the mean.
        **options: Those of :class:`GradientSurgery`.

    Raises:
        ValueError: If ``c`` is negative or not finite.
    """

    def __init__(self, optimizer: Optimizer, *, c: float = 0.4, **options: Any) -> None:
        super().__init__(optimizer, **options)
        if not 0 <= c < math.inf:
            raise ValueError(f"c must be finite and at least 0, got {c!r}: the paper takes 0.2 to 0.8")
        self.c = c

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, each at least 1."""
        return cagrad_weights(gramian, self.c)


def mgda_weights(gramian: Tensor) -> Tensor:
    """Returns T times the weights ``(T,)`` of the shortest convex combination."""
    return solve_on_host(gramian, lambda cosines, lengths: _shortest(factor(cosines), lengths))


def cagrad_weights(gramian: Tensor, c: float) -> Tensor:
    """Returns the weights ``(T,)`` of T times CAGrad's d."""
    return solve_on_host(gramian, partial(_worst_off_most, c=c))


def _shortest(units: Tensor, lengths: Tensor) -> Tensor:
    """Returns T times the weights ``(T,)`` of the shortest convex combination of gradients.

    Args:
        units: The unit gradients, ``(r, T)``.
        lengths: ``(T,)``.
    """
    # Asking for Σx = 1 by one more row, whatever its size, leaves w = x / Σx as it is: at the minimum G x is
    # at least one number for all tasks, and that number where x > 0.
    row = lengths.min().expand(1, len(lengths))
    rows = torch.cat([units * lengths, row])
    target = torch.zeros_like(rows[:, 0])
    target[-1] = lengths.min()
    x = nonnegative_least_squares(rows, target)
    return len(x) * x / x.sum()


def _worst_off_most(cosines: Tensor, lengths: Tensor, c: float) -> Tensor:
    """Finds the θ for which the d nearest to the mean with ``g_i·d ≥ θ`` lies on the ball's edge.

    The distance of that d is a convex function of θ, and Newton's steps towards its value c ‖g‖ come from
    above.
    """
    if len(lengths) == 1:
        return torch.ones_like(lengths)
    units = factor(cosines)
    gradients = units * lengths
    # What is added may not count on gradients that cancel each other but for their rounding.
    stiff = torch.cat([units, _RIDGE**0.5 * torch.eye(len(lengths), dtype=units.dtype, device=units.device)])
    mean = gradients.mean(1)
    radius = c * torch.linalg.vector_norm(mean)
    multipliers = torch.zeros_like(lengths)
    # Any convex combination bounds the maximum: each task alone, and the shortest.
    shortest = gradients @ _shortest(units, lengths) / len(lengths)
    hull = torch.cat([gradients, shortest.unsqueeze(1)], dim=1)
    theta = high = (mean @ hull + radius * torch.linalg.vector_norm(hull, dim=0)).min()
    low = (mean @ gradients).min()
    for _ in range(64):
        z, v = least_distance(stiff, theta / lengths - mean @ units)
        distance = torch.linalg.vector_norm(z)
        if distance <= radius * (1 + 1e-13):
            low, multipliers = theta, v
        else:
            high = theta
        if (distance - radius).abs() <= 1e-13 * radius or high - low <= EPSILON * (high.abs() + low.abs()):
            break
        newton = theta - (distance - radius) * distance / (v / lengths).sum()
        theta = newton if low < newton < high else (low + high) / 2
    return 1 + len(lengths) * multipliers / lengths
