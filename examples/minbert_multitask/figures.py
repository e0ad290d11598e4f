"""The figures: dev scores over training, SMART's train against dev scores, conflicts between tasks."""

import io
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from .comparable import comparable
from .conflicts_figure import conflicts_figure
from .files import write_atomically
from .results import RunResult
from .scores_figure import scores_figure
from .smart_figure import smart_figure


def draw(results: Iterable[RunResult], folder: str | Path) -> list[Path]:
    """Draws ``scores.png``, ``smart.png`` and ``conflicts.png``, each if there is something to draw.

    Runs on other data, with other weights or settings get figures of their own: ``scores-2.png`` and so on.

    Args:
        results: The runs.
        folder: Where to write; made where it is missing.

    Returns:
        The paths of the figures.

    Raises:
        ValueError: If a run lacks what a figure needs.
        OSError: If the disk is full or read-only.
    """
    paths = []
    for number, group in enumerate(comparable(results), start=1):
        for name, draw_one in (
            ("scores", scores_figure),
            ("smart", smart_figure),
            ("conflicts", conflicts_figure),
        ):
            figure = draw_one(group)
            if figure is not None:
                path = Path(folder) / f"{name}{f'-{number}' if number > 1 else ''}.png"
                write_atomically(path, png(figure))
                paths.append(path)
    return paths


def png(figure: Figure) -> bytes:
    """Returns a figure as a picture, equal to the byte for equal figures."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
