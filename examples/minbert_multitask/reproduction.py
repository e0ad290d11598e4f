"""The whole reproduction, from one command that goes on wherever it was stopped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import findings, records
from .best_runs import write_best_predictions
from .data import Dataset
from .experiments import Experiment
from .findings import Finding
from .inputs import DataSource, Inputs
from .parallel import run_all
from .protocol import SEEDS, SETTINGS
from .records import Record
from .results import RunResult
from .run_folder import PREDICTIONS, RESULT, Job
from .settings import Settings


def reproduce(
    rows: Sequence[Experiment],
    source: DataSource,
    *,
    runs: Path,
    kept: Path,
    seeds: Sequence[int] = SEEDS,
    settings: Settings = SETTINGS,
    processes: int = 1,
) -> tuple[list[Record], list[Finding]]:
    """Runs every row with every seed, one seed after another, and keeps a record of each run as it ends.

    Runs that have a record already are not run again; runs that were stopped go on.

    Args:
        rows: The rows.
        source: Where the data is.
        runs: Folder of the runs, with their checkpoints.
        kept: Folder of the records.
        seeds: The seeds, in the order in which they are run.
        settings: The schedule.
        processes: How many runs at a time.

    Returns:
        What :func:`conclude` returns of all records in the folder.

    Raises:
        ValueError: If the data, a record or a checkpoint is at fault.
        OSError: If something cannot be written, or a process was killed.
    """
    inputs = Inputs.load(source, settings.weights)
    jobs = [
        Job(
            experiment=row,
            settings=replace(settings, seed=seed),
            source=source,
            folder=runs / f"{row.name}-{seed}",
            resume=True,
            keep_model=False,
        )
        for seed in seeds
        for row in rows
        if not (kept / f"{row.name}-{seed}" / RESULT).exists()
    ]

    def keep(job: Job, _: RunResult) -> None:
        Record.keep(job.folder, kept / job.folder.name, inputs.dataset)

    run_all(jobs, inputs, processes=processes, in_order=True, ended=keep)
    return conclude(kept, inputs.dataset)


def conclude(kept: Path, dataset: Dataset) -> tuple[list[Record], list[Finding]]:
    """Writes beside the records what follows from them: the verdicts, and the best runs' predictions on test.

    Args:
        kept: Folder of the records.
        dataset: Of their runs.

    Returns:
        All records, and the verdicts on the claims.

    Raises:
        ValueError: If there is no record, or one is at fault or of other data.
        OSError: If something cannot be written.
    """
    found = records.load(kept)
    judged = findings.findings(found, dataset)
    findings.save(judged, kept / "findings.json")
    write_best_predictions(found, dataset, kept / PREDICTIONS)
    return found, judged
