"""Methods that give the gradients one angle, or one spectrum: IMTL-G, ConFIG, Aligned-MTL."""

from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from .gramians import EPSILON, equiangular, factor, solve_on_host
from .optimizer import GradientSurgery
from .options import check_option

ScaleMode: TypeAlias = Literal["min", "median", "rmse"]


class IMTLG(GradientSurgery):
    """Impartial multi-task learning, its gradient balance (Liu et al. 2021, ICLR).

    The update has the same projection on every gradient: with u_i the unit gradients, ``u_i·d`` is one
    number. The weights add up to T (to 1 with ``reduction="mean"``), and some may be negative; of three tasks
    or more that number may be, too, even where no gradients conflict, and then every loss rises. Where the
    weights can only cancel, as for opposite gradients, all are 0. Dependent gradients without such a d have
    the one that comes closest.

    A task whose gradient is zero is left out. The arguments are those of :class:`GradientSurgery`. The T²
    numbers are read on the host, which waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, whose sum is T, or 0."""
        return imtlg_weights(gramian, self.rounding)


class ConFIG(GradientSurgery):
    """Conflict-free inverse gradients (Liu et al. 2024, arXiv 2408.11104, equation 2).

    The update has the same cosine with every gradient, ``U⁺1`` with U the unit gradients, and as its length
    the sum of the gradients' projections on it. Dependent gradients without such a direction have the one
    that comes closest; opposite ones have 0.

    A task whose gradient is zero is left out. The arguments are those of :class:`GradientSurgery`. The T²
    numbers are read on the host, which waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights; some may be negative."""
        return config_weights(gramian, self.rounding)


class AlignedMTL(GradientSurgery):
    """Independent component alignment (Senushkin et al. 2023, CVPR, Algorithm 1).

    The gradients are replaced by the nearest ones that are orthogonal and of one length, and these are added
    up. With ``G = V Λ Vᵀ`` the weights are ``√λ V Λ^(-½) Vᵀ 1``; directions that are lost in rounding, as
    that of a gradient shorter than the longest by 1e15 and more, are left out. The T² numbers are read on
    the host, which waits for the device.

    Args:
        optimizer: The optimizer that makes the update.
        scale_mode: Which λ the length is the root of: the least eigenvalue (``"min"``, the paper's), the
            ``"median"`` (the lower of two), or the mean, by which the length is the root mean square of the
            singular values (``"rmse"``, the authors' code's).
        **options: Those of :class:`GradientSurgery`.

    Raises:
        ValueError: If ``scale_mode`` is no such word.
    """

    def __init__(self, optimizer: Optimizer, *, scale_mode: ScaleMode = "min", **options: Any) -> None:
        super().__init__(optimizer, **options)
        check_option("scale_mode", scale_mode, ("min", "median", "rmse"))
        self.scale_mode = scale_mode

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights; some may be negative."""
        return aligned_weights(gramian, self.scale_mode, self.rounding)


def imtlg_weights(gramian: Tensor, rounding: float = EPSILON) -> Tensor:
    """Returns the weights ``(T,)`` of equal projections, whose sum is T."""
    return solve_on_host(gramian, partial(_impartial, rounding=rounding))


def config_weights(gramian: Tensor, rounding: float = EPSILON) -> Tensor:
    """Returns the weights ``(T,)`` of ConFIG's update."""
    return solve_on_host(gramian, partial(_conflict_free, rounding=rounding))


def aligned_weights(gramian: Tensor, scale_mode: ScaleMode, rounding: float = EPSILON) -> Tensor:
    """Returns the weights ``(T,)`` of the sum of the aligned gradients."""
    return solve_on_host(gramian, partial(_aligned, scale_mode=scale_mode, rounding=rounding))


def _impartial(cosines: Tensor, lengths: Tensor, rounding: float) -> Tensor:
    alpha = equiangular(cosines, rounding) / lengths
    total = alpha.sum()
    if total.abs() <= 8 * len(alpha) * rounding * alpha.abs().sum():
        return alpha * 0
    return len(alpha) * alpha / total


def _conflict_free(cosines: Tensor, lengths: Tensor, rounding: float) -> Tensor:
    y = equiangular(cosines, rounding)
    products = cosines @ y
    square = y @ products
    return y / lengths * ((lengths @ products) / square if square > 0 else 0.0)


def _aligned(cosines: Tensor, lengths: Tensor, scale_mode: ScaleMode, rounding: float) -> Tensor:
    # Singular values, for their squares would be lost in rounding from lengths apart by 1e8 on.
    _, sigma, vectors = torch.linalg.svd(factor(cosines, rounding) * lengths, full_matrices=False)
    kept = sigma > len(lengths) * EPSILON * sigma[0]
    sigma, vectors = sigma[kept], vectors[kept]
    squares = sigma.square()
    chosen = {"min": squares.min(), "median": squares.median(), "rmse": squares.mean()}[scale_mode]
    weights: Tensor = vectors.T @ (vectors.sum(1) * (chosen.sqrt() / sigma))
    return weights
