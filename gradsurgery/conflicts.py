"""What a backward saw: the angles between the task gradients, in one report."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor


class Writer(Protocol):
    """What a ``SummaryWriter`` of TensorBoard has."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Adds a point to the curve of this name."""


@dataclass(frozen=True, eq=False)
class ConflictReport:
    """The geometry of one backward's task gradients, over the parameters that were operated on.

    It holds T² numbers on the gradients' device, for each part too; whatever is read from it is computed
    then. ``print(report)`` shows it as a table.

    Attributes:
        tasks: The tasks' names.
        gramian: Inner products of the task gradients, ``(T, T)``.
        weights: What the gradients were multiplied by, ``(T,)``, or ``(K, T)`` for K surgeries.
        parts: With ``breakdown=``, a report on each part's parameters. Their Gramians add up to this one.
    """

    tasks: tuple[str, ...]
    gramian: Tensor
    weights: Tensor
    parts: Mapping[str, "ConflictReport"] = field(default_factory=dict)

    @property
    def norms(self) -> Tensor:
        """The gradients' lengths, ``(T,)``."""
        return self.gramian.diagonal().sqrt()

    @property
    def cosines(self) -> Tensor:
        """The cosines between the gradients, ``(T, T)``; 0 beside a zero gradient."""
        lengths = self.norms.where(self.norms != 0, 1.0)
        return self.gramian / lengths / lengths.unsqueeze(1)

    @property
    def pairs(self) -> dict[tuple[str, str], float]:
        """The cosine of each pair of tasks."""
        cosines = self.cosines.tolist()
        return {
            (self.tasks[i], self.tasks[j]): cosines[i][j] for i, j in combinations(range(len(self.tasks)), 2)
        }

    def measured(self) -> dict[tuple[str, str], float]:
        """Returns the cosine of each pair that has one: it is finite, and neither gradient is zero."""
        here = replace(self, gramian=self.gramian.cpu())  # waits for the device once
        zero = {task for task, norm in zip(here.tasks, here.norms.tolist(), strict=True) if norm == 0}
        return {
            pair: cosine
            for pair, cosine in here.pairs.items()
            if math.isfinite(cosine) and zero.isdisjoint(pair)
        }

    @property
    def conflict_rate(self) -> float:
        """The share of pairs with a negative cosine, of those that have one; nan where none has."""
        cosines = self.measured().values()
        return sum(c < 0 for c in cosines) / len(cosines) if cosines else math.nan

    def log(self, writer: Writer, step: int, *, prefix: str = "conflicts") -> None:
        """Writes cosines, norms, weights and the conflict rate, and those of the parts, as scalars.

        What there is not is left out: the cosine of a gradient that is zero or not finite, the conflict rate
        where there is no cosine, the weights where no surgery was made.

        Args:
            writer: A ``torch.utils.tensorboard.SummaryWriter``, or what else has ``add_scalar``.
            step: The step.
            prefix: Begins the scalars' names, as in ``conflicts/cosine/a-b``, tasks in alphabetical order,
                and ``conflicts/norm/a``, and of a part ``conflicts/part/norm/a``.
        """
        for pair, cosine in self.measured().items():
            writer.add_scalar(f"{prefix}/cosine/{'-'.join(sorted(pair))}", cosine, step)
        for task, norm in zip(self.tasks, self.norms.tolist(), strict=True):
            writer.add_scalar(f"{prefix}/norm/{task}", norm, step)
        for task, weight in zip(self.tasks, self._mean_weights(), strict=False):
            writer.add_scalar(f"{prefix}/weight/{task}", weight, step)
        if not math.isnan(rate := self.conflict_rate):
            writer.add_scalar(f"{prefix}/conflict_rate", rate, step)
        for name, part in self.parts.items():
            part.log(writer, step, prefix=f"{prefix}/{name}")

    def __str__(self) -> str:
        pairs, cosines = self.pairs, self.cosines.tolist()
        lines = [["task", "norm", "weight", *(f"cos {task}" for task in self.tasks)]]
        weights = [f"{weight:.3g}" for weight in self._mean_weights()] or ["-"] * len(self.tasks)
        for i, (norm, weight) in enumerate(zip(self.norms.tolist(), weights, strict=True)):
            others = ["·" if i == j else f"{c:.3f}" for j, c in enumerate(cosines[i])]
            lines.append([self.tasks[i], f"{norm:.3g}", weight, *others])
        text = f"{sum(c < 0 for c in pairs.values())} of {len(pairs)} pairs conflict\n{table(lines)}"
        if not self.parts or not pairs:
            return text
        lines = [["part", "pairs that conflict", "least cosine", "of"]]
        for name, part in self.parts.items():
            (first, second), least = min(part.pairs.items(), key=lambda item: item[1])
            count = sum(c < 0 for c in part.pairs.values())
            lines.append([name, str(count), f"{least:.3f}", f"{first}, {second}"])
        return f"{text}\n\n{table(lines)}"

    def _mean_weights(self) -> list[float]:
        """Returns each task's weight, of several surgeries the mean, of none nothing."""
        weights = self.weights.reshape(-1, len(self.tasks))
        return [float(weight) for weight in weights.mean(0).tolist()] if len(weights) else []


def report_on(
    tasks: tuple[str, ...],
    gramians: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Tensor],
    *,
    one: bool,
    parts: bool,
) -> ConflictReport:
    """Returns the report on one backward's surgeries.

    Args:
        tasks: The tasks' names.
        gramians: Of each surgery, the Gramians ``(T, T)`` by part.
        weights: Of each surgery, the weights ``(T,)``.
        one: Whether there is always one surgery, so that the report's weights are ``(T,)``.
        parts: Whether to report on the parts, too.
    """

    def joined(found: Sequence[Tensor], used: Sequence[Tensor]) -> ConflictReport:
        if not found:
            none = torch.zeros(0, len(tasks), dtype=torch.float64, device="cpu")
            return ConflictReport(tasks, none.T @ none, none)
        device = found[0].device
        rows = torch.stack([w.to(device) for w in used])
        return ConflictReport(tasks, add_up(found), rows[0] if one else rows)

    whole = joined([g for surgery in gramians for g in surgery.values()], weights)
    if not parts:
        return whole
    by_part = {}
    for name in dict.fromkeys(name for surgery in gramians for name in surgery):
        chosen = [(surgery[name], w) for surgery, w in zip(gramians, weights, strict=True) if name in surgery]
        by_part[name] = joined(*zip(*chosen, strict=True))
    return replace(whole, parts=by_part)


def add_up(gramians: Iterable[Tensor]) -> Tensor:
    """Returns the sum of Gramians, ``(T, T)``, on the first one's device."""
    first, *others = gramians
    return torch.stack([first, *(g.to(first.device) for g in others)]).sum(0)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells as text in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if k else cell.ljust(w)
            for k, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in lines
    )
