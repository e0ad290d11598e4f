"""Methods that project onto the cone of the directions in conflict with no task: UPGrad, DualProj."""

import torch
from torch import Tensor

from .gramians import factor, solve_on_host
from .least_squares import nonnegative_least_squares
from .optimizer import GradientSurgery


class UPGrad(GradientSurgery):
    """Unconflicting projection of gradients (Quinton and Rey 2024, arXiv 2406.16232).

    Each gradient is projected onto the cone of the directions d with ``g_j·d ≥ 0`` for all j; the update is
    the sum of the projections, and conflicts with no task. Of two tasks it is PCGrad.

    The projection of g_i is ``Jᵀv``, with v the minimum of ``vᵀGv`` over ``v ≥ e_i``; it is exact, and the
    scale of one task's gradient changes its own projection alone. The arguments are those of
    :class:`GradientSurgery`. The T² numbers are read on the host, which waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, each at least 1."""
        return upgrad_weights(gramian)


class DualProj(GradientSurgery):
    """Projection of the sum onto the dual cone (Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 11).

    The update is the vector nearest to the sum of the gradients that conflicts with no task: ``Jᵀv``, with v
    the minimum of ``vᵀGv`` over ``v ≥ 1``. The arguments are those of :class:`GradientSurgery`. The T²
    numbers are read on the host, which waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, each at least 1."""
        return dualproj_weights(gramian)


def upgrad_weights(gramian: Tensor) -> Tensor:
    """Returns the weights ``(T,)`` of the sum of the projected gradients."""
    return solve_on_host(gramian, _projections)


def dualproj_weights(gramian: Tensor) -> Tensor:
    """Returns the weights ``(T,)`` of the projected sum of the gradients."""
    return solve_on_host(gramian, _projection)


def _projections(cosines: Tensor, lengths: Tensor) -> Tensor:
    units = factor(cosines)
    added = torch.stack([nonnegative_least_squares(units, -unit) for unit in units.unbind(1)])
    return 1 + (lengths @ added) / lengths


def _projection(cosines: Tensor, lengths: Tensor) -> Tensor:
    units = factor(cosines)
    return 1 + nonnegative_least_squares(units, -units @ lengths, size=lengths.sum()) / lengths
