"""The table of all rows, as text and as Markdown, beside what the paper reports."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from .comparable import LABELS, UNITS, Comparable, comparable, repeated_seeds
from .evaluate import METRICS
from .experiments import EXPERIMENTS
from .results import RunResult

_WIDTH = 110
_NOTHING = "-"


def _paper(*scores: float) -> dict[str, float]:
    return dict(zip(METRICS, scores, strict=True))


PAPER: dict[str, dict[str, float] | None] = {
    "baseline": _paper(0.512, 0.731, 0.361, 0.641),
    "multitask": _paper(0.511, 0.727, 0.341, 0.636),
    "gs": _paper(0.510, 0.718, 0.378, 0.639),
    "gse": _paper(0.507, 0.748, 0.353, 0.644),
    "cosine-embedding": _paper(0.510, 0.706, 0.103, 0.589),
    "cosine-d": _paper(0.508, 0.730, 0.185, 0.610),
    "cosine-2d+1": _paper(0.510, 0.737, 0.365, 0.643),
    "cosine-2d+1-mean": _paper(0.499, 0.747, 0.357, 0.641),
    "smart": _paper(0.487, 0.750, 0.376, 0.642),
    "smart-gse": None,
    "gse-3x": _paper(0.489, 0.762, 0.362, 0.644),
    "cosine-2d+1-3x": _paper(0.499, 0.761, 0.379, 0.650),
    "smart-3x": _paper(0.507, 0.758, 0.376, 0.651),
}
"""The paper's dev scores by row and metric; None where its run ended for want of memory."""

PAPER_TEST: dict[str, dict[str, float]] = {
    "gse-3x": _paper(0.524, 0.768, 0.329, 0.652),
    "cosine-2d+1-3x": _paper(0.516, 0.761, 0.327, 0.647),
    "smart-3x": _paper(0.514, 0.760, 0.345, 0.649),
}
"""The paper's test scores, which it gives for three rows."""

_PAPER_DEV_SIZES = {"sst": 1101, "qqp": 40429, "sts": 863}
_PAPER_WEIGHTS = ("bert-base-uncased", 12)
_PAPER_SCHEDULE = {"epochs": 10, "iterations": 755, "batch_size": 8, "lr": 1e-5}


def text_table(results: Iterable[RunResult]) -> str:
    """Returns the table for a terminal, at most 110 columns wide: one for each data, weights and settings.

    Args:
        results: The runs; those of one row with several seeds become one line.

    Raises:
        ValueError: If there are no runs, or if one lacks what the table needs.
    """
    return "\n\n\n".join(_text(group) for group in _groups(results))


def markdown_table(results: Iterable[RunResult]) -> str:
    """Returns the table as Markdown; the arguments and errors are those of :func:`text_table`."""
    return "\n\n".join(_markdown(group) for group in _groups(results))


def _groups(results: Iterable[RunResult]) -> list[Comparable]:
    groups = comparable(results)
    if not groups:
        raise ValueError("results must hold at least one run, got none; train a row first")
    return groups


def _text(group: Comparable) -> str:
    lines = [
        [
            name,
            *(f"{cell:<14}" for cell in ours),
            "|",
            *(f"{cell:>6}" for cell in papers[:3]),
            f"{papers[3]:>8}",
        ]
        for name, ours, papers in _lines(group)
    ]
    units = [UNITS[metric] for metric in METRICS]
    paper = "  paper: not comparable" if differences_from_paper(group) else "  paper"
    header = [
        ["", f" {'dev ± half the 95 % interval':<55}", "|", paper],
        ["row", *(f" {LABELS[metric]:<13}" for metric in METRICS), "|", "   SST   QQP   STS overall"],
        ["", *(f" {unit:<13}" for unit in units), "|", ""],
    ]
    width = max(len(line[0]) for line in lines)
    rendered = [f"{line[0]:<{width}}  {''.join(line[1:])}".rstrip() for line in [*header, *lines]]
    rendered.insert(len(header), "-" * max(map(len, rendered)))
    return "\n".join(
        [
            *_wrap(f"data:     {group.data_text}", indent=10),
            *_wrap(f"weights:  {group.weights_text}", indent=10),
            *_wrap(f"schedule: {group.schedule_text}", indent=10),
            "",
            *rendered,
            "",
            *(
                line
                for note in [f"paper: {_paper_note(group)}", *_notes(group)]
                for line in _wrap(f"- {note}", indent=2)
            ),
        ]
    )


def _wrap(text: str, *, indent: int) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def _markdown(group: Comparable) -> str:
    header = [
        "row",
        *(f"{LABELS[metric]} {UNITS[metric]}".strip() for metric in METRICS),
        *(f"paper: {LABELS[metric]}" for metric in METRICS),
    ]
    lines = [
        [_escape(name), *(_escape(cell.strip()) for cell in ours), *papers]
        for name, ours, papers in _lines(group)
    ]
    rendered = [header, [":--", *["--:"] * (len(header) - 1)], *lines]
    return "\n".join(
        [
            f"**Data:** {_escape(group.data_text)}. **Weights:** {_escape(group.weights_text)}.",
            f"**Schedule:** {_escape(group.schedule_text)}.",
            f"**Paper:** {_escape(_paper_note(group))}",
            "",
            *(f"| {' | '.join(line)} |" for line in rendered),
            "",
            *(f"* {_escape(note)}" for note in _notes(group)),
        ]
    )


def _escape(text: str) -> str:
    """Returns text with what Markdown would take for markup escaped."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def _lines(group: Comparable) -> list[tuple[str, list[str], list[str]]]:
    """Returns the name, our cells and the paper's cells of each line."""
    nothing = [_NOTHING] * len(METRICS)
    constant = [f"{group.data.constant[metric]:6.3f}" for metric in METRICS]
    lines = [("constant prediction", constant, nothing)]
    named = [row for row in EXPERIMENTS if row in PAPER or row in group.rows]
    for row in [*named, *(row for row in group.rows if row not in EXPERIMENTS)]:
        runs = group.rows.get(row, ())
        ours = [_cell(runs, metric) for metric in METRICS] if runs else [f" {_NOTHING}"] * len(METRICS)
        lines.append((row, ours, _paper_cells(row)))
        if len(runs) > 1:
            deviations = [stdev(run.dev[metric].value for run in runs) for metric in METRICS]
            what = f"  sd over {len(runs)} {'runs' if repeated_seeds(runs) else 'seeds'}"
            lines.append((what, [f"{deviation:6.3f}" for deviation in deviations], [""] * len(METRICS)))
    return lines


def _cell(runs: Sequence[RunResult], metric: str) -> str:
    scores = [run.dev[metric] for run in runs]
    half = fmean((score.high - score.low) / 2 for score in scores)
    flag = "*" if any(score.flagged for score in scores) else ""
    return f"{fmean(score.value for score in scores):6.3f} ±{f'{half:.3f}'.removeprefix('0')}{flag}"


def _paper_cells(row: str) -> list[str]:
    if row not in PAPER:
        return [_NOTHING] * len(METRICS)
    scores = PAPER[row]
    return ["N/A" if scores is None else f"{scores[metric]:.3f}" for metric in METRICS]


def _notes(group: Comparable) -> list[str]:
    """Returns what a reader must know, a sentence or two each."""
    flagged = any(run.dev[metric].flagged for run in group.runs for metric in METRICS)
    several = any(len(runs) > 1 for runs in group.rows.values())
    notes = [
        (
            "±: half the bootstrap 95 % interval of a row's own score over the dev examples; the luck of the "
            "seed is not in it. It does not judge a gap between two rows, which share the examples: that "
            "takes several seeds of each, and `minbert findings`."
        ),
        "overall = (SST + QQP + (STS + 1) / 2) / 3, so an STS of 0 still adds 1/6.",
        (
            "constant prediction: the one answer to all examples that does best on dev; a row near it has "
            "learned nothing."
        ),
    ]
    if flagged:
        notes.append(
            "*: one answer to all examples of that task, or answers that are no numbers; for overall, in any "
            f"task{' (in at least one of the runs)' if several else ''}."
        )
    if several:
        notes.append(
            "A row of several seeds shows their mean, the mean of their ±, and below it the seeds' standard "
            "deviation (sd)."
        )
    for row, runs in group.rows.items():
        if seeds := repeated_seeds(runs):
            notes.append(
                f"{row} has several runs of seed {', '.join(map(str, seeds))}, which are not independent of "
                "each other."
            )
    if any(len(run.epochs) > 1 for run in group.runs):
        notes.append(
            "Each row shows its best epoch, chosen by overall on the very dev examples it is scored on: a "
            "little too high, in the paper too."
        )
    notes += _caveats(group)
    missing = any(row not in group.rows for row in PAPER)
    notes.append(f"A dash: {'not run here, or ' if missing else ''}not in the paper.")
    return notes


def _caveats(group: Comparable) -> list[str]:
    """Returns what is peculiar to some data and weights."""
    caveats = []
    if group.data.name == "demo":
        caveats.append("demo: sentences made by a grammar; these scores do not carry over to real text.")
    if "all-minilm-l6" in group.runs[0].weights.name.lower():
        untrained = "zero-shot shows what they knew before any training here"
        if "zero-shot" not in group.rows:
            untrained = "a run of zero-shot would show what they know untrained"
        caveats.append(
            "These weights were tuned on Quora's question pairs, the dev and test pairs of QQP included, and "
            "on sources that STS-B shares, though not on SST: on real QQP and STS data no row is a score on "
            f"unseen data; {untrained}."
        )
    return caveats


def _paper_note(group: Comparable) -> str:
    """Returns what the paper's columns are."""
    tests = "; ".join(
        f"{row} {'/'.join(f'{scores[metric]:.3f}' for metric in METRICS)}"
        for row, scores in PAPER_TEST.items()
    )
    differences = differences_from_paper(group)
    made = (
        f", measured with {', '.join(differences)}: compare rows within one side only" if differences else ""
    )
    return f"its dev scores{made}. N/A: out of GPU memory. Its test scores: {tests}."


def differences_from_paper(group: Comparable) -> list[str]:
    """Returns in what the paper's runs differ from these."""
    weights, config = group.runs[0].weights, group.runs[0].config
    differences = []
    if any(group.data.sizes[task]["dev"] != size for task, size in _PAPER_DEV_SIZES.items()):
        sizes = ", ".join(f"{size:,} {LABELS[task]}" for task, size in _PAPER_DEV_SIZES.items())
        differences.append(f"other data (dev {sizes})")
    if (weights.name, weights.layers) != _PAPER_WEIGHTS:
        differences.append("other weights ({}, {} layers)".format(*_PAPER_WEIGHTS))
    if any(config[name] != value for name, value in _PAPER_SCHEDULE.items()):
        differences.append("another schedule (10 epochs of 755 iterations, batch 8, lr 1e-05)")
    return differences
