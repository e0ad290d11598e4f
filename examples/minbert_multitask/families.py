"""Families of rows: which are drawn together, beside which other row, and what each looks like."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from .experiments import EXPERIMENTS, Experiment, Method
from .figure_parts import BLACK, MARKERS, PALETTE, Look

_REFERENCE = Look(BLACK, marker=".", linestyle="--")
_REFERENCES = {
    "update": "",
    "other surgery": "multitask",
    "STS head": "gse",
    "encoder and heads": "multitask",
    "SMART": "multitask",
    "longer epochs": "gse",
}
"""By title, in the order in which they are drawn, the row that a family varies; empty where there is none."""


@dataclass(frozen=True)
class Family:
    """Rows that are drawn together.

    Attributes:
        title: What they have in common.
        reference: The row that they all vary; empty where there is none, or none that has runs.
        members: Their looks by row, without the reference's.
    """

    title: str
    reference: str
    members: dict[str, Look]

    @property
    def looks(self) -> dict[str, Look]:
        """The looks by row, the reference's first where there is one."""
        return {**({self.reference: _REFERENCE} if self.reference else {}), **self.members}


def families(rows: Collection[str]) -> list[Family]:
    """Returns the families of trained rows; a row's look does not depend on which others have runs."""
    names: dict[str, list[str]] = {title: [] for title in _REFERENCES}
    for row in EXPERIMENTS.values():
        if row.update != "none":
            names[_title(row)].append(row.name)
    names["other rows"] = [row for row in rows if row not in EXPERIMENTS]
    found = []
    for title, members in names.items():
        looks = {name: _look(number) for number, name in enumerate(members) if name in rows}
        if looks:
            reference = _REFERENCES.get(title, "")
            found.append(Family(title, reference if reference in rows else "", looks))
    return found


def _look(number: int) -> Look:
    turn = number // len(PALETTE)
    return Look(PALETTE[number % len(PALETTE)], MARKERS[(number + turn) % len(MARKERS)])


def _title(row: Experiment) -> str:
    """Returns the title of a row's family."""
    if row.epoch_multiple > 1:
        return "longer epochs"
    if row.smart:
        return "SMART"
    if row.update == "sum" and row.name != "multitask":
        return "encoder and heads"
    if row.similarity != "linear" or row.pooling != "cls":
        return "STS head"
    if row.update in get_args(Method) and row.update != "pcgrad":
        return "other surgery"
    return "update"
