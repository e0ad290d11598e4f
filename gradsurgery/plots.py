"""Figures of a ConflictHistory; they need matplotlib, the extra ``gradsurgery[plots]``."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

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
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("plot_conflicts needs matplotlib: pip install 'gradsurgery[plots]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
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
