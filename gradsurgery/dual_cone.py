"""Methods that project onto the cone of the directions in conflict with no task: UPGrad, DualProj."""

from functools import partial

import torch
from torch import Tensor

from .gramians import EPSILON, factor, solve_on_host
from .least_squares import nonnegative_least_squares
from .optimizer import GradientSurgery

_PROXIMAL_STEPS = 3


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
        return upgrad_weights(gramian, self.rounding)


class DualProj(GradientSurgery):
    """Projection of the sum onto the dual cone (Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 11).

    The update is the vector nearest to the sum of the gradients that conflicts with no task: ``Jᵀv``, with v
    the minimum of ``vᵀGv`` over ``v ≥ 1``. The arguments are those of :class:`GradientSurgery`. The T²
    numbers are read on the host, which waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, each at least 1."""
        return dualproj_weights(gramian, self.rounding)


def upgrad_weights(gramian: Tensor, rounding: float = EPSILON) -> Tensor:
    """Returns the weights ``(T,)`` of the sum of the projected gradients."""
    return solve_on_host(gramian, partial(_projections, rounding=rounding))


def dualproj_weights(gramian: Tensor, rounding: float = EPSILON) -> Tensor:
    """Returns the weights ``(T,)`` of the projected sum of the gradients."""
    return solve_on_host(gramian, partial(_projection, rounding=rounding))


def _projections(cosines: Tensor, lengths: Tensor, rounding: float) -> Tensor:
    units = factor(cosines)
    added = torch.stack([_added(units, unit, rounding) for unit in units.unbind(1)])
    return 1 + (lengths @ added) / lengths


def _projection(cosines: Tensor, lengths: Tensor, rounding: float) -> Tensor:
    units = factor(cosines)
    return 1 + _added(units, units @ lengths, rounding) / lengths


def _added(units: Tensor, vector: Tensor, rounding: float) -> Tensor:
    """Returns the v ≥ 0 ``(T,)`` of the ``vector + units v`` that conflicts with no unit gradient.

    Gradients that are opposite but for rounding would need a v without end to cancel what is not there. So
    each of a few minimisations of the square has a term ``rounding ‖v - v'‖²``, with v' the last one's v: the
    update never becomes longer than the vector, and where gradients are farther apart the steps converge.
    """
    root = rounding**0.5
    damped = torch.cat([units, root * torch.eye(units.shape[1], dtype=units.dtype, device=units.device)])
    v = torch.zeros_like(damped[0])
    for _ in range(_PROXIMAL_STEPS):
        last, v = v, nonnegative_least_squares(damped, torch.cat([-vector, root * v]), v)
        if torch.equal(v, last):  # above all 0, of a vector without a conflict
            break
    return v
