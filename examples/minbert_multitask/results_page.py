"""The page of results: its tables are written from the records, between its markers."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from . import findings, protocol, table, task_conflicts
from .best_runs import best_runs
from .comparable import Comparable
from .experiments import EXPERIMENTS
from .files import write_atomically
from .findings import Finding
from .results import RunResult

SECTIONS = ("state", "verdicts", "scores", "claims", "conflicts", "all-conflicts", "predicted", "cost")
"""The tables' names."""


def sections(results: Sequence[RunResult], judged: Sequence[Finding]) -> dict[str, str]:
    """Returns the page's tables by the names of their markers.

    Args:
        results: All runs.
        judged: The verdicts on the claims.
    """
    known = [run for run in results if run.row in EXPERIMENTS]  # another version's rows have no group
    paper = [run for run in known if EXPERIMENTS[run.row].group == "paper"]
    return {
        "state": _state(results),
        "verdicts": _verdicts(judged),
        "scores": table.markdown_table(results),
        "claims": findings.markdown(judged),
        "conflicts": task_conflicts.markdown(task_conflicts.task_conflicts(paper)),
        "all-conflicts": task_conflicts.markdown(task_conflicts.task_conflicts(known)),
        "predicted": _predicted(results),
        "cost": _cost(results),
    }


def fill(page: str, tables: dict[str, str], path: Path) -> str:
    """Returns a page's text with each table between ``<!-- name -->`` and ``<!-- end of name -->``.

    Args:
        page: The text.
        tables: By name.
        path: The page's, for the message.

    Raises:
        ValueError: If the page lacks the markers of a table.
    """
    for name, text in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, begun, rest = page.partition(start)
        _, ended, after = rest.partition(end)
        if not begun or not ended:
            raise ValueError(
                f"{path} must hold the lines <!-- {name} --> and {end}, lacks one of them; write them where"
                " the table shall stand"
            )
        page = f"{before}{start}{text}\n{end}{after}"
    return page


def check(path: Path) -> None:
    """Refuses, before anything is run, a page that the tables could not be written into.

    Raises:
        ValueError: If it lacks the markers of a table, or is no text.
        OSError: If it cannot be read.
    """
    fill(_read(path), dict.fromkeys(SECTIONS, ""), path)


def write(path: Path, tables: dict[str, str]) -> None:
    """Writes the tables into a page.

    Raises:
        ValueError: If it lacks the markers of a table, or is no text.
        OSError: If it cannot be read or written.
    """
    write_atomically(path, fill(_read(path), tables, path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}); give a Markdown page") from error
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; give a Markdown page with the tables' markers") from error


def _state(results: Sequence[RunResult]) -> str:
    """Returns how much of the protocol has been run, and what has not."""
    ended = {(run.row, run.seed) for run in results}
    missing = {
        row.name: seeds
        for row in protocol.rows()
        if (seeds := [seed for seed in protocol.SEEDS if (row.name, seed) not in ended])
    }
    whole = len(protocol.rows()) * len(protocol.SEEDS)
    if not missing:
        return f"All {whole} runs of the protocol have ended."
    each = "; ".join(f"`{row}` ({', '.join(map(str, seeds))})" for row, seeds in missing.items())
    ended_of_it = whole - sum(map(len, missing.values()))
    return f"{ended_of_it} of the protocol's {whole} runs have ended. Still to run, with these seeds: {each}."


def _verdicts(judged: Sequence[Finding]) -> str:
    """Returns how many claims are decided, and which."""
    parts = []
    for verdict in (findings.CONFIRMED, findings.REFUTED):
        decided = [f"*{found.claim.text}*" for found in judged if found.verdict == verdict]
        which = f" ({', '.join(decided)})" if decided else ""
        parts.append(f"{verdict}: {len(decided)}{which}")
    undecided = sum(found.verdict == findings.UNDECIDED for found in judged)
    parts.append(f"{findings.UNDECIDED}: {undecided}")
    finished = {found.claim.text for found in judged if found.verdict != findings.UNFINISHED}
    if waiting := [f"*{claim.text}*" for claim in protocol.CLAIMS if claim.text not in finished]:
        parts.append(f"{findings.UNFINISHED}: {len(waiting)} ({', '.join(waiting)})")
    return f"Of the protocol's {len(protocol.CLAIMS)} claims, {'; '.join(parts)}."


def _predicted(results: Sequence[RunResult]) -> str:
    lines = ["| run | SST | QQP | STS | overall |", "| :-- | --: | --: | --: | --: |"]
    for run in best_runs(results):
        scores = " | ".join(f"{value:.3f}" for value in run.dev.values().values())
        lines.append(f"| {run.row}, seed {run.seed} | {scores} |")
    return "\n".join(lines)


def _cost(results: Sequence[RunResult]) -> str:
    """Returns how long a run of each row took on one thread, and its peak memory."""
    lines = [
        "| row | runs | iterations | minutes a run | peak memory, GB |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for row, runs in Comparable(tuple(results)).rows.items():
        iterations = sum(epoch.iterations for epoch in runs[0].epochs)
        minutes = fmean(run.seconds for run in runs) / 60
        peak = max(run.peak_memory_bytes for run in runs) / 1e9
        lines.append(f"| {row} | {len(runs)} | {iterations} | {minutes:.1f} | {peak:.2f} |")
    hours = sum(run.seconds for run in results) / 3600
    lines.append(f"| all | {len(results)} | | {hours:.1f} hours in all | |")
    return "\n".join(lines)
