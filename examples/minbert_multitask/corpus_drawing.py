"""How the embedded corpus is drawn: rows, and words and sentences from lists of wordings."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple, TypeAlias, TypeVar

Meanings: TypeAlias = tuple[tuple[str, ...], ...]
"""Different meanings, each with the wordings that have it."""

_T = TypeVar("_T")


class Row(NamedTuple):
    """What a task's grammar draws: a sentence or a pair of them, and its label."""

    sentence1: str
    sentence2: str | None
    label: float


def meanings(text: str) -> Meanings:
    """Reads a list in which commas part meanings and strokes part wordings of one meaning."""
    return tuple(tuple(meaning.split("/")) for meaning in text.split(", "))


# Of `Random` only `random()` is promised to give the same numbers in every version of Python.


def pick(random: Random, options: Sequence[_T]) -> _T:
    """Draws one of the options."""
    return options[int(random.random() * len(options))]


def pick_other(random: Random, options: Sequence[_T], *taken: _T) -> _T:
    """Draws one of the options that are not taken."""
    return pick(random, [option for option in options if option not in taken])


def shuffled(random: Random, items: Sequence[_T]) -> list[_T]:
    """Returns the items in a random order."""
    return sorted(items, key=lambda _: random.random())


def draw_meaning(random: Random, slots: Mapping[str, Meanings]) -> dict[str, tuple[str, ...]]:
    """Draws a meaning for each slot, none of them twice."""
    chosen: dict[str, tuple[str, ...]] = {}
    for slot, options in slots.items():
        chosen[slot] = pick_other(random, options, *chosen.values())
    return chosen


def sentence(pattern: str, **words: str) -> str:
    """Fills a pattern and begins it with a capital."""
    text = pattern.format(**words)
    return text[0].upper() + text[1:]
