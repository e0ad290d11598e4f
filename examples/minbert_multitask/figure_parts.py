"""What the figures share: style, colours, the heading and the caption, and scores as lines or as points."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from .comparable import LABELS, UNITS, Comparable
from .evaluate import METRICS, Array
from .results import RunResult

BLACK, GREY, LIGHT = "#000000", "#777777", "#cccccc"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"  # Okabe and Ito: distinct for every colour vision
WINE = "#882255"  # Tol, likewise
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, WINE)
MARKERS = "osD^vPX"
HEADINGS = [f"{LABELS[metric]} {UNITS[metric]}".strip() for metric in METRICS]

_WIDTH = 9.6  # inches; 1,440 pixels, which a page shows at about 850
_LINE, _SMALL = 0.165, 9.0  # inches and points of a line of small print
_CHARACTERS = 142
_STEPS = (1, 2, 2.5, 5, 10)  # between ticks

styled = mpl.rc_context(
    {
        "figure.dpi": 150,
        "savefig.dpi": "figure",
        "text.parse_math": False,  # a folder's name may have dollars
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.labelsize": 10,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.fontsize": 9.5,
        "legend.frameon": False,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#eeeeee",
        "lines.linewidth": 1.5,
        "lines.markersize": 4.5,
    }
)
"""Decorates what draws: neither does a user's matplotlibrc change the figures, nor they the user's."""


@dataclass(frozen=True)
class Look:
    """How a line is drawn: its colour, marker and dashes, and whether the markers are filled."""

    color: str
    marker: str = "o"
    linestyle: str = "-"
    filled: bool = True

    def options(self) -> dict[str, Any]:
        """Returns what ``Axes.plot`` takes."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.linestyle,
            "markerfacecolor": self.color if self.filled else "white",
        }


CONSTANT: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1.2}
UNTRAINED: dict[str, Any] = {"color": GREY, "linestyle": (0, (6, 3)), "linewidth": 1.2}
OF_PAPER: dict[str, Any] = {
    "color": BLACK,
    "marker": "x",
    "linestyle": "",
    "markersize": 5,
    "markeredgewidth": 1.2,
}


def new_figure(group: Comparable, title: str, *, height: float, caption: str) -> Figure:
    """Returns an empty figure with its title, what it is made from, and below how to read it.

    Args:
        group: The runs it is of.
        title: What it shows.
        height: The height of what is yet to be drawn, in inches.
        caption: How to read it.
    """
    setting = [
        line
        for text in (
            f"data: {group.data_text}; weights: {group.weights_text}",
            f"schedule: {group.schedule_text}",
        )
        for line in textwrap.wrap(text, _CHARACTERS)
    ]
    below = textwrap.wrap(caption, _CHARACTERS)
    top, bottom = 0.42 + _LINE * len(setting), 0.12 + _LINE * len(below)
    height += top + bottom
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    left = 0.1 / _WIDTH
    figure.text(left, 1 - 0.08 / height, title, va="top", fontsize=13, fontweight="bold")
    small: dict[str, Any] = {"fontsize": _SMALL, "color": "#444444", "linespacing": 1.3}
    figure.text(left, 1 - 0.36 / height, "\n".join(setting), va="top", **small)
    figure.text(left, 0.06 / height, "\n".join(below), va="bottom", **small)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, bottom / height, 1, 1 - (top + bottom) / height))  # type: ignore[call-arg]
    return figure


def bands(
    figure: Figure, titles: Sequence[str], heights: Sequence[float], *, legend: float
) -> tuple[GridSpec, list[list[Axes]]]:
    """Returns a grid of bands of panels below each other, with room for a legend on the right of each.

    Args:
        figure: The figure.
        titles: Of the columns of panels; the panels of a column share the vertical axis.
        heights: Of the bands; the panels of a band share the horizontal axis unless they are told otherwise.
        legend: The legends' width, in widths of a panel.

    Returns:
        The grid, of which the last column and a row below are free, and the panels by band and column.
    """
    widths = [*[1.0] * len(titles), legend]
    grid = GridSpec(
        len(heights) + 1, len(widths), figure=figure, width_ratios=widths, height_ratios=[*heights, 0.25]
    )
    panels: list[list[Axes]] = []
    for down in range(len(heights)):
        panels.append([])
        for across, title in enumerate(titles):
            panel = figure.add_subplot(grid[down, across], sharey=panels[0][across] if down else None)
            panel.tick_params(length=0)
            panel.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
            if not down:
                panel.set_title(title)
            panels[down].append(panel)
    return grid, panels


def count_axis(panel: Axes, *, label: bool = True) -> None:
    """Makes a panel's horizontal axis, whose limits are set, one of iterations."""
    ticks = 4 if panel.get_xlim()[1] < 1000 else 2  # longer numbers would run into one another
    panel.xaxis.set_major_locator(MaxNLocator(ticks, steps=_STEPS, integer=True))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if label:
        panel.set_xlabel("iterations")


def key(figure: FigureBase, cell: Any, handles: Sequence[Any], *, columns: int = 1, title: str = "") -> None:
    """Fills a cell of the grid with a legend."""
    space = figure.add_subplot(cell)
    space.set_axis_off()
    legend = space.legend(
        handles=handles,
        loc="upper left" if title else "center",
        bbox_to_anchor=(0, 1) if title else None,
        ncol=columns,
        title=title or None,
        title_fontproperties={"weight": "bold", "size": 10},
        alignment="left",
        borderaxespad=0,
        handlelength=2.4,
        labelspacing=0.25,
        columnspacing=1.0,
    )
    legend.set_in_layout(False)  # or a long name would squeeze its column


def history(runs: Sequence[RunResult], metric: str, *, split: str = "dev") -> tuple[Array, Array]:
    """Returns the iterations done at each epoch's end and the score then, the mean over runs: ``(E,)`` each.

    Args:
        runs: Runs of one row.
        metric: What is scored.
        split: ``"dev"``, or ``"train"`` where every epoch has such scores.
    """
    scores = [[(getattr(epoch, split) or {})[metric] for epoch in run.epochs] for run in runs]
    iterations = np.cumsum([epoch.iterations for epoch in runs[0].epochs], dtype=np.float64)
    return iterations, np.mean(scores, axis=0, dtype=np.float64)


def longest(group: Comparable) -> int:
    """Returns the number of epochs of the longest run."""
    return max(len(run.epochs) for run in group.runs)
