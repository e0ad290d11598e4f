"""What a backward saw: the angles between the task gradients, in one report, and over many steps."""

import math
import statistics
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ConflictReport:
    """The geometry of one backward's task gradients, over the parameters that were operated on.

    It holds T² numbers on the gradients' device; whatever is read from it is computed then.

    Attributes:
        tasks: The tasks' names.
        gramian: Inner products of the task gradients, ``(T, T)``.
        weights: What the gradients were multiplied by, ``(T,)``, or ``(K, T)`` for K surgeries.
    """

    tasks: tuple[str, ...]
    gramian: Tensor
    weights: Tensor

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

    @property
    def conflict_rate(self) -> float:
        """The share of pairs with a negative cosine; nan for one task, which has no pair."""
        cosines = self.pairs.values()
        return sum(c < 0 for c in cosines) / len(cosines) if cosines else math.nan


@dataclass(frozen=True)
class PairSummary:
    """One pair of tasks over many steps.

    A conflict rate says little by itself: it is one half where the cosines are noise around 0. Read it beside
    the mean and its error, and beside the null, the rate of one task with itself on two batches.

    Attributes:
        mean: Mean cosine.
        standard_error: Of the mean, the steps taken as independent; nan for fewer than two.
        conflict_rate: Share of steps with a negative cosine.
        steps: Number of steps.
    """

    mean: float
    standard_error: float
    conflict_rate: float
    steps: int


@dataclass
class ConflictHistory:
    """The cosines of each pair of tasks over the steps of a run.

    Attributes:
        steps: By pair of tasks, the steps at which it was seen.
        cosines: By pair of tasks, its cosines at these steps.
    """

    steps: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    cosines: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def record(self, step: int, report: ConflictReport) -> None:
        """Adds a report's cosines, waiting for the device that holds them."""
        for pair, cosine in report.pairs.items():
            self.steps.setdefault(pair, []).append(step)
            self.cosines.setdefault(pair, []).append(cosine)

    def summary(self) -> dict[tuple[str, str], PairSummary]:
        """Returns each pair's mean cosine with its standard error, and its conflict rate."""
        return {pair: _summarize(cosines) for pair, cosines in self.cosines.items()}

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the history in lists, numbers and strings; :meth:`from_json` reads it."""
        return [
            {"tasks": list(pair), "steps": list(steps), "cosines": list(self.cosines[pair])}
            for pair, steps in self.steps.items()
        ]

    @classmethod
    def from_json(cls, pairs: list[dict[str, Any]]) -> "ConflictHistory":
        """Returns the history that :meth:`to_json` wrote."""
        history = cls()
        for pair in pairs:
            first, second = pair["tasks"]
            history.steps[first, second] = list(pair["steps"])
            history.cosines[first, second] = list(pair["cosines"])
        return history


def _summarize(cosines: list[float]) -> PairSummary:
    return PairSummary(
        mean=statistics.fmean(cosines),
        standard_error=statistics.stdev(cosines) / math.sqrt(len(cosines)) if len(cosines) > 1 else math.nan,
        conflict_rate=sum(c < 0 for c in cosines) / len(cosines),
        steps=len(cosines),
    )
