"""Figures of reports and histories of conflicts; they need matplotlib, the extra ``gradsurgery[plots]``."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from .conflicts import ConflictReport
from .history import ConflictHistory, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_STYLES = ("-", "--", "-.", ":")


def plot_conflicts(
    history: ConflictHistory, *, null: ConflictHistory | None = None, window: int = 50
) -> "Figure":
    """Draws the cosines over the steps, and each pair's conflict rate.

    Args:
        history: The cosines between tasks; at least one pair.
        null: The cosines of one task with itself on two batches, drawn in grey: what the rate would be if
            only the batches differed.
        window: Number of measurements that a point of a curve is the mean of; the band is ± its error.

    Returns:
        A figure, 9 x 3.6 inches, on no screen: ``figure.savefig("conflicts.png")``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is nothing to draw, or the window is not positive.
    """
    if not history.pairs:
        raise ValueError("history must hold a pair of tasks, got none: record() reports of two tasks or more")
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    figure = _figure(9, 3.6)
    curves, rates = figure.subplots(1, 2, width_ratios=(2, 1))
    lines = [(pair, history, _COLOURS[k % 7], _STYLES[k % 4]) for k, pair in enumerate(history.pairs)]
    if null is not None:
        lines += [(pair, null, "0.6", "-") for pair in null.pairs]
    names = []
    for k, (pair, source, colour, style) in enumerate(lines):
        name = " × ".join(pair) + (" (null)" if source is null else "")
        names.append(name)
        _draw_curve(curves, source.pairs[pair], window, color=colour, linestyle=style, label=name)
        rate, spread = _rate(source.pairs[pair])
        rates.errorbar(rate, k, xerr=spread, fmt="o", color=colour, capsize=3)
    curves.axhline(0, color="0.3", linewidth=0.8)
    curves.set(xlabel="step", ylabel=f"cosine, mean of {window} ± s.e.")
    curves.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize="small", frameon=False)
    rates.axvline(0.5, color="0.3", linewidth=0.8, linestyle=":")
    rates.set(xlim=(0, 1), ylim=(len(lines) - 0.5, -0.5), xlabel="share of steps in conflict, ± s.e.")
    rates.set_yticks(range(len(names)), names, fontsize="small")
    return figure


def plot_cosines(report: ConflictReport) -> "Figure":
    """Draws the cosines between the tasks' gradients as a matrix: red in conflict, blue in agreement.

    Args:
        report: The report of one backward of at least two tasks.

    Returns:
        A figure on no screen, larger for more tasks.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the report is of one task.
    """
    tasks = report.tasks
    _refuse_one_task(tasks)
    side = 2.0 + 0.7 * len(tasks)
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    cosines = report.cosines.tolist()
    image = axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for i, row in enumerate(cosines):
        for j, cosine in enumerate(row):
            colour = "white" if abs(cosine) > 0.6 else "black"
            axes.text(j, i, f"{cosine:.2f}", ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="cosine of the gradients", shrink=0.8)
    return figure


def plot_breakdown(report: ConflictReport) -> "Figure":
    """Draws each pair's cosine in every part of a report that was made with ``breakdown=``.

    Args:
        report: The report of one backward of at least two tasks.

    Returns:
        A figure on no screen, wider for more parts.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the report is of one task, or is not broken down.
    """
    _refuse_one_task(report.tasks)
    if not report.parts:
        raise ValueError(
            "report must be broken down, got one without parts: make the optimizer with breakdown=model"
        )
    names = list(report.parts)
    by_part = [part.pairs for part in report.parts.values()]
    pairs = list(report.pairs)
    figure = _figure(min(3.0 + 0.35 * len(names), 16), 3.4 + 0.2 * math.ceil(len(pairs) / 3))
    axes = figure.subplots()
    for k, pair in enumerate(pairs):
        style: dict[str, Any] = {
            "color": _COLOURS[k % 7],
            "marker": "osD^vPX"[k // 7 % 7],
            "linestyle": _STYLES[k % 4],
        }
        cosines = [found[pair] for found in by_part]
        axes.plot(range(len(names)), cosines, **style, linewidth=0.8, label=" × ".join(pair))
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(ylim=(-1.05, 1.05), xlim=(-0.5, len(names) - 0.5), ylabel="cosine of the gradients")
    axes.set_xticks(range(len(names)), names, fontsize="small")
    axes.tick_params(axis="x", rotation=90)
    figure.legend(loc="outside upper left", ncols=3, fontsize="small", frameon=False)
    return figure


def _figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of this size in inches, on no screen."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("gradsurgery.plots needs matplotlib: pip install 'gradsurgery[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _refuse_one_task(tasks: tuple[str, ...]) -> None:
    if len(tasks) < 2:
        raise ValueError(
            f"report must be of two tasks or more, got {len(tasks)}: one task has no cosine with another"
        )


def _draw_curve(axes: Any, points: Sequence[Point], window: int, **style: Any) -> None:
    means = windows(points, window)
    x = [point.step for point in means]
    axes.plot(x, [point.mean for point in means], marker="." if len(x) == 1 else "", **style)
    errors = [point.summary().standard_error if point.size > 1 else 0.0 for point in means]
    low, high = ([p.mean + sign * e for p, e in zip(means, errors, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def windows(points: Sequence[Point], window: int) -> list[Point]:
    """Returns for each point that ends so many measurements their mean; of fewer in all, the one mean."""
    found = []
    for end in range(1, len(points) + 1):
        start, joined = end - 1, points[end - 1]
        while start and joined.size < window:
            start -= 1
            joined = points[start].join(joined)
        if joined.size >= window:
            found.append(joined)
    return found or [reduce(Point.join, points)]


def _rate(points: Sequence[Point]) -> tuple[float, float]:
    """Returns the share below zero and its standard error."""
    whole = reduce(Point.join, points).summary()
    return whole.conflict_rate, math.sqrt(whole.conflict_rate * (1 - whole.conflict_rate) / whole.steps)
