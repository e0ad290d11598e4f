"""The cosines between the task gradients over the steps of a run, in bounded memory."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

from .conflicts import ConflictReport, Writer

Pair: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class PairSummary:
    """One pair of tasks over many steps.

    A conflict rate says little by itself: it is one half where the cosines are noise around 0. Read it beside
    the mean and its error, and beside the null, the rate of one task with itself on two batches.

    Attributes:
        mean: Mean cosine.
        standard_error: Of the mean, the steps taken as independent; nan for fewer than two.
        conflict_rate: Share of steps with a negative cosine.
        steps: Number of steps in which there is a cosine.
    """

    mean: float
    standard_error: float
    conflict_rate: float
    steps: int


class Point(NamedTuple):
    """One cosine, or what is left of several that follow each other: enough for exact means and errors.

    Attributes:
        step: The last step.
        mean: Mean cosine.
        size: Number of cosines.
        squares: Sum of their squared deviations from the mean.
        conflicts: How many are negative.
    """

    step: int
    mean: float
    size: int
    squares: float
    conflicts: int

    @classmethod
    def of(cls, step: int, cosine: float) -> "Point":
        """Returns the point of one cosine."""
        return cls(step, cosine, 1, 0.0, int(cosine < 0))

    def join(self, later: "Point") -> "Point":
        """Returns the point of both points' cosines."""
        size = self.size + later.size
        apart = later.mean - self.mean
        return Point(
            later.step,
            self.mean + apart * later.size / size,
            size,
            self.squares + later.squares + apart**2 * self.size * later.size / size,
            self.conflicts + later.conflicts,
        )

    def summary(self) -> PairSummary:
        """Returns mean, error and rate of these cosines."""
        n = self.size
        error = math.sqrt(self.squares / (n - 1) / n) if n > 1 else math.nan
        return PairSummary(self.mean, error, self.conflicts / n, n)


@dataclass(kw_only=True)
class ConflictHistory:
    """The cosines of each pair of tasks over the steps of a run, in bounded memory.

    When a pair has ``max_points`` points, each two neighbours become one that stands for both, and from then
    on a point takes twice as many steps. So a curve spans the whole run, evenly, and its mean, error and
    conflict rate stay exact: nothing is sampled or forgotten but the order within a point.

    Attributes:
        max_points: The number of points that a pair may have; None for one a step, without a bound.
        pairs: By pair of tasks, its points.
        parts: By part of the reports' breakdown, a history of its own.

    Raises:
        ValueError: If ``max_points`` is less than 2.
    """

    max_points: int | None = 1024
    pairs: dict[Pair, list[Point]] = field(default_factory=dict)
    parts: dict[str, "ConflictHistory"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_points is not None and self.max_points < 2:
            raise ValueError(
                f"max_points must be at least 2, got {self.max_points!r}: a curve has two ends; None sets no"
                " bound"
            )

    def record(self, step: int, report: ConflictReport) -> None:
        """Adds a report's cosines, waiting for the device that holds them.

        A cosine that is not finite, as of a step that a ``GradScaler`` skips, is left out, and so is one of a
        gradient that is zero: it does not exist. The tasks of a pair stand everywhere in the order in which
        they came first.

        Raises:
            TypeError: If ``report`` is no report, as before the first backward.
        """
        if not isinstance(report, ConflictReport):
            raise TypeError(
                f"report must be a ConflictReport, got {type(report).__name__}: pass optimizer.conflicts,"
                " after a backward(losses)"
            )
        self._record(
            step, report, {*self.pairs, *(pair for part in self.parts.values() for pair in part.pairs)}
        )

    def summary(self) -> dict[Pair, PairSummary]:
        """Returns each pair's mean cosine with its standard error, and its conflict rate."""
        return {pair: reduce(Point.join, points).summary() for pair, points in self.pairs.items()}

    def log(self, writer: Writer, *, prefix: str = "conflicts") -> None:
        """Writes the cosines' curves; to write each step as it comes, see :meth:`ConflictReport.log`.

        Args:
            writer: A ``torch.utils.tensorboard.SummaryWriter``, or what else has ``add_scalar``.
            prefix: Begins the curves' names, as in ``conflicts/cosine/a-b`` or
                ``conflicts/part/cosine/a-b``, tasks in alphabetical order.
        """
        for pair, points in self.pairs.items():
            for point in points:
                writer.add_scalar(f"{prefix}/cosine/{'-'.join(sorted(pair))}", point.mean, point.step)
        for name, part in self.parts.items():
            part.log(writer, prefix=f"{prefix}/{name}")

    def to_csv(self) -> str:
        """Returns the history as a table, one line a point; ``part`` is empty for all parameters."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["part", "first", "second", "step", "count", "cosine", "conflict_rate"])
        for name, history in {"": self, **self.parts}.items():
            for pair, points in history.pairs.items():
                for p in points:
                    lines.writerow([name, *pair, p.step, p.size, p.mean, p.conflicts / p.size])
        return text.getvalue()

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the history in lists, numbers and strings; :meth:`from_json` reads it."""
        entries: list[dict[str, Any]] = []
        for pair, points in self.pairs.items():
            steps, cosines, sizes, squares, conflicts = map(list, zip(*points, strict=True))
            entry = {"tasks": list(pair), "steps": steps, "cosines": cosines, "sizes": sizes}
            entries.append({**entry, "squares": squares, "conflicts": conflicts})
        for name, part in self.parts.items():
            entries += [{"part": name, **entry} for entry in part.to_json()]
        return entries

    @classmethod
    def from_json(
        cls, entries: Iterable[dict[str, Any]], *, max_points: int | None = 1024
    ) -> "ConflictHistory":
        """Returns the history that :meth:`to_json` wrote, here or in version 0.1.0, to go on with."""
        history = cls(max_points=max_points)
        known: set[Pair] = set()
        for entry in entries:
            owner = history
            if "part" in entry:
                owner = history.parts.setdefault(entry["part"], cls(max_points=max_points))
            points = list(map(Point.of, entry["steps"], entry["cosines"]))
            if "sizes" in entry:
                columns = ("steps", "cosines", "sizes", "squares", "conflicts")
                points = list(map(Point, *(entry[column] for column in columns)))
            first, second = entry["tasks"]
            owner.pairs[_ordered(first, second, known)] = points
        return history

    def _record(self, step: int, report: ConflictReport, known: set[Pair]) -> None:
        for (first, second), cosine in report.measured().items():
            pair = _ordered(first, second, known)
            self._add(self.pairs.setdefault(pair, []), Point.of(step, cosine))
        for name, part in report.parts.items():
            history = self.parts.setdefault(name, ConflictHistory(max_points=self.max_points))
            history._record(step, part, known)

    def _add(self, points: list[Point], point: Point) -> None:
        """Adds a point: joins it to the last one, while that stands for fewer cosines than the first."""
        while (
            self.max_points is not None
            and points
            and len(points) + (points[-1].size == points[0].size) > self.max_points
        ):
            points[:] = [reduce(Point.join, points[k : k + 2]) for k in range(0, len(points), 2)]
        if points and points[-1].size < points[0].size:
            points[-1] = points[-1].join(point)
        else:
            points.append(point)


def _ordered(first: str, second: str, known: set[Pair]) -> Pair:
    """Returns the pair in the order in which it is known, or else from now on."""
    pair = (second, first) if (second, first) in known else (first, second)
    known.add(pair)
    return pair
