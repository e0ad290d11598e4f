"""What a run leaves behind, ``result.json``, and summaries of many; epochs and iterations count from 0."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .data import SPLITS, Dataset
from .evaluate import METRICS, Scores, constant_scores
from .experiments import TASKS
from .files import write_atomically
from .typed_json import from_plain, to_plain

FORMAT = "minbert-multitask result"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """The data of a run.

    Attributes:
        name: ``"demo"``, ``"hub"``, or the base name of the data's folder.
        fingerprint: A hash of the contents.
        sizes: Number of examples by task and split.
        constant: What the best constant prediction scores on dev, by metric.
    """

    name: str
    fingerprint: str
    sizes: dict[str, dict[str, int]]
    constant: dict[str, float]

    @classmethod
    def of(cls, name: str, dataset: Dataset) -> "DataInfo":
        """Describes a dataset with all splits."""
        return cls(
            name=name,
            fingerprint=dataset.fingerprint,
            sizes={task: {split: len(dataset[task, split]) for split in SPLITS} for task in TASKS},
            constant=constant_scores(
                {task: [e.label for e in dataset[task, "dev"] if e.label is not None] for task in TASKS}
            ),
        )


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """The pretrained weights of a run.

    Attributes:
        name: Their name.
        layers: How many encoder layers were kept.
        fingerprint: A hash of their files; "" in results from before it was taken.
    """

    name: str
    layers: int
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a run.

    Attributes:
        epoch: Its number.
        iterations: How many it has.
        train_loss: Mean training loss by task.
        dev: Scores on dev at its end, by metric.
        train: Scores on a part of train, by metric, where they were taken.
        seconds: Time since the run's start, interruptions left out.
    """

    epoch: int
    iterations: int
    train_loss: dict[str, float]
    dev: dict[str, float]
    train: dict[str, float] | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ConflictSample:
    """Cosines between gradients of the shared parameters at one iteration.

    Attributes:
        epoch: The epoch.
        iteration: The iteration within the epoch.
        cosines: Between two tasks, by ``"sst-qqp"`` and so on.
        null: Between two batches of one task, by task.
    """

    epoch: int
    iteration: int
    cosines: dict[str, float]
    null: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Everything about one run that a table or a figure needs.

    Attributes:
        row: The experiment's name.
        seed: The run's seed.
        data: What it was trained and scored on.
        weights: What it started from.
        config: The settings by name, as ``settings.Settings`` holds them.
        versions: Of python, torch, numpy, gradsurgery and smartreg, and the device's name.
        epochs: The history; empty for a row that trains nothing.
        best_epoch: The epoch that the scores are of; None for a row that trains nothing.
        dev: Its scores on dev, with intervals.
        conflicts: Sampled cosines between gradients.
        seconds: Training and scoring, interruptions left out.
        peak_memory_bytes: Of the GPU where there is one, of the process otherwise.
        smart_epsilons: SMART's ε by task, where the row calibrates it.
        definition: What the row was, as ``Experiment.definition`` says it; empty in results from before it
            was kept.
    """

    row: str
    seed: int
    data: DataInfo
    weights: WeightsInfo
    config: dict[str, Any]
    versions: dict[str, str]
    epochs: tuple[Epoch, ...]
    best_epoch: int | None
    dev: Scores
    conflicts: tuple[ConflictSample, ...]
    seconds: float
    peak_memory_bytes: int
    smart_epsilons: dict[str, float] = field(default_factory=dict)
    definition: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes the result as JSON; a loss or cosine that is not finite becomes null.

        Raises:
            OSError: If the disk is full or read-only.
        """
        write_atomically(Path(path), _json([self]))

    @classmethod
    def load(cls, path: str | Path) -> "RunResult":
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: If the file is truncated or holds something else.
            OSError: If it cannot be read.
        """
        runs = _load(Path(path))
        if len(runs) != 1:
            raise ValueError(f"{path} must hold one run, got {len(runs)}; read a summary with collect()")
        return runs[0]


@dataclass(frozen=True)
class CosineSummary:
    """Cosines in short.

    Attributes:
        count: How many there are.
        mean: Their mean.
        standard_error: Of the mean; NaN of fewer than two.
        below_zero: The share of conflicts.
    """

    count: int
    mean: float
    standard_error: float
    below_zero: float

    @classmethod
    def of(cls, cosines: Iterable[float]) -> "CosineSummary":
        """Summarizes cosines; those that are not finite are left out."""
        values = np.array([cosine for cosine in cosines if math.isfinite(cosine)])
        if not len(values):
            return cls(0, math.nan, math.nan, math.nan)
        error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan
        return cls(len(values), float(values.mean()), error, float((values < 0).mean()))


def collect(path: str | Path) -> list[RunResult]:
    """Reads every ``result.json`` below a folder, in the order of their paths, or the runs of one file.

    Raises:
        ValueError: If there is none, or if one is truncated or holds something else.
        OSError: If one cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return list(_load(path))
    found = sorted(path.rglob("result.json"))
    if not found:
        raise ValueError(f"{path} holds no finished run (no result.json); train a row into it first")
    return [RunResult.load(file) for file in found]


def write_summary(results: Sequence[RunResult], folder: str | Path) -> list[Path]:
    """Writes ``results.json``, the runs as they are, and ``results.csv``, a line a run.

    Returns:
        The paths of both.

    Raises:
        OSError: If the disk is full or read-only.
    """
    table = io.StringIO(newline="")
    lines = [_flat(result) for result in results]
    writer = csv.DictWriter(
        table, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    contents = {
        "results.json": _json(results),
        "results.csv": table.getvalue(),
    }
    for name, content in contents.items():
        write_atomically(Path(folder) / name, content)
    return [Path(folder) / name for name in contents]


def _flat(result: RunResult) -> dict[str, object]:
    """Returns a run as a line of the CSV."""
    line: dict[str, object] = {
        "row": result.row,
        "seed": result.seed,
        "data": result.data.name,
        "data_fingerprint": result.data.fingerprint,
        "weights": result.weights.name,
        "layers": result.weights.layers,
        "iterations": sum(epoch.iterations for epoch in result.epochs),
        "best_epoch": result.best_epoch,
        "seconds": round(result.seconds, 1),
        "peak_memory_bytes": result.peak_memory_bytes,
    }
    for metric in METRICS:
        score = result.dev[metric]
        line |= {metric: score.value, f"{metric}_low": score.low, f"{metric}_high": score.high}
        line[f"{metric}_constant_prediction"] = score.flagged
    return line


def _json(runs: Sequence[RunResult]) -> str:
    content = {"format": FORMAT, "version": VERSION, "runs": to_plain(runs)}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _load(path: Path) -> tuple[RunResult, ...]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # broken JSON, not UTF-8, or brackets without end
        remedy = "train the row again" if path.name == "result.json" else "give a folder of runs"
        raise ValueError(f"{path} is truncated or no JSON ({error}); {remedy}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is no result of this program; give a folder of runs")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {content.get('version')!r}, but this program reads {VERSION}; train again"
        )
    try:
        runs: tuple[RunResult, ...] = from_plain(content.get("runs"), tuple[RunResult, ...], place="runs")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; train the row again") from error
    return runs
