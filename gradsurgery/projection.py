"""Methods that project each task's gradient in turn: PCGrad, GradVac."""

from operator import add, mul
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import Optimizer

from .optimizer import GradientSurgery

FEW = 12
"""Tasks up to which Python's numbers are faster than calls of torch on the CPU."""


class PCGrad(GradientSurgery):
    """Projecting conflicting gradients (Yu et al. 2020, arXiv 2001.06782, Algorithm 1).

    For each task i: ``g = g_i``; for each j ≠ i in a random order, drawn anew for each i: if ``g·g_j < 0``
    then
    ``g -= (g·g_j / ‖g_j‖²) g_j``, with g_j the gradient as it was. The update is the sum of the g.

    The arguments are those of :class:`GradientSurgery`. Nothing waits for the device.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, each at least 1 since every projection adds a positive multiple of a g_j."""
        return pcgrad_weights(gramian, random_order(len(gramian), self.generator))


class GradVac(GradientSurgery):
    """Gradient vaccine (Wang et al. 2021, arXiv 2010.05874, Algorithm 1).

    PCGrad with a goal for each cosine, the moving average φ̂ of what it was: for each task i, ``g = g_i``;
    for each j ≠ i in a random order, with φ the cosine of g and g_j, if ``φ < φ̂_ij`` then ``g += ‖g‖ (φ̂_ij
    √(1-φ²) - φ √(1-φ̂_ij²)) / (‖g_j‖ √(1-φ̂_ij²)) g_j``, after which the cosine is φ̂_ij; and ``φ̂_ij = (1-β)
    φ̂_ij + β φ``. The update is the sum of the g.

    The averages begin at 0, so that ``beta=0`` is PCGrad. They belong to two names and to one surgery of the
    step, survive a step without one of the tasks, and are in the state_dict. A cosine that does not exist,
    for a gradient is zero or not finite, leaves its average alone. Nothing waits for the device.

    Args:
        optimizer: The optimizer that makes the update.
        beta: Share of the present cosine in the average, from 0 to 1.
        **options: Those of :class:`GradientSurgery`.

    Raises:
        ValueError: If ``beta`` is outside of [0, 1].
    """

    def __init__(self, optimizer: Optimizer, *, beta: float = 0.01, **options: Any) -> None:
        super().__init__(optimizer, **options)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be a share from 0 to 1, got {beta!r}: the paper takes 0.01")
        self.beta = beta
        self._averages: dict[int, tuple[tuple[str, ...], Tensor]] = {}

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, of which one may be below 1: a goal below 0 leaves a conflict."""
        known, averages = self._averages.get(self.part, ((), gramian.new_zeros(0, 0)))
        names = (*known, *(task for task in self.tasks if task not in known))
        new = len(names) - len(known)
        averages = pad(averages.to(gramian.device), (0, new, 0, new))
        index = torch.tensor([names.index(task) for task in self.tasks], device="cpu")
        index = index.to(gramian.device, non_blocking=True)
        weights, goals = gradvac_weights(
            gramian,
            random_order(len(gramian), self.generator),
            averages[index][:, index],
            self.beta,
        )
        self._averages[self.part] = names, averages.index_put((index.unsqueeze(1), index), goals)
        return weights

    def method_state(self) -> dict[str, Any]:
        """Returns the averages, by surgery, with the names of their rows and columns."""
        return {"averages": dict(self._averages)}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restores the averages; another method's checkpoint has none."""
        self._averages = state.get("averages", {})


def random_order(tasks: int, generator: torch.Generator) -> Tensor:
    """Returns for each task the others in a random order, ``(T, T - 1)``."""
    shuffled = torch.rand(tasks, max(tasks - 1, 0), generator=generator, device="cpu").argsort(dim=1)
    return shuffled + (shuffled >= torch.arange(tasks, device="cpu").unsqueeze(1))


def pcgrad_weights(gramian: Tensor, order: Tensor) -> Tensor:
    """Returns the weights of Algorithm 1, ``(T,)``, for orders of projection ``(T, T - 1)``.

    Row i of C holds the coefficients of the g of task i. On a device all tasks take their step at once,
    without a branch, so that nothing waits for it. On the CPU a call of torch takes longer than few numbers.
    """
    if gramian.is_cpu and len(gramian) <= FEW:
        return _pcgrad_weights_by_numbers(gramian, order)
    C = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    columns = torch.arange(len(gramian), device=gramian.device)
    squares = gramian.diagonal()
    for j in order.to(gramian.device, non_blocking=True).unbind(1):
        products = (C * gramian[j]).sum(1)  # g·g_j, of each task's own j
        # A zero gradient conflicts with nothing; a non-finite one must show in the result.
        steps = torch.where(squares[j] == 0, 0.0, products.clamp(max=0) / squares[j])
        C = C - torch.where(columns == j.unsqueeze(1), steps.unsqueeze(1), 0.0)
    return C.sum(0)


def _pcgrad_weights_by_numbers(gramian: Tensor, order: Tensor) -> Tensor:
    """Returns what :func:`pcgrad_weights` does."""
    G, total = gramian.tolist(), [0.0] * len(gramian)
    for i, others in enumerate(order.tolist()):
        c = [0.0] * len(G)
        c[i] = 1.0
        for j in others:
            product = sum(map(mul, c, G[j]))
            if G[j][j] != 0 and not product >= 0:  # true of one that is not a number
                c[j] -= product / G[j][j]
        total = list(map(add, total, c))
    return torch.tensor(total, dtype=gramian.dtype, device="cpu")


def gradvac_weights(gramian: Tensor, order: Tensor, goals: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Returns the weights ``(T,)`` and the new goals ``(T, T)``, of C as in :func:`pcgrad_weights`."""
    C = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    columns = torch.arange(len(gramian), device=gramian.device)
    lengths = gramian.diagonal().sqrt()
    for j in order.to(gramian.device, non_blocking=True).unbind(1):
        own = ((C @ gramian) * C).sum(1).clamp(min=0).sqrt()  # ‖g‖
        product = (C * gramian[j]).sum(1)
        cosine = (product / (own * lengths[j])).clamp(-1, 1)
        goal = goals.gather(1, j.unsqueeze(1)).squeeze(1)
        sine, goal_sine = (1 - cosine.square()).sqrt(), (1 - goal.square()).sqrt()
        step = own * (goal * sine - cosine * goal_sine) / (lengths[j] * goal_sine)
        # Zero gradients have no cosine, and a goal of 1 is beyond reach; what is not finite must show.
        settled = (own * lengths[j] * goal_sine == 0) | (cosine >= goal)
        steps = torch.where(settled, 0.0, step)
        C = C + torch.where(columns == j.unsqueeze(1), steps.unsqueeze(1), 0.0)
        average = torch.where(cosine.isfinite(), (1 - beta) * goal + beta * cosine, goal)
        goals = goals.scatter(1, j.unsqueeze(1), average.unsqueeze(1))
    return C.sum(0), goals
