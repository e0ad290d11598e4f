"""What a row gains on one task and loses on another: dev scores of two tasks, by families of rows."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .comparable import LABELS, UNITS, Comparable
from .evaluate import Score
from .families import Family, families
from .figure_parts import CONSTANT, LIGHT, UNTRAINED, Look, bands, key, new_figure, styled
from .intervals import mean_score
from .rows_figure import interval_caption

_AGAINST = ("qqp", "sts")


def tradeoff_figure(group: Comparable) -> Figure | None:
    """Draws SST against QQP and against STS, a band of panels for each family of rows.

    Returns:
        The figure, or None where fewer than two rows were trained.
    """
    return _draw(group) if sum(bool(runs[0].epochs) for runs in group.rows.values()) > 1 else None


@styled
def _draw(group: Comparable) -> Figure:
    scores = {
        row: {metric: mean_score([run.dev[metric] for run in runs]) for metric in ("sst", *_AGAINST)}
        for row, runs in group.rows.items()
    }
    untrained = [row for row, runs in group.rows.items() if not runs[0].epochs]
    trained = {row: scores[row] for row in scores if row not in untrained}
    shown = families(trained)
    caption = (
        "Farther up and to the right is better. A band shows one family of rows in colour and all others in "
        "light grey; the row that a family varies, where there is one, is black. "
        f"{interval_caption([len(group.rows[row]) for row in trained])}"
    )
    heights = [max(1.6, 0.3 + 0.175 * len(family.looks)) for family in shown]
    figure = new_figure(
        group, "Trade-off of the three tasks on dev", height=sum(heights) + 0.8, caption=caption
    )
    titles = [f"{LABELS[metric]} {UNITS[metric]} over SST accuracy" for metric in _AGAINST]
    grid, panels = bands(figure, titles, heights, legend=0.6)
    for down, family in enumerate(shown):
        for panel, metric in zip(panels[down], _AGAINST, strict=True):
            if (down, metric) != (0, _AGAINST[0]):
                panel.sharex(panels[0][0])
            panel.tick_params(labelbottom=down == len(shown) - 1)
            _family_panel(panel, family, trained, metric)
            for lines, axis in ((panel.axvline, "sst"), (panel.axhline, metric)):
                lines(group.data.constant[axis], **CONSTANT, label="_constant")
                for row in untrained:
                    lines(scores[row][axis].value, **UNTRAINED, label="_untrained")
            if down == len(shown) - 1:
                panel.set_xlabel("SST accuracy")
        handles = [Line2D([], [], label=row, **_points(look).options()) for row, look in family.looks.items()]
        key(figure, grid[down, -1], handles, title=family.title)
    below = [
        Line2D([], [], **Look(LIGHT, linestyle="").options(), label="other rows"),
        Line2D([], [], **CONSTANT, label="constant prediction"),
        *(Line2D([], [], **UNTRAINED, label=row) for row in untrained),
    ]
    key(figure, grid[-1, :], below, columns=len(below))
    return figure


def _family_panel(panel: Axes, family: Family, scores: dict[str, dict[str, Score]], metric: str) -> None:
    """Draws two tasks' scores of all rows, those of a family on top and with intervals."""
    for row in [row for row in scores if row not in family.looks]:
        other = Look(LIGHT, linestyle="").options()
        panel.plot(scores[row]["sst"].value, scores[row][metric].value, **other, label=f"_{row}")
    for row, look in family.looks.items():
        x, y = scores[row]["sst"], scores[row][metric]
        bar: dict[str, Any] = {"color": look.color, "alpha": 0.5, "linewidth": 1}
        panel.plot((x.low, x.high), (y.value, y.value), **bar, label=f"_{row}, interval of sst")
        panel.plot((x.value, x.value), (y.low, y.high), **bar, label=f"_{row}, interval of {metric}")
        panel.plot([x.value], [y.value], **_points(look).options(), label=row)


def _points(look: Look) -> Look:
    return Look(look.color, look.marker, "")
