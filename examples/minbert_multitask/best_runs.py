"""Whose predictions on test are handed in: a run of each of the three best rows, and of the row ``best``."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from .data import Dataset
from .prediction_files import write_predictions
from .records import Record
from .results import RunResult, by_row


def best_runs(results: Sequence[RunResult]) -> list[RunResult]:
    """Returns a run of each of the three best trained rows, and of ``best``.

    Rows are compared by the mean over seeds of their overall score on dev; a row's run is that of its best
    seed. Nothing of test decides.
    """
    rows = by_row(run for run in results if run.epochs)

    def overall(run: RunResult) -> float:
        return run.dev.overall.value

    order = sorted(rows, key=lambda row: fmean(map(overall, rows[row])), reverse=True)
    chosen = [*order[:3], *(row for row in order[3:] if row == "best")]
    return [max(rows[row], key=overall) for row in chosen]


def write_best_predictions(records: Sequence[Record], dataset: Dataset, folder: Path) -> list[Path]:
    """Writes the best runs' prediction files for test, and removes those of records no longer among them.

    Args:
        records: All runs.
        dataset: Of the runs.
        folder: Gets a folder ``ROW-SEED`` for each.

    Returns:
        The folders.

    Raises:
        ValueError: If a record is at fault, or of other data.
        OSError: If something cannot be written.
    """
    kept = {record.folder.name: record for record in records}
    chosen = [f"{run.row}-{run.seed}" for run in best_runs([record.result for record in records])]
    for name in chosen:
        write_predictions(kept[name].predictions("test", dataset), "test", folder / name)
    for name in kept.keys() - set(chosen):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    return [folder / name for name in chosen]
