"""Which runs may stand in one table or figure: those of the same data, weights, settings and rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .evaluate import METRICS
from .experiments import EXPERIMENTS, TASKS
from .results import DataInfo, RunResult

LABELS = {"sst": "SST", "qqp": "QQP", "sts": "STS", "overall": "overall"}
UNITS = {"sst": "accuracy", "qqp": "accuracy", "sts": "Pearson", "overall": ""}

_SHOWN = ("epochs", "iterations", "batch_size", "lr", "precision")
_NUMBERS = ("epochs", "iterations", "batch_size", "lr")
_SAID = {*_SHOWN, "weights", "layers", "packed"}
_NO_MATTER = {"seed", "device", "eval_batch_size", "train_eval_size", "probe_every", "checkpoint_every"}


@dataclass(frozen=True)
class Comparable:
    """Runs that differ in nothing but row and seed, as far as that decides a score.

    Attributes:
        runs: At least one run.
    """

    runs: tuple[RunResult, ...]

    @cached_property
    def rows(self) -> dict[str, tuple[RunResult, ...]]:
        """The runs by row, in the table's order; rows that it does not know come last."""
        found = {run.row: None for run in self.runs}
        order = [*(row for row in EXPERIMENTS if row in found), *sorted(found.keys() - EXPERIMENTS.keys())]
        return {row: tuple(run for run in self.runs if run.row == row) for row in order}

    @property
    def data(self) -> DataInfo:
        """What all runs were trained and scored on."""
        return self.runs[0].data

    @property
    def data_text(self) -> str:
        """The data in words."""
        sizes = ", ".join(f"{self.data.sizes[task]['dev']:,} {LABELS[task]}" for task in TASKS)
        return f"{self.data.name} (fingerprint {self.data.fingerprint}; dev {sizes})"

    @property
    def weights_text(self) -> str:
        """The weights in words."""
        weights, source = self.runs[0].weights, str(self.runs[0].config["weights"])
        where = "" if source == weights.name else f" ({source})"
        return f"{weights.name}{where}, {_count(weights.layers, 'encoder layer')}"

    @property
    def schedule_text(self) -> str:
        """The settings and the seeds in words."""
        config = self.runs[0].config
        longer: dict[int, list[str]] = {}
        for row, (run, *_) in self.rows.items():
            if run.epochs and run.epochs[0].iterations != config["iterations"]:
                longer.setdefault(run.epochs[0].iterations, []).append(row)
        more = "; ".join(f"{iterations:,} in {', '.join(rows)}" for iterations, rows in longer.items())
        seeds = sorted({run.seed for run in self.runs})
        parts = [
            f"{_count(config['epochs'], 'epoch')} of {_count(config['iterations'], 'iteration')}"
            + (f" ({more})" if more else ""),
            f"batch {config['batch_size']} a task",
            f"lr {config['lr']:g}",
            str(config["precision"]),
            *(["packed"] if config.get("packed") else []),
            *(f"{name} {config[name]}" for name in sorted(config.keys() - _SAID - _NO_MATTER)),
            f"seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}",
        ]
        return ", ".join(parts)


def comparable(results: Iterable[RunResult]) -> list[Comparable]:
    """Splits runs by their data, weights, settings and rows, in the order in which these first appear.

    Runs from before a result had its weights' fingerprint and its row's definition go with any of them.

    Raises:
        ValueError: If a run lacks a setting, a size or a score that its description needs.
    """
    found: dict[tuple[object, ...], list[list[RunResult]]] = {}
    for run in results:
        _check(run)
        # Not the layers asked for, which may be None for all: the weights' description has their number.
        decisive = sorted(run.config.keys() - _NO_MATTER - {"layers"})
        settings = [(name, repr(run.config[name])) for name in decisive if name != "packed"]
        settings.append(("packed", repr(run.config.get("packed", False))))
        groups = found.setdefault((run.data.fingerprint, run.weights.name, run.weights.layers, *settings), [])
        group = next((group for group in groups if all(_go_together(run, other) for other in group)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return [Comparable(tuple(runs)) for groups in found.values() for runs in groups]


def _go_together(run: RunResult, other: RunResult) -> bool:
    """Returns whether two runs are of the same weights and, if of one row, of the same definition of it."""
    pairs: list[tuple[object, object]] = [(run.weights.fingerprint, other.weights.fingerprint)]
    if run.row == other.row:
        pairs.append((run.definition, other.definition))
        if [epoch.iterations for epoch in run.epochs] != [epoch.iterations for epoch in other.epochs]:
            return False
    return all(one == another or not one or not another for one, another in pairs)


def repeated_seeds(runs: Sequence[RunResult]) -> list[int]:
    """Returns the seeds that several of these runs share."""
    seeds = [run.seed for run in runs]
    return sorted({seed for seed in seeds if seeds.count(seed) > 1})


def _check(run: RunResult) -> None:
    """Raises a ValueError if a run that was read from a file lacks what every real one has."""
    lacks = [f"config[{name!r}]" for name in (*_SHOWN, "weights") if name not in run.config]
    lacks += [f"a number in config[{n!r}]" for n in _NUMBERS if type(run.config.get(n)) not in (int, float)]
    lacks += [f"data.sizes[{task!r}]['dev']" for task in TASKS if "dev" not in run.data.sizes.get(task, {})]
    lacks += [f"data.constant[{metric!r}]" for metric in METRICS if metric not in run.data.constant]
    for epoch in run.epochs:
        for name, scores in {"dev": epoch.dev, "train": epoch.train or epoch.dev}.items():
            lacks += [
                f"epochs[{epoch.epoch}].{name}[{metric!r}]" for metric in METRICS if metric not in scores
            ]
    if not lacks and len(run.epochs) != _expected_epochs(run):
        lacks.append(f"epochs ({len(run.epochs)} instead of {_expected_epochs(run)})")
    if lacks:
        raise ValueError(f"the result of {run.row}, seed {run.seed}, lacks {lacks[0]}; train the row again")


def _expected_epochs(run: RunResult) -> int:
    trained = EXPERIMENTS[run.row].update != "none" if run.row in EXPERIMENTS else bool(run.epochs)
    return int(run.config["epochs"]) if trained else 0


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
