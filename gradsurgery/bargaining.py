"""Nash-MTL: the tasks bargain for the direction of the update."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .gramians import EPSILON, solve_on_host, spectrum
from .optimizer import GradientSurgery

_LARGEST = 1e5  # of a weight of unit gradients, whose square times the rounding of a cosine is still small
_RIDGE = 1e-10


class NashMTL(GradientSurgery):
    """Multi-task learning as a bargaining game (Navon et al. 2022, arXiv 2202.01017, Claim 3.1).

    The update is the direction that maximises the product of the ``g_i·d``: its weights a > 0 solve ``(G a)_i
    = 1 / a_i``, found to the last digits by Newton's method. The equation gives the update one length
    whatever the gradients; here it is multiplied by their root mean square, so that it scales with them, as a
    ``GradScaler`` needs, a single task keeps its gradient, and orthogonal gradients of one length their sum.
    Where no direction is good for every task (opposite gradients), the update is the limit of those of
    gradients that come ever closer to such a place, to 1e-5 of their length (in float32, whose rounding the
    Gramian has, to some 3e-3): what conflicts cancels, what does not stays.

    The weights of the last solution, and how often they were used, belong to the task's names and to one
    surgery of the step, and are in the state_dict. A task whose gradient is zero is left out. A step that
    solves the equation reads the T² numbers on the host, which waits for the device; the others do not.

    Args:
        optimizer: The optimizer that makes the update.
        update_every: In how many steps the equation is solved once; the others take its last solution. A
            task without a weight in it has it solved at once.
        **options: Those of :class:`GradientSurgery`.

    Raises:
        ValueError: If ``update_every`` is no positive integer.
    """

    def __init__(self, optimizer: Optimizer, *, update_every: int = 1, **options: Any) -> None:
        super().__init__(optimizer, **options)
        if not isinstance(update_every, int) or update_every < 1:
            raise ValueError(f"update_every must be a positive integer, got {update_every!r}: 1 is each step")
        self.update_every = update_every
        self._solutions: dict[int, dict[str, float]] = {}
        self._uses: dict[int, int] = {}

    def weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights, all positive except where no direction is good for every task."""
        if len(self.tasks) == 1:
            return torch.ones_like(gramian[0])
        solution, uses = self._solutions.get(self.part, {}), self._uses.get(self.part, 0)
        new = [k for k, task in enumerate(self.tasks) if task not in solution]
        if uses % self.update_every == 0 or (new and gramian.diagonal()[new].any()):
            weights = nash_weights(gramian)
            if not weights.isfinite().all():  # to be solved again, once the gradients are finite
                return weights
            solved = zip(self.tasks, weights.tolist(), gramian.diagonal().tolist(), strict=True)
            self._solutions[self.part] = {task: weight for task, weight, square in solved if square}
            self._uses[self.part] = 1
            return weights
        self._uses[self.part] = uses + 1
        held = [solution.get(task, 0.0) for task in self.tasks]
        weights = torch.tensor(held, dtype=gramian.dtype, device="cpu").to(gramian.device, non_blocking=True)
        return weights.where((gramian.diagonal() != 0).sum() > 1, 1.0)  # of whom none is left to bargain with

    def method_state(self) -> dict[str, Any]:
        """Returns the last solutions and how often they were used, by surgery."""
        return {"solutions": dict(self._solutions), "uses": dict(self._uses)}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Restores the last solutions; another method's checkpoint has none."""
        self._solutions, self._uses = state.get("solutions", {}), state.get("uses", {})


def nash_weights(gramian: Tensor) -> Tensor:
    """Returns the weights ``(T,)``: the a of ``(G a)_i = 1 / a_i`` by the root mean square of the lengths."""
    return solve_on_host(gramian, _bargain)


def _bargain(cosines: Tensor, lengths: Tensor) -> Tensor:
    values, vectors = spectrum(cosines)
    cosines = (vectors * values) @ vectors.T
    b = _newton(cosines)
    if b.max() > _LARGEST:
        # Weights that cancel each other have no end; what they add up to does.
        ridge = _RIDGE * torch.eye(len(cosines), dtype=cosines.dtype, device=cosines.device)
        b = vectors @ (vectors.T @ _newton(cosines + ridge))
    return lengths.square().mean().sqrt() * b / lengths


def _newton(C: Tensor) -> Tensor:
    """Returns the b > 0 with ``(C b)_i = 1 / b_i``, or a b beyond the largest that makes sense.

    It minimises ``½ bᵀCb - Σ log b``, which is self-concordant: damped steps never leave b > 0.
    """
    b = torch.ones_like(C[0])
    identity = torch.eye(len(C), dtype=C.dtype, device=C.device)
    for _ in range(200):
        residual = 1 - b * (C @ b)
        step = torch.linalg.solve(b.unsqueeze(1) * C * b + identity, residual)
        decrement = (residual @ step).clamp(min=0).sqrt()
        b = b * (1 + step / (1 + decrement if decrement > 0.25 else 1))
        if decrement < 1e-9 + len(C) * EPSILON * b.max() ** 2 or b.max() > 2 * _LARGEST * len(C):
            break
    return b
