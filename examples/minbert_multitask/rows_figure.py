"""The score of every row with its interval, beside the paper's."""

from collections.abc import Collection
from typing import Any

from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from .comparable import Comparable
from .evaluate import METRICS
from .families import families
from .figure_parts import (
    CONSTANT,
    GREY,
    HEADINGS,
    OF_PAPER,
    UNTRAINED,
    Look,
    key,
    longest,
    new_figure,
    styled,
)
from .intervals import mean_score
from .table import PAPER, differences_from_paper

_UNTRAINED = Look(GREY, linestyle="")
_SEED: dict[str, Any] = {
    "color": GREY,
    "marker": "|",
    "linestyle": "",
    "markersize": 8,
    "markeredgewidth": 0.9,
}


@styled
def rows_figure(group: Comparable) -> Figure:
    """Draws the mean over seeds of each row's dev scores, one panel a metric, by families of rows."""
    looks, labels = _lines(group)
    line = 0.19
    figure = new_figure(group, _title(group), height=0.85 + line * len(labels), caption=_caption(group))
    grid = GridSpec(2, len(METRICS), figure=figure, height_ratios=[0.6 + line * len(labels), 0.25])
    first = None
    for across, (metric, heading) in enumerate(zip(METRICS, HEADINGS, strict=True)):
        panel = figure.add_subplot(grid[0, across], sharey=first)
        first = first or panel
        panel.axvline(group.data.constant[metric], **CONSTANT, label="_constant")
        for row, (at, look) in looks.items():
            scores = [run.dev[metric] for run in group.rows[row]]
            mean = mean_score(scores)
            panel.plot((mean.low, mean.high), (at, at), color=look.color, alpha=0.6, label=f"_{row}")
            shown = Look(look.color, look.marker, "", filled=not mean.flagged)
            if len(scores) > 1:
                panel.plot([score.value for score in scores], [at] * len(scores), **_SEED, label="_seeds")
            panel.plot([mean.value], [at], **shown.options(), label=row)
            if look is _UNTRAINED:
                panel.axvline(mean.value, **UNTRAINED, label="_untrained")
            if paper := PAPER.get(row):
                panel.plot([paper[metric]], [at], **OF_PAPER, label=f"_paper's {row}")
        panel.set_title(heading)
        panel.tick_params(length=0, labelleft=not across)
        panel.grid(visible=False, axis="y")
    assert first is not None
    first.set_yticks(range(len(labels)), labels)
    for label in first.get_yticklabels():
        label.set_fontweight("normal" if label.get_text() in looks else "bold")
    first.set_ylim(len(labels) - 0.4, -0.6)
    below = _key(group)
    key(figure, grid[1, :], below, columns=len(below))
    return figure


def _lines(group: Comparable) -> tuple[dict[str, tuple[int, Look]], list[str]]:
    """Returns each row's line and look, and the labels of all lines: rows, below their family's title."""
    looks = {row: _UNTRAINED for row, runs in group.rows.items() if not runs[0].epochs}
    labels = list(looks)
    for family in families([row for row in group.rows if row not in looks]):
        labels += [family.title, *family.members]
        looks |= family.members
    return {row: (labels.index(row), look) for row, look in looks.items()}, labels


def _title(group: Comparable) -> str:
    return {0: "Dev scores", 1: "Dev scores after one epoch"}.get(
        longest(group), "Dev scores of each row's best epoch"
    )


def _key(group: Comparable) -> list[Line2D]:
    several = any(len(runs) > 1 for runs in group.rows.values())
    here = Look(GREY).options()
    found = [Line2D([], [], **here, label="mean, 95 % interval" if several else "score, 95 % interval")]
    if several:
        found.append(Line2D([], [], **_SEED, label="a seed"))
    if any(PAPER.get(row) for row in group.rows):
        found.append(Line2D([], [], **OF_PAPER, label="the paper's"))
    found.append(Line2D([], [], **CONSTANT, label="constant prediction"))
    untrained = [row for row, runs in group.rows.items() if not runs[0].epochs]
    return [*found, *(Line2D([], [], **UNTRAINED, label=row) for row in untrained)]


def _caption(group: Comparable) -> str:
    parts = [interval_caption([len(runs) for runs in group.rows.values()])]
    if any(PAPER.get(row) for row in group.rows):
        differences = differences_from_paper(group)
        compare = f", measured with {', '.join(differences)}: compare gaps between rows, not levels"
        parts.append(f"Crosses: the paper's dev scores, single runs{compare if differences else ''}.")
    several = max(map(len, group.rows.values())) > 1
    which = ", in at least one of the runs" if several else ""
    parts.append(f"Hollow: the same answer to all examples (for overall, in a task){which}.")
    if longest(group) > 1:
        parts.append(
            "The epoch is chosen by overall on the very dev examples it is scored on: a little too high."
        )
    return " ".join(parts)


def interval_caption(counts: Collection[int]) -> str:
    """Returns which errors the intervals have.

    Args:
        counts: The rows' numbers of seeds.
    """
    single = "the bootstrap's over dev examples; the luck of the seed is not in it"
    several = (
        "Student's t for the mean, with two errors added in squares: of the examples (the mean of the seeds' "
        "own intervals, as all share the examples) and of the seeds (s²/n)"
    )
    if max(counts) == 1:
        return f"95 % intervals: {single}."
    if min(counts) == 1:
        return f"95 % intervals: of several seeds {several}; of one seed {single}."
    return f"95 % intervals: {several}."
