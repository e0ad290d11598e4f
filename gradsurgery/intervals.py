"""Intervals of means and of shares, for the diagnosis and the figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; nan where the samples do not tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_of(values: Sequence[float], level: float) -> Interval:
    """Returns a mean with its t interval; the ends are nan of fewer than two values, or not finite ones."""
    n = len(values)
    mean = fmean(values) if values else math.nan
    if n < 2 or not math.isfinite(mean):
        return Interval(mean, math.nan, math.nan)
    half = t_quantile(0.5 + level / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def rate_of(count: int, n: int, level: float) -> Interval:
    """Returns the share of ``count`` in n with Wilson's interval; nan of none."""
    if not n:
        return Interval(math.nan, math.nan, math.nan)
    z, share = NormalDist().inv_cdf(0.5 + level / 2), count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return Interval(share, min(middle - half, share), max(middle + half, share))


def t_quantile(probability: float, freedom: int) -> float:
    """Returns a quantile of Student's t (Abramowitz and Stegun, 26.7.5), within 2 % from 4 freedoms on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / math.pow(freedom, k) for k, term in enumerate(terms, start=1))
