"""Methods that do not look at the gradients, to compare with: Sum, Mean, Constant, RLW."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .optimizer import GradientSurgery
from .options import Reduction


class Sum(GradientSurgery):
    """The sum of the gradients, as of one backward of the summed loss, with the conflicts reported.

    The arguments are those of :class:`GradientSurgery`. Nothing waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns ones."""
        return torch.ones_like(gramian.diagonal())


class Mean(Sum):
    """The mean of the gradients: :class:`Sum` with ``reduction="mean"``. Nothing waits for the device.

    The arguments are those of :class:`GradientSurgery`.

    Raises:
        ValueError: If ``reduction`` is another.
    """

    def __init__(self, optimizer: Optimizer, *, reduction: Reduction = "mean", **options: Any) -> None:
        if reduction != "mean":
            raise ValueError(f"reduction must be 'mean' for Mean, got {reduction!r}: take Sum")
        super().__init__(optimizer, reduction=reduction, **options)


class Constant(Sum):
    """A weighted sum of the gradients ("linear scalarization"): :class:`Sum` with weights that must be given.

    Nothing waits for the device.

    Args:
        optimizer: The optimizer that makes the update.
        task_weights: By task, what its gradient is multiplied by, positive.
        **options: The others of :class:`GradientSurgery`.
    """

    def __init__(self, optimizer: Optimizer, *, task_weights: Mapping[str, float], **options: Any) -> None:
        super().__init__(optimizer, task_weights=task_weights, **options)


class RLW(GradientSurgery):
    """Random loss weighting (Lin et al. 2022, arXiv 2111.10603, Algorithm 2).

    The weights are T times (once, with ``reduction="mean"``) the softmax of T normal numbers, drawn anew at
    each surgery from the ``generator``. A task without a gradient is left out of both. The arguments are
    those of :class:`GradientSurgery`. Nothing waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, all positive, whose sum is T, or of T tasks those that have a gradient."""
        drawn = torch.randn(len(gramian), generator=self.generator, dtype=torch.float64, device="cpu")
        takes_part = gramian.diagonal() != 0
        drawn = drawn.to(gramian.device, non_blocking=True).where(takes_part, -torch.inf)
        return (takes_part.sum() * drawn.softmax(0)).where(takes_part, 1.0)
