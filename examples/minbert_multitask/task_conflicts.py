"""Whether tasks conflict, by the cosines between their gradients that runs have sampled."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

import numpy as np

from .conflicts_figure import PAIRS, cosines
from .evaluate import Array
from .findings import UNFINISHED, Difference, of_protocol, verdict
from .intervals import half_width
from .protocol import SEEDS
from .results import RunResult


@dataclass(frozen=True)
class TaskConflict:
    """What the sampled cosines between two tasks say.

    Attributes:
        pair: The tasks, as in ``"sst-qqp"``.
        cosine: The mean over seeds of each seed's mean cosine, with its 95 % interval over seeds.
        share: The share of samples below 0, likewise a mean over seeds.
        null: The cosine of one task's gradients on two batches, for either task, likewise.
        verdict: Confirmed where the whole interval is below 0, refuted where it is above; unfinished before
            all seeds have run.
    """

    pair: str
    cosine: Difference
    share: float
    null: tuple[float, float]
    verdict: str


def task_conflicts(runs: Sequence[RunResult]) -> list[TaskConflict]:
    """Judges each pair of tasks.

    The unit is the seed, for runs of one seed see the same batches: rows and iterations within it are
    averaged first, and the interval is Student's over seeds. Rows that lack a seed are left out, or seeds
    would differ by their rows; so are seeds that are not the protocol's, unless there are no others. No
    verdict falls before all of the protocol's have run.

    Args:
        runs: Of any rows and seeds.

    Returns:
        By pair; nothing where no cosines were sampled.
    """
    sampled = [run for run in runs if run.conflicts]
    seeds = of_protocol(run.seed for run in sampled)
    rows = {run.row for run in sampled}
    whole = {row for row in rows if {run.seed for run in sampled if run.row == row} >= set(seeds)}
    by_seed = [[run for run in sampled if run.seed == seed and run.row in whole] for seed in seeds]

    def over_seeds(name: str, value: Callable[[Array], Any]) -> list[float]:
        return [float(value(cosines(of_seed, name)[1])) for of_seed in by_seed]

    found = []
    for pair in PAIRS if whole else ():
        means = over_seeds(pair, np.mean)
        half = math.inf
        if len(means) > 1:
            half = half_width(of_examples=0.0, of_seeds=variance(means) / len(means), seeds=len(means))
        cosine = Difference(fmean(means), fmean(means) - half, fmean(means) + half, len(means))
        first, second = (fmean(over_seeds(task, np.mean)) for task in pair.split("-"))
        share = fmean(over_seeds(pair, lambda values: np.mean(values < 0)))
        judged = verdict(cosine, sign=-1) if seeds == list(SEEDS) else UNFINISHED
        found.append(TaskConflict(pair, cosine, share, (first, second), judged))
    return found


def markdown(found: Sequence[TaskConflict]) -> str:
    """Returns the conflicts as a table."""
    lines = [
        "| tasks | mean cosine | 95 % interval over seeds | samples below 0 | null | they conflict |",
        "| :-- | --: | :-: | --: | :-: | :-- |",
    ]
    for each in found:
        null = " and ".join(f"{value:+.3f}" for value in each.null)
        lines.append(
            f"| {PAIRS[each.pair]} | {each.cosine.value:+.3f} | {each.cosine.interval()} "
            f"| {each.share:.0%} | {null} | {each.verdict} |"
        )
    return "\n".join(lines)
