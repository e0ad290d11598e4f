"""Every claim's difference with its interval, beside the paper's own."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .comparable import LABELS, Comparable
from .figure_parts import CONSTANT, GREEN, GREY, LIGHT, OF_PAPER, VERMILION, Look, key, new_figure, styled
from .findings import CONFIRMED, REFUTED, UNDECIDED, UNFINISHED, Finding
from .protocol import Claim
from .table import PAPER, differences_from_paper

_LOOKS = {
    CONFIRMED: Look(GREEN),
    REFUTED: Look(VERMILION),
    UNDECIDED: Look(GREY, filled=False),
    UNFINISHED: Look(LIGHT, filled=False),
}
_LINE = 0.22  # inches


def claims_figure(group: Comparable, judged: Sequence[Finding]) -> Figure | None:
    """Draws what the runs say of each claim, the paper's claims first.

    Args:
        group: The runs.
        judged: The verdicts.

    Returns:
        The figure, or None where nothing was judged over two seeds.
    """
    shown = [finding for finding in judged if math.isfinite(finding.difference.low)]
    return _draw(group, sorted(shown, key=lambda finding: not finding.claim.in_paper)) if shown else None


def paper_difference(claim: Claim) -> float | None:
    """Returns the difference between a claim's rows in the paper's table; None where one is not in it."""
    row, reference = PAPER.get(claim.row), PAPER.get(claim.reference)
    return row[claim.metric] - reference[claim.metric] if row and reference else None


@styled
def _draw(group: Comparable, shown: Sequence[Finding]) -> Figure:
    caption = (
        "Each line is a difference between two rows of the same seeds, turned so that right is as claimed, "
        "with its 95 % interval over dev examples and seeds (PROTOCOL.md). Confirmed and refuted are those "
        "whose whole interval is on one side of 0. Crosses: the same difference in the paper's table, single "
        "runs"
    )
    differences = differences_from_paper(group)
    caption += f" with {', '.join(differences)}." if differences else "."
    figure = new_figure(
        group, "What the runs say of each claim", height=0.7 + _LINE * len(shown), caption=caption
    )
    above, below = np.ravel(
        np.asarray(figure.subfigures(2, 1, height_ratios=[0.4 + _LINE * len(shown), 0.25]))
    )
    panel = above.add_subplot()
    panel.axvline(0, **CONSTANT)
    for at, finding in enumerate(shown):
        claim, found, look = finding.claim, finding.difference, _LOOKS[finding.verdict]
        ends = [claim.sign * end for end in (found.low, found.high)]
        panel.plot(ends, [at, at], color=look.color, alpha=0.6, label=f"_{claim.text}")
        panel.plot([claim.sign * found.value], [at], **look.options(), label=claim.text)
        if (papers := paper_difference(claim)) is not None:
            panel.plot([claim.sign * papers], [at], **OF_PAPER, label=f"_paper's {claim.text}")
    labels = [f"{finding.claim.text} ({LABELS[finding.claim.metric]})" for finding in shown]
    panel.set_yticks(range(len(shown)), labels)
    for label, finding in zip(panel.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if finding.claim.in_paper else "normal")
    panel.set_ylim(len(shown) - 0.4, -0.6)
    panel.tick_params(length=0)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("difference in the claimed direction; bold: claims of the paper")
    verdicts = [Line2D([], [], **look.options(), label=verdict) for verdict, look in _LOOKS.items()]
    handles = [*verdicts, Line2D([], [], **OF_PAPER, label="the paper's")]
    key(below, below.add_gridspec()[0], handles, columns=len(handles))
    return figure
