"""The rows of the table: one declaration each. A new row is one more entry of ``EXPERIMENTS``."""

from dataclasses import dataclass
from typing import Literal

TASKS = ("sst", "qqp", "sts")
"""Sentiment (SST-5), paraphrase (QQP) and similarity (STS-B), in the order of the baseline's updates."""

Update = Literal["none", "separate", "sum", "pcgrad", "gse", "gse-reuse"]
SimilarityHeadName = Literal["linear", "cosine-embedding", "cosine-d", "cosine-2d+1"]
Pooling = Literal["cls", "mean"]
SmartPreset = Literal["paper", "smart-pytorch"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What one row of the table trains.

    Attributes:
        name: The row's name, as on the command line.
        what: One line that says what is special about it.
        update: How an iteration's three task losses become updates of the parameters: ``"separate"`` one
            update a task, ``"sum"`` one with the summed loss, ``"pcgrad"`` one with the projected gradients,
            ``"gse"`` and ``"gse-reuse"`` two (``gradsurgery.GSE``), ``"none"`` leaves the pretrained weights.
        similarity: The similarity head, a key of ``heads.SIMILARITY_HEADS``.
        pooling: The sentence embedding: ``[CLS]``'s last hidden state, or the mean over real positions.
        smart: The preset of ``smartreg.SMART`` whose penalty is added to every task's loss, if any.
        smart_weight: λ, the weight of that penalty.
        epoch_multiple: An epoch has this many times the schedule's iterations.
        in_paper: Whether the paper's table has the row.
    """

    name: str
    what: str
    update: Update
    similarity: SimilarityHeadName = "linear"
    pooling: Pooling = "cls"
    smart: SmartPreset | None = None
    smart_weight: float = 5.0
    epoch_multiple: int = 1
    in_paper: bool = True


_ROWS = (
    Experiment(name="baseline", what="three separate updates an iteration, one a task", update="separate"),
    Experiment(name="multitask", what="one update with the summed loss", update="sum"),
    Experiment(name="gs", what="gradient surgery: PCGrad", update="pcgrad"),
    Experiment(name="gse", what="two updates: PCGrad's mean, then the summed loss", update="gse"),
    Experiment(
        name="cosine-embedding",
        what="gse; CosineEmbeddingLoss on the two embeddings, the prediction is their cosine",
        update="gse",
        similarity="cosine-embedding",
    ),
    Experiment(
        name="cosine-d",
        what="gse; d features an embedding, 5 sigmoid(20 cos)",
        update="gse",
        similarity="cosine-d",
    ),
    Experiment(
        name="cosine-2d+1",
        what="gse; the cosine beside both embeddings",
        update="gse",
        similarity="cosine-2d+1",
    ),
    Experiment(
        name="cosine-2d+1-mean",
        what="cosine-2d+1 with mean pooling for all tasks",
        update="gse",
        similarity="cosine-2d+1",
        pooling="mean",
    ),
    Experiment(name="smart", what="multitask with SMART on every task", update="sum", smart="paper"),
    Experiment(name="smart-gse", what="gse with SMART on every task", update="gse", smart="paper"),
    Experiment(name="gse-3x", what="gse, three times the iterations", update="gse", epoch_multiple=3),
    Experiment(
        name="cosine-2d+1-3x",
        what="cosine-2d+1, three times the iterations",
        update="gse",
        similarity="cosine-2d+1",
        epoch_multiple=3,
    ),
    Experiment(
        name="smart-3x",
        what="smart, three times the iterations",
        update="sum",
        smart="paper",
        epoch_multiple=3,
    ),
    Experiment(
        name="zero-shot",
        what="the pretrained weights alone: cosines, the majority sentiment",
        update="none",
        pooling="mean",
        in_paper=False,
    ),
    Experiment(
        name="gse-reuse",
        what="gse; the second update from the gradients already held",
        update="gse-reuse",
        in_paper=False,
    ),
    Experiment(
        name="smart-library",
        what="smart as the smart-pytorch package computes it: no ball, no penalty on qqp",
        update="sum",
        smart="smart-pytorch",
        in_paper=False,
    ),
)

EXPERIMENTS: dict[str, Experiment] = {row.name: row for row in _ROWS}
"""Every row by its name, in the table's order."""


def select(names: list[str]) -> list[Experiment]:
    """Returns the rows of these names; ``all`` and ``paper`` stand for groups of rows.

    Args:
        names: Names of rows, ``"all"`` for every row, or ``"paper"`` for the paper's thirteen.

    Raises:
        ValueError: If a name is no row's; the message lists the names there are.
    """
    groups = {"all": list(EXPERIMENTS), "paper": [row.name for row in _ROWS if row.in_paper]}
    chosen: dict[str, Experiment] = {}
    for name in names:
        for row in groups.get(name, [name]):
            if row not in EXPERIMENTS:
                raise ValueError(f"no row is named {row!r}; choose from {', '.join([*groups, *EXPERIMENTS])}")
            chosen[row] = EXPERIMENTS[row]
    return list(chosen.values())
