"""The whole reproduction, from one command that goes on wherever it was stopped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import findings, records
from .best_runs import write_best_predictions
from .comparable import comparable
from .data import Dataset
from .experiments import EXPERIMENTS, Experiment
from .findings import Finding
from .inputs import DataSource, Inputs
from .parallel import run_all
from .protocol import SEEDS, SETTINGS
from .records import Record
from .results import RunResult
from .run_folder import PREDICTIONS, RESULT, Job
from .settings import Settings
from .train import epoch_iterations


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
        ValueError: If the data, a record or a checkpoint is at fault, or a record is of other data, weights
            or settings than these, or of a row that was another then.
        OSError: If something cannot be written, or a process was killed.
    """
    if runs.resolve() == kept.resolve():
        raise ValueError(f"records must have a folder of their own, got {kept} for the runs too")
    inputs = Inputs.load(source, settings.weights)
    _check_kept(kept, settings, inputs)
    jobs = [
        Job(
            experiment=row,
            settings=replace(settings, seed=seed),
            source=source,
            folder=runs / f"{row.name}-{seed}",
            resume=True,
            keep_model=False,
        )
        for seed in dict.fromkeys(seeds)
        for row in rows
        if not Record.is_whole(kept / f"{row.name}-{seed}")
    ]

    def keep(job: Job, _: RunResult) -> None:
        Record.keep(job.folder, kept / job.folder.name, inputs.dataset)

    run_all(jobs, inputs, processes=processes, in_order=True, ended=keep)
    return conclude(kept, inputs.dataset)


def _check_kept(kept: Path, settings: Settings, inputs: Inputs) -> None:
    """Refuses records that were not made as the runs to come will be; else hours go by before it shows."""
    for path in sorted(kept.glob(f"*/{RESULT}")):
        result = RunResult.load(path)
        had = {"data": result.data.fingerprint, **result.config}
        asked = {"data": inputs.dataset.fingerprint, **replace(settings, seed=result.seed).what_decides()}
        if result.weights.fingerprint:
            had["weights' fingerprint"] = result.weights.fingerprint
            asked["weights' fingerprint"] = inputs.weights_fingerprint
        if row := EXPERIMENTS.get(result.row):
            for name, (former, now) in row.changed(result.definition).items():
                had[f"row's {name}"], asked[f"row's {name}"] = former, now
            had["iterations in an epoch"] = result.epochs[0].iterations if result.epochs else 0
            asked["iterations in an epoch"] = epoch_iterations(row, settings)
        for name, value in asked.items():
            if had.get(name) != value:
                raise ValueError(
                    f"{path.parent} is a record with {name} {had.get(name)}, got {value}; choose another"
                    " --records"
                )


def conclude(kept: Path, dataset: Dataset) -> tuple[list[Record], list[Finding]]:
    """Writes beside the records what follows from them: the verdicts, and the best runs' predictions on test.

    Args:
        kept: Folder of the records.
        dataset: Of their runs.

    Returns:
        All records, and the verdicts on the claims.

    Raises:
        ValueError: If there is no record, one is at fault, or they are not all of this data, one schedule,
            the same weights and one definition of each row.
        OSError: If something cannot be written.
    """
    found = records.load(kept)
    groups = comparable([record.result for record in found])
    if groups[1:]:
        odd = groups[1].runs[0]
        raise ValueError(
            f"{kept} must hold records of one data set, schedule, weights and definition of each row, got"
            f" others in {odd.row}-{odd.seed}; move them to a folder of their own"
        )
    judged = findings.findings(found, dataset)
    findings.save(judged, kept / "findings.json")
    write_best_predictions(found, dataset, kept / PREDICTIONS)
    return found, judged
