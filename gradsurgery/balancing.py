"""Balancing by the losses alone, before the gradients: uncertainty weighting and dynamic weight average."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .tasks import Task


class UncertaintyWeighting(nn.Module):
    """Weighs each loss by a learned uncertainty (Kendall et al. 2018, arXiv 1705.07115).

    Of each task's loss L it makes ``½ e^(-s) L + ½ s``, with a parameter s of the task, the logarithm of its
    variance, which begins at 0. The optimizer trains the s: each is reached by its own task alone, so that
    with ``scope="shared"`` no surgery touches it.

    .. code-block:: python

        balance = UncertaintyWeighting(["a", "b"])
        groups = [{"params": model.parameters()}, {"params": balance.parameters(), "weight_decay": 0.0}]
        optimizer = PCGrad(torch.optim.AdamW(groups))
        optimizer.backward(balance({"a": loss_a, "b": loss_b}))

    Args:
        tasks: The tasks' names.

    Attributes:
        log_variances: One s a task, in the order of the names. A state_dict has them by place: it belongs to
            the same names in the same order.

    Raises:
        ValueError: If there is no task.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        if not self.tasks:
            raise ValueError("tasks must name at least one task, got none: pass the names of the losses")
        self.log_variances = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in self.tasks)

    def forward(self, losses: Mapping[str, Task]) -> dict[str, Task]:
        """Returns the weighted losses: of a loss a loss, of a callable a callable.

        Raises:
            ValueError: If a task was not named at the beginning; later, if a callable returns None.
        """
        for name in losses:
            if name not in self.tasks:
                raise ValueError(
                    f"losses must be of the tasks {self.tasks!r}, got one of {name!r}:"
                    " name it in UncertaintyWeighting(tasks)"
                )

        def weigh(name: str, loss: Tensor) -> Tensor:
            s: Tensor = self.log_variances[self.tasks.index(name)]
            return ((-s).exp() * loss + s) / 2

        return {name: _changed(name, task, weigh) for name, task in losses.items()}


class DWA:
    """Dynamic weight average: a loss that falls more slowly weighs more (Liu et al. 2019, arXiv 1803.10704).

    In epoch t, task k's loss is multiplied by ``K exp(r_k / τ) / Σ_i exp(r_i / τ)``, with r_k its mean loss
    in epoch t - 1 over that in epoch t - 2. A task without both, such as each in the first two epochs, keeps
    weight 1, and K counts the others. Losses that are not finite enter no mean. Each rank goes by its own
    losses. Each call of a callable counts, so that inside ``GSE``, which evaluates it again after the first
    update, the mean is of both values.

    .. code-block:: python

        balance = DWA()
        for epoch in range(epochs):
            for a, b in batches:
                optimizer.backward(balance({"a": lambda: loss_a(a), "b": lambda: loss_b(b)}))
                ...
            balance.end_epoch()

    Args:
        temperature: τ: the larger, the more alike the weights.

    Attributes:
        weights: This epoch's, by task, of those with a weight of their own.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """

    def __init__(self, *, temperature: float = 2.0) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {temperature!r}: the paper takes 2.0")
        self.temperature = temperature
        self.weights: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, losses: Mapping[str, Task]) -> dict[str, Task]:
        """Returns the weighted losses, of a loss a loss, of a callable a callable, and notes their values.

        Raises:
            ValueError: Later, if a callable returns None.
        """
        return {name: _changed(name, task, self._weigh) for name, task in losses.items()}

    def end_epoch(self) -> None:
        """Makes the next epoch's weights out of the means of this epoch and of the one before."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        rates = {name: mean / self._last[name] for name, mean in means.items() if name in self._last}
        self.weights = {}
        if rates:
            first = next(iter(rates.values()))
            values = torch.stack([rate.to(first.device) for rate in rates.values()])
            values = values.where(values.isfinite(), 1.0)  # neither faster nor slower, for all that is known
            shares = len(rates) * (values / self.temperature).softmax(0)
            self.weights = dict(zip(rates, shares.unbind(), strict=True))
        self._last, self._sums = means, {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights and the means and sums that the next ones are made of."""
        return {"weights": dict(self.weights), "last": dict(self._last), "sums": dict(self._sums)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.weights, self._last = dict(state_dict["weights"]), dict(state_dict["last"])
        self._sums = dict(state_dict["sums"])

    def _weigh(self, name: str, loss: Tensor) -> Tensor:
        value = loss.detach().sum()  # () of the one number in (1,)
        value = value.to(torch.promote_types(value.dtype, torch.float32))  # bfloat16 counts to 256
        total, count = self._sums.get(name, (torch.zeros_like(value), torch.zeros_like(value)))
        finite = value.isfinite()
        self._sums[name] = total + value.where(finite, 0.0), count + finite
        return loss * self.weights[name].to(loss) if name in self.weights else loss


def _changed(name: str, task: Task, change: Callable[[str, Tensor], Tensor]) -> Task:
    """Returns the task with its loss changed, when it is called if it is a callable."""
    if isinstance(task, Tensor):
        return change(name, task)

    def called() -> Tensor:
        loss = task()
        if loss is None:
            raise ValueError(
                f"the callable of task {name!r} must return its loss to have it weighted, got None:"
                " leave its backward() to the optimizer"
            )
        return change(name, loss)

    return called
