"""Figures of reports and histories of conflicts; they need matplotlib, the extra ``gradsurgery[plots]``."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from .conflicts import ConflictReport
from .history import ConflictHistory, Pair, Point
from .intervals import rate_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_STYLES = ("-", "--", "-.", ":")
_FEW = 7
"""Pairs that can be told apart by their colours."""
_NO_PAIR = (
    "history must hold a pair of tasks, got none: record() reports of two tasks or more whose gradients are"
    " finite and not zero"
)


def plot_conflicts(
    history: ConflictHistory, *, null: ConflictHistory | None = None, window: int = 50
) -> "Figure":
    """Draws the cosines over the steps, and each pair's conflict rate with Wilson's 95 % interval.

    The intervals take the steps as independent. Of more than seven pairs, the five with the lowest mean
    cosine are in colour, and the rates in this order.

    Args:
        history: The cosines between tasks; at least one pair.
        null: The cosines of one task with itself on two batches, drawn in grey: what the rate would be if
            only the batches differed.
        window: Number of measurements that a point of a curve is the mean of, at least: all of a shorter run,
            and of a long one as many more as the history has joined. The band is ± its error.

    Returns:
        A figure on no screen, 9 inches wide and higher for more pairs: ``figure.savefig("conflicts.png")``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is nothing to draw, or the window is not positive.
    """
    if not history.pairs:
        raise ValueError(_NO_PAIR)
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    null = ConflictHistory() if null is None else null
    pairs = list(history.pairs)
    many = len(pairs) > _FEW
    if many:
        summary = history.summary()
        pairs.sort(key=lambda pair: summary[pair].mean)
    coloured = pairs[:5] if many else pairs
    figure = _figure(9, max(3.6, 1.6 + 0.19 * (len(pairs) + len(null.pairs))))
    curves, rates = figure.subplots(1, 2, width_ratios=(2, 1))
    names, handles = [], {}
    sizes: set[int] = set()
    for k, (pair, source) in enumerate([(p, history) for p in pairs] + [(p, null) for p in null.pairs]):
        name = " × ".join(pair) + (" (null)" if source is null else "")
        names.append(name)
        style: dict[str, Any] = {"color": "0.6", "linestyle": "-" if many else _STYLES[k % 4], "zorder": 1}
        entry = "one task, two batches (null)" if many else name
        if source is history and pair in coloured:
            style, entry = {"color": _COLOURS[k % 7], "linestyle": _STYLES[k % 4], "zorder": 3}, name
        elif source is history:
            style, entry = {"color": "#a6cee3", "linewidth": 0.8, "zorder": 2}, "other pairs"
        banded = not many or pair in coloured
        means = windows(source.pairs[pair], window)
        sizes.update(point.size for point in means)
        handles[entry] = _draw_curve(curves, means, banded=banded, label=name, **style)
        whole = reduce(Point.join, source.pairs[pair])
        rate = rate_of(whole.conflicts, whole.size, 0.95)
        spread = [[rate.value - rate.low], [rate.high - rate.value]]
        rates.errorbar(rate.value, k, xerr=spread, fmt="o", color=style["color"], capsize=3, markersize=4)
    curves.axhline(0, color="0.3", linewidth=0.8)
    steps = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
    curves.set(xlabel="step", ylabel=f"cosine, mean of {steps} measurements ± s.e.")
    figure.legend(
        handles.values(), handles, loc="outside upper left", ncols=3, fontsize="small", frameon=False
    )
    rates.axvline(0.5, color="0.3", linewidth=0.8, linestyle=":")
    rates.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share of steps in conflict, 95 % interval")
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
    _draw_matrix(figure, report.cosines.tolist(), tasks, tasks, limit=1)
    return figure


def plot_breakdown(source: ConflictReport | ConflictHistory) -> "Figure":
    """Draws each pair's cosine in every part that ``breakdown=`` has made, of more than seven as a matrix.

    Args:
        source: The report of one backward of at least two tasks, or a history of such reports, whose means
            are drawn ± their errors.

    Returns:
        A figure on no screen, larger for more parts and pairs.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the report is of one task, the history of no pair, or it is not broken down.
    """
    if isinstance(source, ConflictReport):
        _refuse_one_task(source.tasks)
    if not source.parts:
        kind = "report" if isinstance(source, ConflictReport) else "history"
        raise ValueError(
            f"{kind} must be broken down, got one without parts: make the optimizer with breakdown=model"
        )
    names, pairs = list(source.parts), list(source.pairs)
    if not pairs:
        raise ValueError(_NO_PAIR)
    by_part = [_cosines(part) for part in source.parts.values()]
    found = {pair: [part.get(pair, (math.nan, 0.0)) for part in by_part] for pair in pairs}
    reach = max((abs(m) + e for row in found.values() for m, e in row if math.isfinite(m)), default=0.0)
    if len(pairs) > _FEW:
        figure = _figure(2.6 + 0.42 * len(names), 1.8 + 0.24 * len(pairs))
        means = [[mean for mean, _ in row] for row in found.values()]
        _draw_matrix(figure, means, [" × ".join(pair) for pair in pairs], names, limit=max(reach, 0.1))
        return figure
    figure = _figure(min(3.0 + 0.35 * len(names), 16), 3.8)
    axes = figure.subplots()
    for k, (pair, row) in enumerate(found.items()):
        heights, errors = zip(*row, strict=True)
        style: dict[str, Any] = {"color": _COLOURS[k], "marker": "osD^vPX"[k], "linestyle": _STYLES[k % 4]}
        at = [n + 0.06 * (k - (len(pairs) - 1) / 2) for n in range(len(names))]
        axes.errorbar(at, heights, yerr=errors, **style, linewidth=0.8, markersize=5, label=" × ".join(pair))
    axes.axhline(0, color="0.3", linewidth=0.8)
    limit = 1.1 * max(reach, 0.05)
    axes.set(ylim=(-limit, limit), xlim=(-0.5, len(names) - 0.5))
    axes.set_ylabel("cosine of the gradients")
    axes.set_xticks(
        range(len(names)), names, fontsize="small", rotation=45, ha="right", rotation_mode="anchor"
    )
    figure.legend(loc="outside upper left", ncols=3, fontsize="small", frameon=False)
    return figure


def _cosines(source: ConflictReport | ConflictHistory) -> dict[Pair, tuple[float, float]]:
    """Returns each pair's mean cosine and its standard error, 0 where there is one cosine."""
    if isinstance(source, ConflictReport):
        return {pair: (cosine, 0.0) for pair, cosine in source.pairs.items()}
    return {
        pair: (found.mean, found.standard_error if found.steps > 1 else 0.0)
        for pair, found in source.summary().items()
    }


def _draw_matrix(
    figure: "Figure",
    cosines: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limit: float,
) -> None:
    axes = figure.subplots()
    image = axes.imshow(cosines, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for i, row in enumerate(cosines):
        for j, cosine in enumerate(row):
            colour = "white" if abs(cosine) > 0.6 * limit else "black"
            text = f"{round(cosine, 2) + 0.0:.2f}"  # + 0.0 takes the sign from -0.00
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="cosine of the gradients", shrink=0.8)


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


def _draw_curve(axes: Any, means: Sequence[Point], *, banded: bool, **style: Any) -> Any:
    """Draws running means, with a band of their errors if asked to, and returns the line."""
    x = [point.step for point in means]
    (line,) = axes.plot(x, [point.mean for point in means], marker="." if len(x) == 1 else "", **style)
    if banded:
        errors = [point.summary().standard_error if point.size > 1 else 0.0 for point in means]
        low, high = ([p.mean + sign * e for p, e in zip(means, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return line


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
