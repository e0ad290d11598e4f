"""The figures: dev scores over training and by row, their trade-off, SMART's gap, conflicts, claims."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .claims_figure import claims_figure
from .comparable import Comparable, comparable
from .conflicts_figure import conflicts_figure
from .files import write_atomically
from .findings import Finding
from .results import RunResult
from .rows_figure import rows_figure
from .scores_figure import scores_figure
from .smart_figure import smart_figure
from .tradeoff_figure import tradeoff_figure


def draw(results: Iterable[RunResult], folder: str | Path, judged: Sequence[Finding] = ()) -> list[Path]:
    """Draws ``scores``, ``rows``, ``tradeoff``, ``smart``, ``conflicts`` and ``claims.png``.

    Each is drawn if it has what to draw.

    Runs on other data, with other weights or settings get figures of their own: ``scores-2.png`` and so on.

    Args:
        results: The runs.
        folder: Where to write; made where it is missing.
        judged: The verdicts on the claims, where these runs are a reproduction's.

    Returns:
        The paths of the figures.

    Raises:
        ValueError: If a run lacks what a figure needs.
        OSError: If the disk is full or read-only.
    """
    paths = []
    for number, group in enumerate(comparable(results), start=1):
        for name, figure in _figures(group, judged).items():
            if figure is not None:
                path = Path(folder) / f"{name}{f'-{number}' if number > 1 else ''}.png"
                write_atomically(path, png(figure))
                paths.append(path)
    return paths


def _figures(group: Comparable, judged: Sequence[Finding]) -> dict[str, Figure | None]:
    """Returns a group's figures by name; after a single epoch the scores are those by row."""
    over_training, by_row = scores_figure(group), rows_figure(group)
    return {
        "scores": over_training or by_row,
        "rows": by_row if over_training and len(group.rows) > 1 else None,
        "tradeoff": tradeoff_figure(group),
        "smart": smart_figure(group),
        "conflicts": conflicts_figure(group),
        "claims": claims_figure(group, judged),
    }


def png(figure: Figure) -> bytes:
    """Returns a figure as a picture, equal to the byte for equal figures."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
