"""The methods: each maps the Gramian of the task gradients to the weights of their sum."""

import torch
from torch import Tensor

from .optimizer import GradientSurgery


class PCGrad(GradientSurgery):
    """Projecting conflicting gradients (Yu et al. 2020, arXiv 2001.06782, Algorithm 1).

    For each task i: ``g = g_i``; for each j ≠ i in a random order, drawn anew for each i: if ``g·g_j < 0``
    then
    ``g -= (g·g_j / ‖g_j‖²) g_j``, with g_j the gradient as it was. The update is the sum of the g.

    The arguments are those of :class:`GradientSurgery`.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, each at least 1 since every projection adds a positive multiple of a g_j."""
        return pcgrad_weights(gramian, random_order(len(gramian), self.generator))


def random_order(tasks: int, generator: torch.Generator) -> Tensor:
    """Returns for each task the others in a random order, ``(T, T - 1)``."""
    shuffled = torch.rand(tasks, max(tasks - 1, 0), generator=generator).argsort(dim=1)
    return shuffled + (shuffled >= torch.arange(tasks).unsqueeze(1))


def pcgrad_weights(gramian: Tensor, order: Tensor) -> Tensor:
    """Returns the weights of Algorithm 1, ``(T,)``, for orders of projection ``(T, T - 1)``.

    Row i of C holds the coefficients of the g of task i. All tasks take their step at once, without a branch,
    so that nothing waits for the device.
    """
    C = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    columns = torch.arange(len(gramian), device=gramian.device)
    squares = gramian.diagonal()
    for j in order.to(gramian.device, non_blocking=True).unbind(1):
        products = (C * gramian[j]).sum(1)  # g·g_j, of each task's own j
        # A zero gradient conflicts with nothing; a non-finite one must show in the result.
        steps = torch.where(squares[j] == 0, 0.0, products.clamp(max=0) / squares[j])
        C = C - torch.where(columns == j.unsqueeze(1), steps.unsqueeze(1), 0.0)
    return C.sum(0)
