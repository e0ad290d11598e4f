"""What the runs say of each claim: a paired difference, its interval over examples and seeds, a verdict."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import Dataset
from .evaluate import Predictions, resampled_scores
from .files import write_atomically
from .intervals import half_width
from .protocol import CLAIMS, SEEDS, Claim
from .records import Record, by_row, common_seeds
from .typed_json import from_plain, to_plain

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "cannot be told at this size"
UNFINISHED = "not yet run with all seeds"


@dataclass(frozen=True)
class Difference:
    """How much higher one row scores than another.

    Attributes:
        value: The mean over seeds of the paired difference.
        low: The lower end of its 95 % interval, over examples and seeds; -inf of a single seed.
        high: The upper end.
        seeds: Of how many seeds it is.
    """

    value: float
    low: float
    high: float
    seeds: int

    def interval(self) -> str:
        """Returns the interval in words."""
        return f"{self.low:+.3f} to {self.high:+.3f}" if math.isfinite(self.low) else "none of one seed"


def difference(pairs: Sequence[tuple[Predictions, Predictions]], metric: str) -> Difference:
    """Returns how much higher the first of each pair scores than the second, each pair being of one seed.

    Two errors add up. That of the examples is the standard deviation of the mean difference over resampled
    dev sets, the same ones for all seeds and both rows: what is common to both cancels. That of the seeds is
    the standard deviation of the differences over seeds, by the root of their number.

    Args:
        pairs: By seed, the predictions of both rows for the same examples, with labels.
        metric: What is compared.

    Raises:
        ValueError: If there is no pair, or the predictions have no labels.
    """
    if not pairs:
        raise ValueError("pairs must hold the predictions of one seed at least, got none")
    values, resampled = resampled_scores([predictions for pair in pairs for predictions in pair])
    each = np.subtract(values[metric][::2], values[metric][1::2])  # (seeds,)
    means = np.mean(
        [a - b for a, b in zip(resampled[metric][::2], resampled[metric][1::2], strict=True)], axis=0
    )
    value, count = float(each.mean()), len(pairs)
    if count == 1:
        return Difference(value, -math.inf, math.inf, count)
    of_examples, of_seeds = float(means.var(ddof=1)), float(each.var(ddof=1)) / count
    half = half_width(of_examples=of_examples, of_seeds=of_seeds, seeds=count)
    return Difference(value, value - half, value + half, count)


@dataclass(frozen=True)
class Finding:
    """What the runs say of a claim.

    Attributes:
        claim: The claim.
        difference: Between its two rows.
        verdict: Confirmed where the whole interval is on the claimed side of 0, refuted where it is on the
            other, and otherwise undecided; unfinished before both rows have run with all seeds.
    """

    claim: Claim
    difference: Difference
    verdict: str


def verdict(found: Difference, *, sign: int) -> str:
    """Returns whether a claim about a difference holds.

    Args:
        found: The difference.
        sign: 1 where it is claimed to be above 0, -1 where below.
    """
    low, high = sorted((sign * found.low, sign * found.high))
    return CONFIRMED if low > 0 else REFUTED if high < 0 else UNDECIDED


def judge(claim: Claim, found: Difference, *, finished: bool) -> Finding:
    """Returns the verdict on a claim, if the protocol's seeds have all been run."""
    return Finding(claim, found, verdict(found, sign=claim.sign) if finished else UNFINISHED)


def of_protocol(seeds: Iterable[int]) -> list[int]:
    """Returns those of the seeds that are the protocol's, or all where none is; ascending."""
    found = sorted(set(seeds))
    return [seed for seed in found if seed in SEEDS] or found


def findings(records: Iterable[Record], dataset: Dataset, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Judges every claim whose two rows have a seed in common.

    Verdicts are of the protocol's seeds, whatever others have been run: seeds that are added until a claim is
    decided decide nothing. Other seeds show a difference where there is none of these.

    Args:
        records: Of all rows and seeds.
        dataset: The data that they were scored on.
        claims: What is claimed.

    Raises:
        ValueError: If a record is of other data or at fault.
    """
    rows = by_row(records)
    found = []
    for claim in claims:
        row, reference = rows.get(claim.row, {}), rows.get(claim.reference, {})
        seeds = of_protocol(common_seeds(row, reference))
        if seeds:
            pairs = [
                (row[seed].predictions("dev", dataset), reference[seed].predictions("dev", dataset))
                for seed in seeds
            ]
            found.append(judge(claim, difference(pairs, claim.metric), finished=seeds == list(SEEDS)))
    return found


def markdown(found: Sequence[Finding]) -> str:
    """Returns the findings as a table, the paper's claims first."""
    lines = [
        "| claim | difference in | value | 95 % interval | seeds | verdict |",
        "| :-- | :-- | --: | :-: | --: | :-- |",
    ]
    for finding in sorted(found, key=lambda finding: not finding.claim.in_paper):
        claim, measured = finding.claim, finding.difference
        compared = f"{claim.metric}: {claim.row} − {claim.reference}"
        whose = "" if claim.in_paper else " (ours)"
        lines.append(
            f"| {claim.text}{whose} | {compared} | {measured.value:+.3f} | {measured.interval()} "
            f"| {measured.seeds} | {finding.verdict} |"
        )
    return "\n".join(lines)


def load(path: Path) -> list[Finding]:
    """Reads what :func:`save` wrote.

    Raises:
        ValueError: If the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); write it with `minbert findings`") from error
    return list(from_plain(content, tuple[Finding, ...], place=str(path)))


def save(found: Sequence[Finding], path: Path) -> None:
    """Writes the findings as JSON."""
    write_atomically(path, json.dumps(to_plain(list(found)), indent=1, allow_nan=False) + "\n")
