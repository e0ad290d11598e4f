"""Prediction files of the handout's exact form, so that other people's scorers read them."""

from pathlib import Path

from .data import Dataset
from .evaluate import Predictions, TaskPredictions
from .experiments import TASKS
from .files import write_atomically

SPLITS = ("dev", "test")
"""What is predicted."""

# The handout's own names and headers, its misspelling included: scorers look for them.
_FILES = {"sst": "sst", "qqp": "para", "sts": "sts"}
_HEADERS = {"sst": "Predicted_Sentiment", "qqp": "Predicted_Is_Paraphrase", "sts": "Predicted_Similiary"}


def write_predictions(predictions: Predictions, split: str, folder: str | Path) -> list[Path]:
    """Writes prediction files of the handout's form, each whole or not at all, and returns their paths.

    Args:
        predictions: By task; one file each.
        split: ``"dev"`` or ``"test"``.
        folder: Where the files go.

    Raises:
        OSError: If the disk is full or read-only.
    """
    paths = []
    for task, found in predictions.items():
        values = [repr(value) if task == "sts" else str(int(value)) for value in found.predicted.tolist()]
        rows = [f"{name} , {value} \n" for name, value in zip(found.ids, values, strict=True)]
        paths.append(_prediction_file(folder, task, split))
        write_atomically(paths[-1], "".join([_header(task), *rows]))
    return paths


def remove_predictions(split: str, folder: Path) -> None:
    """Removes what :func:`write_predictions` writes into a folder, and the folder if nothing else is there.

    Raises:
        OSError: If the disk is read-only.
    """
    for task in TASKS:
        _prediction_file(folder, task, split).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def read_predictions(folder: str | Path, split: str, dataset: Dataset) -> dict[str, TaskPredictions]:
    """Reads the prediction files of all three tasks, with the labels of the data set they predict.

    Args:
        folder: The folder that holds the files.
        split: ``"dev"`` or ``"test"``.
        dataset: Whose examples are predicted; the result has their order.

    Raises:
        ValueError: If a file is missing, not of the handout's form, or predicts other examples.
    """
    predictions = {}
    for task in TASKS:
        path = _prediction_file(folder, task, split)
        found = _read(path, task)
        examples = dataset[task, split]
        missing = [example.id for example in examples if example.id not in found]
        if missing or len(found) != len(examples):
            what = (
                f"lacks {missing[0]}"
                if missing
                else f"has {len(found)} predictions for {len(examples)} examples"
            )
            raise ValueError(f"{path} {what}; predict with the data set that it is scored on")
        predictions[task] = TaskPredictions.of(examples, [found[example.id] for example in examples])
    return predictions


def _prediction_file(folder: str | Path, task: str, split: str) -> Path:
    return Path(folder) / f"{_FILES[task]}-{split}-output.csv"


def _header(task: str) -> str:
    return f"id \t {_HEADERS[task]} \n"


def _read(path: Path, task: str) -> dict[str, float]:
    try:
        with path.open(encoding="utf-8") as file:  # not splitlines(), which would cut an id at "\u2028"
            header, *rows = file
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; write it with `minbert predict`") from None
    except ValueError:  # empty, or not UTF-8
        header, rows = "", []
    if header != _header(task):
        raise ValueError(f"{path}:1: the header must be {_header(task)!r}, got {header[:60]!r}")
    found: dict[str, float] = {}
    for number, row in enumerate(rows, start=2):
        name, _, value = row.rpartition(" , ")
        try:
            if not name or name in found or not row.endswith(" \n"):
                raise ValueError(row)
            found[name] = float(value)
        except ValueError:
            raise ValueError(
                f"{path}:{number}: a row must be '<new id> , <number> \\n', got {row[:60]!r}"
            ) from None
    return found
