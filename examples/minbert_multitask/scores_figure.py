"""Dev scores of all rows over training, or after it where that was a single epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from .comparable import LABELS, UNITS, Comparable
from .evaluate import METRICS
from .experiments import EXPERIMENTS, Experiment
from .figure_parts import (
    BLACK,
    BLUE,
    CONSTANT,
    GREY,
    LIGHT,
    MARKERS,
    PALETTE,
    UNTRAINED,
    Look,
    history,
    key,
    longest,
    metric_panels,
    new_figure,
    styled,
)
from .results import RunResult

_REFERENCE = Look(BLACK, marker=".", linestyle="--")


@dataclass(frozen=True)
class _Family:
    """Rows that are drawn in one column: its title, the row they all vary, and their looks by row."""

    title: str
    reference: str
    looks: dict[str, Look]


def scores_figure(group: Comparable) -> Figure | None:
    """Draws dev scores of every row, one panel a task: over iterations, or with intervals after one epoch.

    Returns:
        The figure, or None where there is nothing to draw.
    """
    return _over_training(group) if longest(group) > 1 else _after_training(group)


@styled
def _over_training(group: Comparable) -> Figure:
    trained = {row: runs for row, runs in group.rows.items() if runs[0].epochs}
    untrained = {row: runs for row, runs in group.rows.items() if not runs[0].epochs}
    families = _families(trained)
    caption = (
        "A panel shows one family of rows in colour and all others in light grey; the family's reference, "
        "where it has one, is black. Pearson 0 and the majority class are what a constant prediction scores."
    )
    if any(len(runs) > 1 for runs in trained.values()):
        caption += " Rows of several seeds: the mean in bold, each seed as a thin line."
    names = max(len(family.looks) + bool(family.reference) for family in families)
    ratios = [0.28 + 0.175 * names, *[1.5] * len(METRICS), 0.25]
    figure = new_figure(group, "Dev scores over training", height=sum(ratios) + 0.3, caption=caption)
    grid = GridSpec(len(ratios), len(families), figure=figure, height_ratios=ratios)
    panels = metric_panels(figure, grid, first_row=1, columns=len(families))
    for down, metric in enumerate(METRICS):
        for panel, family in zip(panels[down], families, strict=True):
            _family_panel(panel, family, trained, metric)
            panel.axhline(group.data.constant[metric], **CONSTANT, label="_constant")
            for runs in untrained.values():
                panel.axhline(_mean(runs, metric), **UNTRAINED, label="_untrained")
        interval = _interval_bar(panels[down][0], group, metric)
    for across, family in enumerate(families):
        looks = {**({family.reference: _REFERENCE} if family.reference else {}), **family.looks}
        handles = [Line2D([], [], label=row, **look.options()) for row, look in looks.items()]
        key(figure, grid[0, across], handles, title=family.title)
    below = [
        Line2D([], [], color=LIGHT, label="other rows"),
        Line2D([], [], **CONSTANT, label="constant prediction"),
        *(Line2D([], [], **UNTRAINED, label=row) for row in untrained),
        interval,
    ]
    key(figure, grid[-1, :], below, columns=len(below))
    return figure


def _family_panel(
    panel: Axes, family: _Family, trained: dict[str, tuple[RunResult, ...]], metric: str
) -> None:
    """Draws one metric of all rows, those of a family on top."""
    looks = {family.reference: _REFERENCE, **family.looks}
    for row in trained.keys() - looks.keys():
        panel.plot(*history(trained[row], metric), color=LIGHT, linewidth=0.9, zorder=1.5, label=f"_{row}")
    end = 0.0
    for row, look in looks.items():
        runs = trained.get(row, ())
        if len(runs) > 1:
            for run in runs:
                panel.plot(*history([run], metric), color=look.color, linewidth=0.6, alpha=0.6, label="_seed")
        if runs:
            iterations, scores = history(runs, metric)
            panel.plot(iterations, scores, **look.options(), label=row)
            end = max(end, iterations[-1])
    panel.set_xlim(0, 1.04 * end)


def _interval_bar(panel: Axes, group: Comparable, metric: str) -> ErrorbarContainer:
    """Draws, where no epoch has ended yet, how wide an interval of these scores is."""
    scores = [run.dev[metric] for run in group.runs]
    half = fmean((score.high - score.low) / 2 for score in scores)
    middle = fmean(score.value for score in scores)
    at = 0.045 * panel.get_xlim()[1]
    return panel.errorbar(
        at, middle, half, color=GREY, capsize=3, linewidth=1.2, label="width of a 95 % interval"
    )


def _families(trained: dict[str, tuple[RunResult, ...]]) -> list[_Family]:
    """Returns the families of rows that have runs; a row's look does not depend on which others have."""
    members: dict[tuple[str, str], list[str]] = {}
    for row in EXPERIMENTS.values():
        members.setdefault(_kind(row), []).append(row.name)
    members["other rows", ""] = [row for row in trained if row not in EXPERIMENTS]
    families = []
    for (title, reference), rows in members.items():
        looks = {
            row: Look(
                PALETTE[number % len(PALETTE)], MARKERS[(number + number // len(PALETTE)) % len(MARKERS)]
            )
            for number, row in enumerate(rows)
            if row in trained
        }
        if looks:
            families.append(_Family(title, reference if reference in trained else "", looks))
    return families


def _kind(row: Experiment) -> tuple[str, str]:
    """Returns the title of a row's family, and the row that its members vary."""
    if row.epoch_multiple > 1:
        return "longer epochs", "gse"
    if row.smart:
        return "SMART", "multitask"
    if row.similarity != "linear" or row.pooling != "cls":
        return "STS head (with gse)", "gse"
    return "update", ""


@styled
def _after_training(group: Comparable) -> Figure:
    caption = (
        "Bars: bootstrap 95 % intervals over dev examples; the luck of the seed is not in them. Hollow: the "
        "same answer to all examples (for overall, in a task). Dotted: the best constant prediction."
    )
    if any(len(runs) > 1 for runs in group.rows.values()):
        caption += " Rows of several seeds: their mean, each seed as a tick."
    title = "Dev scores after one epoch" if longest(group) else "Dev scores"
    figure = new_figure(group, title, height=0.9 + 0.25 * len(group.rows), caption=caption)
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, METRICS, strict=True):
        for at, runs in enumerate(group.rows.values()):
            scores = [run.dev[metric] for run in runs]
            mean = _mean(runs, metric)
            ends = fmean(score.low for score in scores), fmean(score.high for score in scores)
            flagged = any(score.flagged for score in scores)
            panel.plot(ends, (at, at), color=BLUE, alpha=0.5, linewidth=2, label="_interval")
            look = Look(BLUE, filled=not flagged, linestyle="")
            panel.plot([mean], [at], **look.options(), label=runs[0].row)
            if len(runs) > 1:
                values = [score.value for score in scores]
                panel.plot(values, [at] * len(values), "|", color=BLACK, markersize=7, label="_seeds")
        panel.axvline(group.data.constant[metric], **CONSTANT, label="_constant")
        panel.set_title(f"{LABELS[metric]} {UNITS[metric]}".strip())
        panel.tick_params(length=0)
    panels[0].set_yticks(range(len(group.rows)), list(group.rows))
    panels[0].set_ylim(len(group.rows) - 0.4, -0.6)
    return figure


def _mean(runs: Sequence[RunResult], metric: str) -> float:
    return fmean(run.dev[metric].value for run in runs)
