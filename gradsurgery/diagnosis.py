"""Is there a conflict worth surgery? An answer with intervals, from gradients on independent batches.

The cosine of two gradients on small batches is near 0 whatever the tasks are, for the noise of the batches is
in its denominator. Two batches a task tell noise and signal apart: with independent batches 1 and 2, the
products ``g_a·g_b`` and ``g_a1·g_a2`` have the expected gradients' ``μ_a·μ_b`` and ``‖μ_a‖²`` for their
means, and so ``μ_a·μ_b / (‖μ_a‖ ‖μ_b‖)`` can be estimated.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

import torch
from torch import Tensor

from . import ddp, sharding
from .conflicts import table
from .gradients import TaskGradients
from .intervals import Interval, mean_of, rate_of, t_quantile
from .projection import pcgrad_weights, random_order
from .tasks import differentiate, gradients_set_aside, is_finite

Matrix = list[list[float]]


@dataclass(frozen=True)
class PairDiagnosis:
    """Two tasks at the present parameters.

    Attributes:
        cosine: Of the expected gradients, without the batches' noise; the intervals hold together.
        batch_cosine: Mean cosine of the gradients on one batch each, which is what surgery sees; of the
            samples in which neither gradient is zero.
        conflict_rate: Share of those samples in which that cosine is negative.
        null: The same share for one task with itself on two batches, the mean of both tasks.
    """

    cosine: Interval
    batch_cosine: Interval
    conflict_rate: Interval
    null: float


@dataclass(frozen=True)
class Diagnosis:
    """Whether tasks conflict enough for surgery. ``print(diagnosis)`` shows it.

    Attributes:
        pairs: By pair of tasks.
        change: How far PCGrad moves the update, ``‖surgery - sum‖ / ‖sum‖``, mean over the samples; that much
            even where the conflict is batch noise alone. Infinite if in one of them surgery moves a sum that
            is 0, or as good as 0 beside the gradients.
        conflict: True if the expected gradients of a pair conflict by more than ``tolerance``, False if no
            pair's do, None if the samples do not tell.
        verdict: The answer in one line.
    """

    pairs: Mapping[tuple[str, str], PairDiagnosis]
    change: Interval
    conflict: bool | None
    verdict: str

    def __str__(self) -> str:
        lines = [["tasks", "expected cosine", "batch cosine", "conflict rate", "null"]]
        lines += [
            [", ".join(tasks), str(p.cosine), str(p.batch_cosine), str(p.conflict_rate), f"{p.null:.2f}"]
            for tasks, p in self.pairs.items()
        ]
        return f"{self.verdict}\n{table(lines)}"


def diagnose(
    losses: Mapping[str, Callable[[], Tensor]],
    parameters: Iterable[Tensor],
    *,
    samples: int = 30,
    tolerance: float = 0.1,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Asks whether the tasks conflict at the present parameters; trains nothing and leaves ``.grad`` alone.

    A module that changes in its forward, such as a batch norm's running mean, changes as in training.

    It takes 2T forwards and backwards a sample, and memory for 2T gradients. Means have t intervals over the
    samples, the expected cosine one by the jackknife, and rates Wilson's. With several ranks each looks at
    its own batches.

    Args:
        losses: By task, a callable that returns the loss, one number, on a FRESH random batch at each call.
            Random numbers that they draw, as for dropout, are drawn as in training. A task whose two
            batches always have the same gradient is named in the verdict, for nothing is known of others.
        parameters: Those to look at; only what two tasks or more reach enters.
        samples: Number of samples, two batches a task each; at least 5.
        tolerance: A cosine above its negative is not worth surgery.
        level: The intervals' level.
        generator: Source of PCGrad's order, as in :class:`GradientSurgery`.

    Raises:
        TypeError: If ``losses`` is no mapping to callables.
        ValueError: If there are fewer than two tasks or five samples, ``tolerance`` or ``level`` is not
            between 0 and 1, no parameter requires a gradient or one belongs to ``fully_shard``, a loss is not
            one finite number with a graph, or no two tasks reach a parameter.
    """
    if not isinstance(losses, Mapping) or not all(callable(loss) for loss in losses.values()):
        raise TypeError(
            f"losses must map names to callables, got {losses!r}: each call must draw a fresh batch, so pass"
            " {'a': lambda: loss(next(batches))}"
        )
    if len(losses) < 2:
        raise ValueError(f"losses must hold at least two tasks, got {len(losses)}: one has no conflict")
    if samples < 5:
        raise ValueError(f"samples must be at least 5, got {samples}: fewer give no interval")
    for name, value in (("tolerance", tolerance), ("level", level)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}: take the default")
    members = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    if not members:
        raise ValueError(
            "parameters must hold one that requires a gradient, got none: pass list(module.parameters()), for"
            " an iterator is used up at its first use"
        )
    sharding.refuse_fully_sharded(members)
    tasks = tuple(losses)
    gramians = [_sample(losses, members) for _ in range(samples)]
    generator = torch.Generator() if generator is None else generator
    change = mean_of([_change(gramian[: len(tasks), : len(tasks)], generator) for gramian in gramians], level)
    products = [gramian.tolist() for gramian in gramians]
    found = list(combinations(range(len(tasks)), 2))
    pairs = {
        (tasks[a], tasks[b]): _pair(products, a, b, tasks=len(tasks), pairs=len(found), level=level)
        for a, b in found
    }
    conflict, verdict = _verdict(pairs, change, tolerance=tolerance, samples=samples)
    still = [
        task for k, task in enumerate(tasks) if all(_is_one_batch(G, k, k + len(tasks)) for G in products)
    ]
    if still:
        verdict += (
            f"; {' and '.join(still)} had one gradient at every call: of other batches nothing is known"
        )
    return Diagnosis(pairs, change, conflict, verdict)


def _sample(losses: Mapping[str, Callable[[], Tensor]], parameters: Sequence[Tensor]) -> Tensor:
    """Returns the Gramian ``(2T, 2T)`` of all tasks on a first batch and, below, on a second."""
    gradients = TaskGradients()
    with torch.enable_grad(), gradients_set_aside(parameters), ddp.unsynchronized():
        for batch in range(2):
            for name, loss in losses.items():
                # Without hooks, which is without accumulation: not every leaf is in the parameters.
                differentiate(name, _evaluated(name, loss), parameters, finite=is_finite, hooks=False)
                gradients.take(f"{batch}{name}", parameters)
    rows = list(gradients.rows.values())
    both = list(zip(rows[: len(losses)], rows[len(losses) :], strict=True))
    shared = [p for p in parameters if sum(p in first or p in second for first, second in both) > 1]
    if not shared:
        raise ValueError(
            f"parameters must hold one that two tasks reach, got {len(parameters)} without: pass the shared"
            " encoder's parameters"
        )
    return gradients.gramian(shared).cpu()


def _evaluated(name: str, loss: Callable[[], Tensor]) -> Tensor:
    value = loss()
    if not isinstance(value, Tensor):
        raise ValueError(
            f"the callable of task {name!r} must return its loss, got {type(value).__name__}: leave the"
            " backward to diagnose()"
        )
    return value


def _change(gramian: Tensor, generator: torch.Generator) -> float:
    """Returns how far PCGrad moves the sum of the gradients, relative to its length."""
    moved = pcgrad_weights(gramian, random_order(len(gramian), generator)) - 1
    distance, length = (max(float(w @ gramian @ w), 0.0) for w in (moved, torch.ones_like(moved)))
    if not distance:
        return 0.0
    lost = 1e-6 * float(gramian.diagonal().sum())  # products of float32 rows are no more exact
    return math.sqrt(distance / length) if length > lost else math.inf


def _pair(
    products: Sequence[Matrix], a: int, b: int, *, tasks: int, pairs: int, level: float
) -> PairDiagnosis:
    first, second = (a, b), (tasks + a, tasks + b)
    across = [fmean(G[i][j] for i in (a, second[0]) for j in (b, second[1])) for G in products]
    own = [[G[i][j] for G in products] for i, j in zip(first, second, strict=True)]
    batch = _cosines(products, a, b)
    null = [_cosines(products, i, j) for i, j in zip(first, second, strict=True)]
    shares = [sum(c < 0 for c in found) / len(found) for found in null if found]
    return PairDiagnosis(
        cosine=_expected_cosine(across, own[0], own[1], 1 - (1 - level) / pairs),
        batch_cosine=mean_of(batch, level),
        conflict_rate=rate_of(sum(c < 0 for c in batch), len(batch), level),
        null=fmean(shares) if shares else math.nan,
    )


def _is_one_batch(gramian: Matrix, i: int, j: int) -> bool:
    return gramian[i][i] == gramian[i][j] == gramian[j][j]


def _cosines(gramians: Sequence[Matrix], i: int, j: int) -> list[float]:
    """Returns the cosines of two gradients where they exist: a gradient that is zero has none."""
    lengths = [(G, math.sqrt(G[i][i]) * math.sqrt(G[j][j])) for G in gramians]
    return [G[i][j] / length for G, length in lengths if length > 0]


def _expected_cosine(
    across: Sequence[float], own_a: Sequence[float], own_b: Sequence[float], level: float
) -> Interval:
    """Returns the cosine of the expected gradients, with a jackknife interval.

    It is unknown where a task's squared length is not clearly above 0: noise is all that the batches show.
    """
    unknown = Interval(math.nan, math.nan, math.nan)
    if min(mean_of(own_a, level).low, mean_of(own_b, level).low) <= 0:
        return unknown
    n = len(across)
    sums = [sum(across), sum(own_a), sum(own_b)]

    def cosine(product: float, square_a: float, square_b: float) -> float:
        return product / math.sqrt(square_a * square_b) if min(square_a, square_b) > 0 else math.nan

    value = cosine(*sums)
    without = [
        cosine(*(total - x for total, x in zip(sums, xs, strict=True)))
        for xs in zip(across, own_a, own_b, strict=True)
    ]
    if any(map(math.isnan, without)):
        return unknown
    half = t_quantile(0.5 + level / 2, n - 1) * stdev(without) * (n - 1) / math.sqrt(n)
    return Interval(*(max(-1.0, min(1.0, end)) for end in (value, value - half, value + half)))


def _verdict(
    pairs: Mapping[tuple[str, str], PairDiagnosis], change: Interval, *, tolerance: float, samples: int
) -> tuple[bool | None, str]:
    moved = f"PCGrad moves the update by {change.value:.0%} of its length"
    if math.isinf(change.value):
        moved = "how far PCGrad moves the update cannot be told, for in a sample the gradients add up to 0"
    lows = {tasks: pair.cosine.low for tasks, pair in pairs.items()}
    (first, second), worst = min(pairs.items(), key=lambda item: _known_or_highest(item[1].cosine.high))
    if worst.cosine.high < -tolerance:
        return True, f"yes: {first} and {second} conflict, expected cosine {worst.cosine}; {moved}"
    if all(low > -tolerance for low in lows.values()):
        (first, second), least = min(pairs.items(), key=lambda item: item[1].cosine.low)
        if math.isfinite(change.value):
            tolerated = "" if least.cosine.low >= 0 else " or a conflict that is tolerated"
            moved += f", which is batch noise{tolerated}"
        return False, (
            f"no: no pair's expected cosine is below -{tolerance:g}, the least is {first} and {second}'s,"
            f" {least.cosine}; {moved}"
        )
    unsure = [", ".join(tasks) for tasks, low in lows.items() if not low > -tolerance]
    return None, (
        f"not to be told from {samples} samples: the expected cosine of {' and of '.join(unsure)} may lie"
        f" on either side of -{tolerance:g}; take more samples or larger batches"
    )


def _known_or_highest(high: float) -> float:
    """Returns an interval's end; an unknown one must not be taken for a conflict."""
    return math.inf if math.isnan(high) else high
