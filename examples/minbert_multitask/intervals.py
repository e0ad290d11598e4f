"""The 95 % interval of a mean over seeds: its errors are the examples' and the seeds'."""

import math
from collections.abc import Sequence
from statistics import fmean, variance

from scipy import stats

from .evaluate import Score

_QUANTILE = 0.975  # both tails of a 95 % interval


def half_width(*, of_examples: float, of_seeds: float, seeds: int) -> float:
    """Returns half the interval of a mean over seeds, whose two errors are independent.

    It is Student's t, its degrees of freedom Welch and Satterthwaite's, with the examples' taken as infinite.

    Args:
        of_examples: The mean's variance over dev sets.
        of_seeds: The mean's variance over seeds: that of the values, by their number.
        seeds: The number of seeds, at least 2.
    """
    total = of_examples + of_seeds
    freedom = (seeds - 1) * (total / of_seeds) ** 2 if of_seeds else math.inf
    return float(stats.t.ppf(_QUANTILE, freedom)) * math.sqrt(total)


def mean_score(scores: Sequence[Score]) -> Score:
    """Returns the mean of one row's scores, with an interval over examples and, where it can be, seeds.

    All seeds are scored on the same examples, whose error does not shrink with the number of seeds: it is
    the mean half width of the scores' own intervals. A single score keeps its interval, which has no error
    of the seeds.

    Args:
        scores: By seed, at least one.

    Returns:
        The score, flagged where one of them is.
    """
    if len(scores) == 1:
        return scores[0]
    values = [score.value for score in scores]
    deviation = fmean((score.high - score.low) / 2 for score in scores) / float(stats.norm.ppf(_QUANTILE))
    half = half_width(of_examples=deviation**2, of_seeds=variance(values) / len(values), seeds=len(values))
    mean = fmean(values)
    return Score(mean, mean - half, mean + half, any(score.flagged for score in scores))
