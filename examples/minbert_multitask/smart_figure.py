"""Does SMART narrow the gap between train and dev? Each SMART row beside the row it is without SMART."""

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from .comparable import Comparable
from .evaluate import METRICS
from .experiments import EXPERIMENTS, Experiment
from .figure_parts import (
    BLUE,
    CONSTANT,
    HEADINGS,
    VERMILION,
    Look,
    bands,
    count_axis,
    history,
    key,
    longest,
    new_figure,
    styled,
)
from .results import RunResult

_COLORS = {"SMART": BLUE, "plain": VERMILION}


def smart_figure(group: Comparable) -> Figure | None:
    """Draws train and dev scores of each SMART row and of the row that differs in SMART and epochs alone.

    Returns:
        The figure, or None where no SMART row was scored on train.
    """
    pairs = _pairs(group)
    if not pairs:
        return None
    return _over_training(group, pairs) if longest(group) > 1 else _after_training(group, pairs)


def _pairs(group: Comparable) -> dict[str, dict[str, tuple[RunResult, ...]]]:
    """Returns by SMART row its runs and those of its counterpart, where they were scored on train."""
    scored = {
        row: runs
        for row, runs in group.rows.items()
        if row in EXPERIMENTS and all(run.epochs and all(epoch.train for epoch in run.epochs) for run in runs)
    }
    pairs = {}
    for name in (name for name in scored if EXPERIMENTS[name].smart):
        wanted = replace(
            _unnamed(EXPERIMENTS[name]),
            smart=None,
            smart_weight=Experiment.smart_weight,
            smart_calibrated=False,
            bregman_weight=0.0,
            epoch_multiple=1,
        )
        plain = next((row.name for row in EXPERIMENTS.values() if _unnamed(row) == wanted), "")
        pairs[name] = {"SMART": scored[name], **({"plain": scored[plain]} if plain in scored else {})}
    return pairs


def _unnamed(row: Experiment) -> Experiment:
    """Returns what a row trains, whatever it is called."""
    return replace(row, name="", what="", group="paper")


def _caption(pairs: dict[str, dict[str, tuple[RunResult, ...]]]) -> str:
    runs = [run for pair in pairs.values() for both in pair.values() for run in both]
    sizes = sorted({int(run.config["train_eval_size"]) for run in runs if "train_eval_size" in run.config})
    error = f" (95 % sampling error of an accuracy: up to ±{0.98 / sizes[0] ** 0.5:.2f})" if sizes else ""
    return (
        f"Train: {' or '.join(map(str, sizes)) or 'some'} train examples of each task{error}; their labels "
        "are not distributed as dev's. Shaded: where train is above dev, the gap that a regularizer is to "
        "narrow."
    )


@styled
def _over_training(group: Comparable, pairs: dict[str, dict[str, tuple[RunResult, ...]]]) -> Figure:
    heights = [1.45] * len(pairs)
    figure = new_figure(
        group, "SMART: train and dev scores", height=sum(heights) + 0.8, caption=_caption(pairs)
    )
    grid, panels = bands(figure, HEADINGS, heights, legend=1.2)
    for band, (name, pair) in enumerate(pairs.items()):
        handles = []
        for kind, runs in pair.items():
            for split, look in _looks(kind).items():
                whose = "" if kind == "SMART" else f"{runs[0].row}, "
                handles.append(Line2D([], [], label=f"{whose}{split}", **look.options()))
        key(figure, grid[band, -1], handles, title=name)
        for panel, metric in zip(panels[band], METRICS, strict=True):
            for kind, runs in pair.items():
                _both_splits(panel, kind, runs, metric)
            panel.axhline(group.data.constant[metric], **CONSTANT, label="_constant")
            panel.set_xlim(left=0)
            count_axis(panel, label=band == len(pairs) - 1)
    below = [Line2D([], [], **CONSTANT, label="constant prediction on dev")]
    key(figure, grid[-1, :], below)
    return figure


def _both_splits(panel: Axes, kind: str, runs: tuple[RunResult, ...], metric: str) -> None:
    scores = {}
    for split, look in _looks(kind).items():
        iterations, scores[split] = history(runs, metric, split=split)
        panel.plot(iterations, scores[split], **look.options(), label=f"{runs[0].row}, {split}")
    above = [train > dev for train, dev in zip(scores["train"], scores["dev"], strict=True)]
    panel.fill_between(
        iterations,
        scores["dev"],
        scores["train"],
        where=above,
        interpolate=True,
        color=_COLORS[kind],
        alpha=0.12,
        linewidth=0,
    )


def _looks(kind: str) -> dict[str, Look]:
    marker = "o" if kind == "SMART" else "s"
    return {
        "train": Look(_COLORS[kind], marker, "--", filled=False),
        "dev": Look(_COLORS[kind], marker),
    }


@styled
def _after_training(group: Comparable, pairs: dict[str, dict[str, tuple[RunResult, ...]]]) -> Figure:
    rows = {
        runs[0].row: (kind, runs) for pair in pairs.values() for kind, runs in reversed(list(pair.items()))
    }
    figure = new_figure(
        group, "SMART: train and dev scores", height=1.2 + 0.3 * len(rows), caption=_caption(pairs)
    )
    grid = GridSpec(2, len(METRICS), figure=figure, height_ratios=[0.9 + 0.3 * len(rows), 0.3])
    panels: list[Axes] = []
    for metric in METRICS:
        panel = figure.add_subplot(grid[0, len(panels)], sharey=panels[0] if panels else None)
        panels.append(panel)
        for at, (row, (kind, runs)) in enumerate(rows.items()):
            ends = {split: history(runs, metric, split=split)[1][-1] for split in ("train", "dev")}
            if ends["train"] > ends["dev"]:
                gap = (ends["dev"], ends["train"])
                panel.plot(gap, (at, at), color=_COLORS[kind], alpha=0.25, linewidth=5, label="_gap")
            for split, look in _looks(kind).items():
                panel.plot([ends[split]], [at], **look.options(), label=f"{row}, {split}")
        panel.axvline(group.data.constant[metric], **CONSTANT, label="_constant")
        panel.set_title(HEADINGS[len(panels) - 1])
        panel.tick_params(length=0, labelleft=len(panels) == 1)
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    handles = [
        Line2D([], [], label=f"{'SMART' if kind == 'SMART' else 'without'}, {split}", **look.options())
        for kind in _COLORS
        for split, look in _looks(kind).items()
    ]
    key(figure, grid[1, :], [*handles, Line2D([], [], **CONSTANT, label="constant prediction")], columns=5)
    return figure
