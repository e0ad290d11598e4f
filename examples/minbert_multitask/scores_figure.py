"""Dev scores of all rows over training, one band of panels for each family of rows."""

from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .comparable import Comparable
from .evaluate import METRICS
from .families import Family, families
from .figure_parts import (
    CONSTANT,
    GREY,
    HEADINGS,
    LIGHT,
    UNTRAINED,
    bands,
    count_axis,
    history,
    key,
    longest,
    new_figure,
    styled,
)
from .results import RunResult


def scores_figure(group: Comparable) -> Figure | None:
    """Draws dev scores over iterations.

    Returns:
        The figure, or None where no run has several epochs.
    """
    return _draw(group) if longest(group) > 1 else None


@styled
def _draw(group: Comparable) -> Figure:
    trained = {row: runs for row, runs in group.rows.items() if runs[0].epochs}
    untrained = {row: runs for row, runs in group.rows.items() if not runs[0].epochs}
    shown = families(trained)
    caption = (
        "A band shows one family of rows in colour and all others in light grey; the row that a family "
        "varies, where there is one, is black. Pearson 0 and the majority class are what a constant "
        "prediction scores."
    )
    if any(len(runs) > 1 for runs in trained.values()):
        caption += " Rows of several seeds: the mean in bold, each seed as a thin line."
    heights = [max(1.45, 0.3 + 0.175 * len(family.looks)) for family in shown]
    figure = new_figure(group, "Dev scores over training", height=sum(heights) + 0.8, caption=caption)
    grid, panels = bands(figure, HEADINGS, heights, legend=1.3)
    for down, family in enumerate(shown):
        for panel, metric in zip(panels[down], METRICS, strict=True):
            _family_panel(panel, family, trained, metric)
            count_axis(panel, label=down == len(shown) - 1)
            panel.axhline(group.data.constant[metric], **CONSTANT, label="_constant")
            for runs in untrained.values():
                level = fmean(run.dev[metric].value for run in runs)
                panel.axhline(level, **UNTRAINED, label="_untrained")
        handles = [Line2D([], [], label=row, **look.options()) for row, look in family.looks.items()]
        key(figure, grid[down, -1], handles, title=family.title)
    for panel, metric in zip(panels[0], METRICS, strict=True):
        interval = _interval_bar(panel, group, metric)
    below = [
        Line2D([], [], color=LIGHT, label="other rows"),
        Line2D([], [], **CONSTANT, label="constant prediction"),
        *(Line2D([], [], **UNTRAINED, label=row) for row in untrained),
        interval,
    ]
    key(figure, grid[-1, :], below, columns=len(below))
    return figure


def _family_panel(
    panel: Axes, family: Family, trained: dict[str, tuple[RunResult, ...]], metric: str
) -> None:
    """Draws one metric of all rows, those of a family on top."""
    for row in [row for row in trained if row not in family.looks]:
        panel.plot(*history(trained[row], metric), color=LIGHT, linewidth=0.9, zorder=1.5, label=f"_{row}")
    end = 0.0
    for row, look in family.looks.items():
        runs = trained[row]
        if len(runs) > 1:
            for run in runs:
                panel.plot(*history([run], metric), color=look.color, linewidth=0.6, alpha=0.4, label="_seed")
        iterations, scores = history(runs, metric)
        panel.plot(iterations, scores, **look.options(), label=row)
        end = max(end, iterations[-1])
    panel.set_xlim(0, 1.04 * end)


def _interval_bar(panel: Axes, group: Comparable, metric: str) -> ErrorbarContainer:
    """Draws, where no epoch has ended yet, how wide an interval of these scores is."""
    scores = [run.dev[metric] for run in group.runs]
    half = fmean((score.high - score.low) / 2 for score in scores)
    middle = fmean(score.value for score in scores)
    at = 0.06 * panel.get_xlim()[1]
    return panel.errorbar(
        at, middle, half, color=GREY, capsize=3, linewidth=1.2, label="width of a run's 95 % interval"
    )
