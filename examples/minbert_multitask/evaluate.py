"""Scores of predictions, with bootstrap intervals.

Sentiment and paraphrase are scored by accuracy, similarity by Pearson's correlation; the overall score is
``(SST accuracy + QQP accuracy + (STS Pearson + 1) / 2) / 3``. N is a number of examples, S one of resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .data import Example
from .experiments import TASKS

METRICS = (*TASKS, "overall")
"""What is scored: each task, and all three together."""

Array: TypeAlias = NDArray[np.float64]

_RESAMPLES = 1000
_SEED = 11711
_CHUNK = 1 << 20  # indices drawn at a time: the course's whole QQP dev set would need 300 MB
_ROUNDING = 1e-6  # relative spread that float32 rounding alone gives to equal predictions


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval.

    Attributes:
        value: The score of all examples.
        low: The 2.5 % percentile of the resampled scores.
        high: The 97.5 % percentile.
        flagged: Whether the predictions are all the same (up to rounding) or not finite; for the overall
            score, those of any task.
    """

    value: float
    low: float
    high: float
    flagged: bool = False


@dataclass(frozen=True)
class Scores:
    """The score of each task, and the overall one."""

    sst: Score
    qqp: Score
    sts: Score
    overall: Score

    def __getitem__(self, metric: str) -> Score:
        score = getattr(self, metric)
        assert isinstance(score, Score)
        return score

    def values(self) -> dict[str, float]:
        """Returns the scores by name, without intervals."""
        return {metric: self[metric].value for metric in METRICS}


@dataclass(frozen=True, eq=False)
class TaskPredictions:
    """One task's predictions.

    Attributes:
        ids: The examples' names.
        predicted: A class or a similarity each, ``(N,)``.
        gold: The labels, ``(N,)``; None where there are none.
    """

    ids: tuple[str, ...]
    predicted: Array
    gold: Array | None

    @classmethod
    def of(cls, examples: Sequence[Example], predicted: Sequence[float] | Array) -> "TaskPredictions":
        """Returns the predictions for these examples, in their order.

        Raises:
            ValueError: If there is not one prediction an example.
        """
        values = np.asarray(predicted, dtype=np.float64)
        if values.shape != (len(examples),):
            raise ValueError(
                f"predicted must have shape ({len(examples)},), one value an example, got {values.shape}"
            )
        labels = [example.label for example in examples if example.label is not None]
        gold = np.array(labels, dtype=np.float64) if len(labels) == len(examples) else None
        return cls(tuple(example.id for example in examples), values, gold)


Predictions: TypeAlias = Mapping[str, TaskPredictions]
"""By task."""


def accuracy(predicted: Array, gold: Array) -> Array:
    """Returns the share of equal entries along the last axis, of arrays ``(..., N)``."""
    share: Array = np.mean(predicted == gold, axis=-1)
    return share


def pearson(predicted: Array, gold: Array) -> Array:
    """Returns Pearson's correlation along the last axis, of ``(..., N)``; 0 where a side does not vary."""
    x, y = _standardized(predicted), _standardized(gold)
    correlation: Array = np.clip(np.mean(x * y, axis=-1), -1.0, 1.0)
    return correlation


METRIC_OF_TASK: Mapping[str, Callable[[Array, Array], Array]] = {
    "sst": accuracy,
    "qqp": accuracy,
    "sts": pearson,
}
"""By task, what scores its predictions."""


def overall(sst: Array | float, qqp: Array | float, sts: Array | float) -> Array | float:
    """Returns the mean of the two accuracies and of the correlation moved to 0 to 1."""
    return (sst + qqp + (sts + 1) / 2) / 3


def score(predictions: Predictions, *, resamples: int = _RESAMPLES, seed: int = _SEED) -> Scores:
    """Scores predictions; intervals are percentiles over resampled examples, each task resampled on its own.

    Args:
        predictions: All three tasks' predictions, with labels.
        resamples: S, the number of resamples.
        seed: Seed of the resampling: equal seeds and equal data draw equal examples.

    Raises:
        ValueError: If a task is missing, empty or without labels, or resamples is not positive.
    """
    values, resampled = resampled_scores([predictions], resamples=resamples, seed=seed)
    constant = {task: _is_constant(predictions[task].predicted) for task in TASKS}
    constant["overall"] = any(constant.values())

    def one(metric: str) -> Score:
        low, high = np.percentile(resampled[metric][0], [2.5, 97.5])
        return Score(values[metric][0], float(low), float(high), constant[metric])

    return Scores(*(one(metric) for metric in METRICS))


def resampled_scores(
    several: Sequence[Predictions], *, resamples: int = _RESAMPLES, seed: int = _SEED
) -> tuple[dict[str, list[float]], dict[str, list[Array]]]:
    """Returns by metric the score of each of several predictions, and those of resampled examples, ``(S,)``.

    All are resampled by the same examples: most of the sampling error is common to them, so that a difference
    may be told where their own intervals overlap. The arguments are otherwise as in :func:`score`.

    Raises:
        ValueError: If they do not predict the same examples, or as :func:`score` does.
    """
    for task in TASKS:
        if len({predictions[task].ids for predictions in several if task in predictions}) > 1:
            raise ValueError(
                f"all must predict the same {task} examples in one order; read them from one data set"
            )
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    values: dict[str, list[float]] = {}
    resampled: dict[str, list[Array]] = {}
    for task in TASKS:
        metric = METRIC_OF_TASK[task]
        pairs = [_labelled(predictions, task) for predictions in several]
        values[task] = [float(metric(predicted, gold)) for predicted, gold in pairs]
        size = len(pairs[0][0])
        generator = np.random.default_rng([seed, TASKS.index(task)])
        chunks: list[list[Array]] = [[] for _ in pairs]
        rows = max(1, _CHUNK // size)
        for start in range(0, resamples, rows):
            chosen = generator.integers(0, size, (min(rows, resamples - start), size))
            for chunk, (predicted, gold) in zip(chunks, pairs, strict=True):
                chunk.append(metric(predicted[chosen], gold[chosen]))
        resampled[task] = [np.concatenate(chunk) for chunk in chunks]
    each = range(len(several))
    values["overall"] = [float(overall(*(values[task][i] for task in TASKS))) for i in each]
    resampled["overall"] = [np.asarray(overall(*(resampled[task][i] for task in TASKS))) for i in each]
    return values, resampled


def constant_scores(gold: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns what the best constant prediction scores on labels by task: the majority's share, Pearson 0."""
    shares = {
        task: float(np.unique(gold[task], return_counts=True)[1].max() / len(gold[task])) for task in TASKS
    }
    shares["sts"] = 0.0
    return {**shares, "overall": float(overall(shares["sst"], shares["qqp"], shares["sts"]))}


def _standardized(values: Array) -> Array:
    """Returns values of mean 0 and variance 1 along the last axis, or zeros where they do not vary."""
    finite = np.isfinite(values).all(axis=-1, keepdims=True)
    values = np.where(finite, values, 0.0)
    largest = np.abs(values).max(axis=-1, keepdims=True)
    values = values / np.where(largest > 0, largest, 1.0)  # so that squares neither overflow nor vanish
    varies = np.ptp(values, axis=-1, keepdims=True) > _ROUNDING
    centred = values - values.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True))
    standardized: Array = np.where(varies, centred / np.where(varies, deviation, 1.0), 0.0)
    return standardized


def _is_constant(predicted: Array) -> bool:
    return not _standardized(predicted).any()


def _labelled(predictions: Predictions, task: str) -> tuple[Array, Array]:
    if task not in predictions:
        raise ValueError(f"predictions must cover {', '.join(TASKS)}, got {', '.join(predictions) or 'none'}")
    found = predictions[task]
    if found.gold is None or not len(found.gold):
        raise ValueError(f"{task} has no labels to score against; score the dev split")
    # Standardized first, which changes no correlation, so that resamples without the one NaN are 0 too.
    return _standardized(found.predicted) if task == "sts" else found.predicted, found.gold
