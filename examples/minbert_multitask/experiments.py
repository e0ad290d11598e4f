"""The rows of the table: one declaration each. A new row is one more entry of ``EXPERIMENTS``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

TASKS = ("sst", "qqp", "sts")
"""Sentiment (SST-5), paraphrase (QQP) and similarity (STS-B), in the order of the baseline's updates."""

Method = Literal["pcgrad", "cagrad", "upgrad", "mgda", "nash-mtl", "aligned-mtl", "imtl-g", "config"]
Update = Literal["none", "separate", "sum", "uncertainty", "dwa", "gse", "gse-reuse"] | Method
SimilarityHeadName = Literal[
    "linear", "cosine-embedding", "cosine-d", "cosine-2d+1", "cosine-scaled", "agreement", "joint"
]
ParaphraseHeadName = Literal["linear", "agreement", "joint"]
Pooling = Literal["cls", "mean", "max"]
SmartPreset = Literal["paper", "smart-pytorch"]
Group = Literal["paper", "beside", "beyond"]
"""The paper's thirteen rows; those that every table shows beside them; further rows of the reproduction."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What one row of the table trains.

    Attributes:
        name: The row's name, as on the command line.
        what: One line that says what is special about it.
        update: How an iteration's three task losses become updates of the parameters: ``"separate"`` one
            update a task, ``"sum"`` one with the summed loss, ``"uncertainty"`` and ``"dwa"`` the same of
            balanced losses, a method of gradsurgery one with the gradients that it combines, ``"gse"`` and
            ``"gse-reuse"`` two (``gradsurgery.GSE``), ``"none"`` leaves the pretrained weights.
        similarity: The similarity head, a key of ``heads.SIMILARITY_HEADS``.
        paraphrase: The paraphrase head, a key of ``heads.PARAPHRASE_HEADS``.
        pooling: The sentence embedding: ``[CLS]``'s last hidden state, or the mean or the largest of each
            feature over real positions.
        smart: The preset of ``smartreg.SMART`` whose penalty is added to every task's loss, if any.
        smart_weight: λ, the weight of that penalty.
        smart_calibrated: Whether ε is not the published one but calibrated on the first training batches, so
            that the penalty's gradient is a tenth of the task's; both forwards then share dropout masks.
        bregman_weight: μ, the weight of the Bregman proximal point's penalty; 0 for none.
        masked_lm: Whether the encoder first learns, as long, to guess hidden tokens of the train sentences.
        epoch_multiple: An epoch has this many times the schedule's iterations.
        lr_decay: Whether the learning rate falls to 0 in a straight line, instead of being constant.
        group: The rows that it belongs to.
    """

    name: str
    what: str
    update: Update
    similarity: SimilarityHeadName = "linear"
    paraphrase: ParaphraseHeadName = "linear"
    pooling: Pooling = "cls"
    smart: SmartPreset | None = None
    smart_weight: float = 5.0
    smart_calibrated: bool = False
    bregman_weight: float = 0.0
    masked_lm: bool = False
    epoch_multiple: int = 1
    lr_decay: bool = False
    group: Group = "paper"

    def definition(self) -> dict[str, Any]:
        """Returns by name what decides the row's results, by which another row of its name is told."""
        return {name: value for name, value in asdict(self).items() if name not in _SAID}

    def changed(self, former: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Returns by name what the row was and is, where these differ.

        Args:
            former: An earlier :meth:`definition`; what it lacks had its default then. One that is empty was
                not kept, and tells of no change.
        """
        defaults = {field.name: field.default for field in fields(self)}
        now = self.definition()
        pairs = {name: (former.get(name, defaults.get(name)), now.get(name)) for name in {**now, **former}}
        return {name: pair for name, pair in pairs.items() if former and pair[0] != pair[1]}


_SAID = ("name", "what", "group")
"""What is only said of a row."""


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
        group="beside",
    ),
    Experiment(
        name="gse-reuse",
        what="gse; the second update from the gradients already held",
        update="gse-reuse",
        group="beside",
    ),
    Experiment(
        name="smart-library",
        what="smart as the smart-pytorch package computes it: no ball, no penalty on qqp",
        update="sum",
        smart="smart-pytorch",
        group="beside",
    ),
    Experiment(name="cagrad", what="multitask with CAGrad", update="cagrad", group="beyond"),
    Experiment(name="upgrad", what="multitask with UPGrad", update="upgrad", group="beyond"),
    Experiment(name="mgda", what="multitask with MGDA", update="mgda", group="beyond"),
    Experiment(name="nash-mtl", what="multitask with Nash-MTL", update="nash-mtl", group="beyond"),
    Experiment(name="aligned-mtl", what="multitask with Aligned-MTL", update="aligned-mtl", group="beyond"),
    Experiment(name="imtl-g", what="multitask with IMTL-G", update="imtl-g", group="beyond"),
    Experiment(name="config", what="multitask with ConFIG", update="config", group="beyond"),
    Experiment(
        name="uncertainty",
        what="multitask, each loss weighed by a learned uncertainty",
        update="uncertainty",
        group="beyond",
    ),
    Experiment(
        name="dwa",
        what="multitask, each loss weighed by how slowly it falls",
        update="dwa",
        group="beyond",
    ),
    Experiment(
        name="mean-pooling",
        what="multitask with mean pooling for all tasks",
        update="sum",
        pooling="mean",
        group="beyond",
    ),
    Experiment(
        name="max-pooling",
        what="multitask with max pooling for all tasks",
        update="sum",
        pooling="max",
        group="beyond",
    ),
    Experiment(
        name="agreement",
        what="multitask; both pair heads on [a; b; |a - b|; a b], which can express that a is like b",
        update="sum",
        similarity="agreement",
        paraphrase="agreement",
        group="beyond",
    ),
    Experiment(
        name="joint-pairs",
        what="multitask; both sentences of a pair in one input, [CLS] a [SEP] b [SEP]",
        update="sum",
        similarity="joint",
        paraphrase="joint",
        group="beyond",
    ),
    Experiment(
        name="masked-lm",
        what="multitask after as many iterations of masked language modelling on the train sentences",
        update="sum",
        masked_lm=True,
        group="beyond",
    ),
    Experiment(
        name="best",
        what="mean pooling, agreement features for qqp, a scaled cosine for sts, 12x, lr that falls to 0",
        update="sum",
        similarity="cosine-scaled",
        paraphrase="agreement",
        pooling="mean",
        epoch_multiple=12,
        lr_decay=True,
        group="beyond",
    ),
    Experiment(
        name="smart-bregman",
        what="smart with the Bregman proximal point, SMART's second half",
        update="sum",
        smart="paper",
        bregman_weight=1.0,
        group="beyond",
    ),
    Experiment(
        name="smart-gse-bregman",
        what="smart-gse with the Bregman proximal point",
        update="gse",
        smart="paper",
        bregman_weight=1.0,
        group="beyond",
    ),
    Experiment(
        name="smart-calibrated",
        what="smart, shared dropout, ε calibrated to a tenth of the task's gradient",
        update="sum",
        smart="paper",
        smart_calibrated=True,
        group="beyond",
    ),
)

EXPERIMENTS: dict[str, Experiment] = {row.name: row for row in _ROWS}
"""Every row by its name, in the table's order."""


def select(names: list[str]) -> list[Experiment]:
    """Returns the rows of these names; ``all`` and the names of groups stand for several rows.

    Args:
        names: Names of rows, ``"all"`` for every row, or a group's name, such as ``"paper"``.

    Raises:
        ValueError: If a name is no row's; the message lists the names there are.
    """
    groups = {"all": list(EXPERIMENTS)}
    groups |= {group: [row.name for row in _ROWS if row.group == group] for group in get_args(Group)}
    chosen: dict[str, Experiment] = {}
    for name in names:
        for row in groups.get(name, [name]):
            if row not in EXPERIMENTS:
                raise ValueError(f"no row is named {row!r}; choose from {', '.join([*groups, *EXPERIMENTS])}")
            chosen[row] = EXPERIMENTS[row]
    return list(chosen.values())
