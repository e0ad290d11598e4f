"""Do the tasks' gradients conflict? Their cosines over training, beside those of one task on two batches."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from .comparable import LABELS, Comparable
from .evaluate import Array
from .experiments import TASKS
from .figure_parts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Look,
    count_axis,
    key,
    new_figure,
    styled,
)
from .results import CosineSummary, RunResult

PAIRS = {f"{a}-{b}": f"{LABELS[a]}, {LABELS[b]}" for a, b in combinations(TASKS, 2)}
"""The pairs of tasks, as results name them, and as figures do."""

_NULL = {task: f"{LABELS[task]} twice" for task in TASKS}
_LOOKS = {
    **{pair: Look(c, m, "") for pair, c, m in zip(PAIRS, (BLUE, VERMILION, GREEN), "os^", strict=True)},
    **{
        task: Look(c, m, "", filled=False)
        for task, c, m in zip(_NULL, (SKY, ORANGE, PURPLE), "Dvp", strict=True)
    },
}
_FIRST = ("multitask", "gs", "gse", "baseline")
_BANDWIDTH = 0.04  # of the training
_MANY = 60  # samples, of which single ones need not stand out


def conflicts_figure(group: Comparable) -> Figure | None:
    """Draws the cosines between task gradients over one row's training, and their summaries for all rows.

    Returns:
        The figure, or None where no cosines were measured.
    """
    rows = {
        row: measured
        for row, runs in group.rows.items()
        if (measured := tuple(run for run in runs if run.epochs and run.conflicts))
    }
    return _draw(group, rows) if rows else None


def cosines(runs: Sequence[RunResult], which: str) -> tuple[Array, Array]:
    """Returns the iterations and the cosines of all samples of runs that are finite, ``(N,)`` each, in order.

    Args:
        runs: Runs of one row.
        which: A pair of tasks such as ``"sst-qqp"``, or one task for its null.
    """
    samples = [
        (
            sample.epoch * run.epochs[0].iterations + sample.iteration,
            {**sample.cosines, **sample.null}.get(which),
        )
        for run in runs
        for sample in run.conflicts
    ]
    finite = sorted((at, cosine) for at, cosine in samples if cosine is not None and np.isfinite(cosine))
    points = np.array(finite, dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def smooth(at: Array, values: Array, bandwidth: float) -> Array:
    """Returns at each point the mean of all values, weighted by a Gaussian of that standard deviation."""
    distances = (at[:, None] - at) / bandwidth
    weights = np.exp(-(distances**2) / 2)  # (N, N)
    smoothed: Array = weights @ values / weights.sum(axis=1)
    return smoothed


@styled
def _draw(group: Comparable, rows: dict[str, tuple[RunResult, ...]]) -> Figure:
    shown = next((row for row in _FIRST if row in rows), next(iter(rows)))
    heights = [3.9, 1.3 + 0.235 * len(rows)]
    figure = new_figure(
        group,
        "Do the tasks conflict? Cosines between their gradients",
        height=sum(heights) + 0.1,
        caption=(
            "Gradients of the encoder's parameters at sampled iterations; two of them conflict where their "
            "cosine is below 0. The null is one task's cosine on two batches: where it is near 0 too, "
            "gradients are mostly noise, and half of all pairs fall below 0 by chance. ± and bars: the "
            "standard error over samples, taken as independent; of shares, Wilson's. Curves: means weighted "
            f"by a Gaussian (σ = {_BANDWIDTH:.0%} of the training)."
        ),
    )
    above, below = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=heights)))
    _over_training(above, shown, rows[shown])
    _summaries(below, rows)
    return figure


def _over_training(figure: SubFigure, row: str, runs: tuple[RunResult, ...]) -> None:
    """Draws samples and their smoothed mean, the pairs of tasks above the null."""
    samples = sum(len(run.conflicts) for run in runs)
    _heading(
        figure, f"Over the training of {row} ({samples:,} samples; mean ± standard error, share below 0)"
    )
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    whole = max(sum(epoch.iterations for epoch in run.epochs) for run in runs)
    points: dict[str, Any] = {"marker": ".", "linestyle": "", "markeredgewidth": 0}
    points |= {"alpha": 0.4, "markersize": 5} if samples > _MANY else {"markersize": 9}
    for panel, (which, name) in zip(panels.flat, {**PAIRS, **_NULL}.items(), strict=True):
        color, (at, values) = _LOOKS[which].color, cosines(runs, which)
        panel.axhline(0, color=GREY, linewidth=0.8, label="_zero")
        panel.plot(at, values, color=color, **points, label=which)
        panel.plot(at, smooth(at, values, _BANDWIDTH * whole), color=color, linewidth=2, label="_smooth")
        panel.set_title(f"{name}: {_words(CosineSummary.of(values))}", fontsize=9)
        panel.tick_params(length=0)
    for panel in panels[-1]:
        count_axis(panel)
    panels[0, 0].set_ylabel("two tasks")
    panels[1, 0].set_ylabel("null")


def _heading(figure: SubFigure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, fontweight="bold")


def _words(summary: CosineSummary) -> str:
    if not summary.count:
        return "none"
    error = f" ± {summary.standard_error:.3f}" if summary.count > 1 else ""
    return f"{summary.mean:.3f}{error}, {summary.below_zero:.0%} < 0"


def _summaries(figure: SubFigure, rows: dict[str, tuple[RunResult, ...]]) -> None:
    """Draws each row's mean cosines and shares below zero, the pairs of tasks beside the null."""
    _heading(figure, "All rows")
    height = 0.235 * len(rows)
    grid = figure.add_gridspec(2, 4, height_ratios=[height + 0.5, 0.25])
    panels: list[Axes] = []
    for across in range(4):
        names, what = (PAIRS, _NULL)[across % 2], ("mean", "share")[across // 2]
        first = panels[0] if panels else None
        panel = figure.add_subplot(grid[0, across], sharey=first, sharex=panels[-1] if across % 2 else None)
        panels.append(panel)
        for number, which in enumerate(names):
            summaries = [CosineSummary.of(cosines(runs, which)[1]) for runs in rows.values()]
            at = [row + 0.24 * (number - 1) for row in range(len(rows))]
            values = [summary.mean if what == "mean" else summary.below_zero for summary in summaries]
            ends = [_mean_ends(summary) if what == "mean" else _share_ends(summary) for summary in summaries]
            look = _LOOKS[which]
            panel.hlines(at, *zip(*ends, strict=True), color=look.color, linewidth=1, label="_error")
            panel.plot(values, at, **look.options(), label=which)
        panel.axvline(0 if what == "mean" else 0.5, color=GREY, linewidth=0.8, label="_chance")
        panel.set_title(
            f"{'mean' if what == 'mean' else 'share below 0'}: {('two tasks', 'null')[across % 2]}"
        )
        panel.tick_params(length=0, labelleft=not across)
    for panel in panels[2:]:
        panel.set_xlim(-0.05, 1.05)
        panel.set_xticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].set_ylim(len(rows) - 0.45, -0.55)
    handles = [
        Line2D([], [], **_LOOKS[which].options(), label=name) for which, name in {**PAIRS, **_NULL}.items()
    ]
    key(figure, grid[1, :], handles, columns=len(handles))


def _mean_ends(summary: CosineSummary) -> tuple[float, float]:
    return summary.mean - summary.standard_error, summary.mean + summary.standard_error


def _share_ends(summary: CosineSummary) -> tuple[float, float]:
    """Returns the ends of Wilson's interval of one standard error; it is not empty at shares of 0 and 1."""
    share, count = summary.below_zero, max(summary.count, 1)
    middle = (share + 1 / (2 * count)) / (1 + 1 / count)
    half = math.sqrt(share * (1 - share) / count + 1 / (4 * count**2)) / (1 + 1 / count)
    return middle - half, middle + half
