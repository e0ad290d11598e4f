"""What is kept of a run for good: small files that can be committed, from which tables and tests are made."""

import io
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import Dataset
from .evaluate import Predictions, TaskPredictions
from .experiments import TASKS
from .files import write_atomically
from .prediction_files import SPLITS, read_predictions
from .results import RunResult
from .run_folder import LOG, PREDICTIONS, REQUEST, RESULT


@dataclass(frozen=True)
class Record:
    """One run's record.

    Attributes:
        folder: ``ROW-SEED``, with the run's result, its log and its predictions on dev and test, without
            labels.
        result: The result.
    """

    folder: Path
    result: RunResult

    @classmethod
    def open(cls, folder: Path) -> "Record | None":
        """Reads the record in a folder; None where the folder holds none.

        Raises:
            ValueError: If its result is at fault.
        """
        return cls(folder, RunResult.load(folder / RESULT)) if (folder / _file("dev")).is_file() else None

    @staticmethod
    def is_whole(folder: Path) -> bool:
        """Returns whether a folder has all files of a record."""
        return all((folder / name).is_file() for name in (RESULT, *map(_file, SPLITS)))

    @classmethod
    def keep(cls, run_folder: Path, folder: Path, dataset: Dataset) -> "Record":
        """Keeps a finished run's record in a folder; its result comes last, so that it is whole or none.

        Raises:
            ValueError: If the run's files are at fault.
            OSError: If the disk is full or read-only.
        """
        for split in SPLITS:
            predicted = {
                task: found.predicted.astype(np.float32 if task == "sts" else np.int8)
                for task, found in read_predictions(run_folder / PREDICTIONS, split, dataset).items()
            }
            content = io.BytesIO()
            np.savez_compressed(content, **predicted)  # type: ignore[arg-type]
            write_atomically(folder / _file(split), content.getvalue())
        shutil.copyfile(run_folder / LOG, folder / LOG)
        result = RunResult.load(run_folder / RESULT)
        result.save(folder / RESULT)
        return cls(folder, result)

    def predictions(self, split: str, dataset: Dataset) -> Predictions:
        """Returns the run's predictions on dev or test, with the labels that the data set has.

        Raises:
            ValueError: If the record's file is at fault, or of other data.
        """
        path = self.folder / _file(split)
        if self.result.data.fingerprint != dataset.fingerprint:
            raise ValueError(
                f"{path} is of data with fingerprint {self.result.data.fingerprint}, got "
                f"{dataset.fingerprint}; give the --data of the runs"
            )
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {task: TaskPredictions.of(dataset[task, split], arrays[task]) for task in TASKS}
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and reproduce the row again") from error


def _file(split: str) -> str:
    return f"{split}.npz"


def load(folder: Path) -> list[Record]:
    """Reads all records in a folder, in the order of their names.

    Raises:
        ValueError: If there is none, or one is at fault or lacks a file.
    """
    folders = [path.parent for path in sorted(folder.glob(f"*/{RESULT}"))]
    for path in folders:
        if not Record.is_whole(path) and not (path / REQUEST).exists():  # which a run's own folder has
            raise ValueError(f"{path} lacks a file of the record; reproduce the row again")
    found = [record for path in folders if (record := Record.open(path))]
    if not found:
        raise ValueError(f"{folder} holds no record of a run; make some with `minbert reproduce`")
    return found


def by_row(records: Iterable[Record]) -> dict[str, dict[int, Record]]:
    """Returns the records by row and seed."""
    rows: dict[str, dict[int, Record]] = {}
    for record in records:
        rows.setdefault(record.result.row, {})[record.result.seed] = record
    return rows


def common_seeds(a: dict[int, Record], b: dict[int, Record]) -> Sequence[int]:
    """Returns the seeds of which both rows have a record."""
    return sorted(a.keys() & b.keys())
