"""Do the tasks conflict? Cosines between task gradients, beside the null: one task on two batches.

The cosine of two noisy gradients is small whatever the tasks are. Only beside the cosine of ONE task's
gradients on two batches does the cosine of two tasks' gradients mean anything.
"""

import math
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn

from .experiments import TASKS


def cosines(
    parameters: list[nn.Parameter], losses: dict[str, Callable[[], Tensor]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Measures the cosines of the task gradients at the present parameters; changes nothing.

    Args:
        parameters: The shared parameters, over which gradients are taken.
        losses: By task, a callable that returns the loss, 0-d, on a fresh batch at each call; called twice.

    Returns:
        The cosines between tasks, by ``"sst-qqp"`` and so on, and those between the two batches of each task;
        NaN where a gradient is zero or not finite.
    """
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        first = {task: _gradient(parameters, loss()) for task, loss in losses.items()}
        null = {}
        for task, loss in losses.items():
            null[task] = _cosine(first[task], _gradient(parameters, loss()))
    between = {f"{a}-{b}": _cosine(first[a], first[b]) for a, b in combinations(TASKS, 2)}
    return between, null


def _gradient(parameters: list[nn.Parameter], loss: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def _cosine(a: list[Tensor | None], b: list[Tensor | None]) -> float:
    def dot(left: list[Tensor | None], right: list[Tensor | None]) -> float:
        pairs = [(x, y) for x, y in zip(left, right, strict=True) if x is not None and y is not None]
        return float(sum(torch.sum(x * y, dtype=torch.float64) for x, y in pairs))

    scale = (dot(a, a) * dot(b, b)) ** 0.5
    return dot(a, b) / scale if scale else math.nan
