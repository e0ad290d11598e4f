"""Whose predictions on test are handed in: a run of each of the three best rows, and of the row ``best``."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from .comparable import Comparable
from .data import Dataset
from .prediction_files import remove_predictions, write_predictions
from .records import Record
from .results import RunResult


def best_runs(results: Sequence[RunResult]) -> list[RunResult]:
    """Returns a run of each of the three best trained rows, and of ``best``.

    Rows are compared by the mean over seeds of their overall score on dev; a row's run is that of its best
    seed. Nothing of test decides.
    """
    rows = Comparable(tuple(run for run in results if run.epochs)).rows

    def overall(run: RunResult) -> float:
        return run.dev.overall.value

    order = sorted(rows, key=lambda row: fmean(map(overall, rows[row])), reverse=True)
    chosen = [*order[:3], *(row for row in order[3:] if row == "best")]
    return [max(rows[row], key=overall) for row in chosen]


def write_best_predictions(records: Sequence[Record], dataset: Dataset, folder: Path) -> None:
    """Writes the best runs' prediction files for test, and removes those of records no longer among them.

    Args:
        records: All runs.
        dataset: Of the runs.
        folder: Gets a folder ``ROW-SEED`` for each of the best.

    Raises:
        ValueError: If a record is at fault, or of other data.
        OSError: If something cannot be written.
    """
    best = best_runs([record.result for record in records])
    for record in records:
        own = folder / record.folder.name
        if record.result in best:
            write_predictions(record.predictions("test", dataset), "test", own)
        elif own.is_dir():
            remove_predictions("test", own)
