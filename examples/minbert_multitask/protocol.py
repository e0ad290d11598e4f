"""The reproduction's protocol: its schedule, its seeds and the claims it tests, fixed before its runs.

``PROTOCOL.md`` says the same in prose, and why; tests hold schedule, seeds and claims together.
"""

from dataclasses import dataclass

from .experiments import EXPERIMENTS, Experiment
from .settings import Settings

SETTINGS = Settings(
    epochs=3,
    iterations=100,
    lr=1e-4,
    packed=True,
    eval_batch_size=16,
    train_eval_size=200,
    probe_every=50,
    checkpoint_every=100,
)
"""The schedule of every row on CPUs; rows named -3x do three times as many iterations an epoch."""

SCHEDULES = {"cpu": SETTINGS, "paper": Settings(packed=True)}
"""By name: the protocol's, and the paper's own, for those who have a GPU."""

SEEDS = (11711, 11712, 11713)
"""A row's runs differ in these; the rows of one seed see the same batches."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, as a difference between the dev scores of two rows.

    Attributes:
        text: The claim in words.
        row: The row said to differ.
        reference: The row it is compared with.
        metric: What is compared: a task's score, or ``"overall"``.
        sign: 1 where the row is said to score higher, -1 where lower.
        in_paper: Whether the paper makes it; the others are ours.
    """

    text: str
    row: str
    reference: str
    metric: str
    sign: int
    in_paper: bool = True


CLAIMS = (
    Claim(text="multitask hurts", row="multitask", reference="baseline", metric="overall", sign=-1),
    Claim(text="GSE beats gradient surgery", row="gse", reference="gs", metric="overall", sign=1),
    Claim(
        text="cosine 2d+1 beats d features",
        row="cosine-2d+1",
        reference="cosine-d",
        metric="sts",
        sign=1,
    ),
    Claim(
        text="cosine 2d+1 beats the cosine embedding loss",
        row="cosine-2d+1",
        reference="cosine-embedding",
        metric="sts",
        sign=1,
    ),
    Claim(
        text="mean pooling hurts",
        row="cosine-2d+1-mean",
        reference="cosine-2d+1",
        metric="overall",
        sign=-1,
    ),
    Claim(text="SMART helps QQP", row="smart", reference="multitask", metric="qqp", sign=1),
    Claim(text="SMART helps STS", row="smart", reference="multitask", metric="sts", sign=1),
    Claim(text="SMART harms SST", row="smart", reference="multitask", metric="sst", sign=-1),
    Claim(text="3x helps GSE", row="gse-3x", reference="gse", metric="overall", sign=1),
    Claim(
        text="3x helps cosine 2d+1",
        row="cosine-2d+1-3x",
        reference="cosine-2d+1",
        metric="overall",
        sign=1,
    ),
    Claim(text="3x helps SMART", row="smart-3x", reference="smart", metric="overall", sign=1),
    Claim(
        text="the second gradient at the new parameters beats the one held",
        row="gse",
        reference="gse-reuse",
        metric="overall",
        sign=1,
        in_paper=False,
    ),
    Claim(
        text="features that express agreement help STS",
        row="agreement",
        reference="multitask",
        metric="sts",
        sign=1,
        in_paper=False,
    ),
    Claim(
        text="encoding the pair jointly helps STS",
        row="joint-pairs",
        reference="multitask",
        metric="sts",
        sign=1,
        in_paper=False,
    ),
    Claim(
        text="shared dropout with a calibrated ε beats SMART as published",
        row="smart-calibrated",
        reference="smart",
        metric="overall",
        sign=1,
        in_paper=False,
    ),
    Claim(
        text="the Bregman proximal point helps SMART",
        row="smart-bregman",
        reference="smart",
        metric="overall",
        sign=1,
        in_paper=False,
    ),
    *(
        Claim(
            text=f"{EXPERIMENTS[row].what.removeprefix('multitask with ')} helps multitask",
            row=row,
            reference="multitask",
            metric="overall",
            sign=1,
            in_paper=False,
        )
        for row in ("cagrad", "upgrad", "mgda", "nash-mtl", "aligned-mtl", "imtl-g", "config")
    ),
    *(
        Claim(text=text, row=row, reference="multitask", metric="overall", sign=1, in_paper=False)
        for row, text in (
            ("uncertainty", "uncertainty weighting helps multitask"),
            ("dwa", "dynamic weight average helps multitask"),
            ("mean-pooling", "mean pooling helps multitask"),
            ("max-pooling", "max pooling helps multitask"),
            ("masked-lm", "masked language modelling on the train sentences helps multitask"),
        )
    ),
)
"""What is tested, with the direction in which it is claimed."""


def rows() -> list[Experiment]:
    """Returns the rows that the reproduction runs, in the order in which a seed runs them."""
    return list(EXPERIMENTS.values())
