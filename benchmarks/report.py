"""Draws pictures from the results files and writes their tables into the READMEs, between their markers."""

from collections.abc import Callable
from pathlib import Path

from .committed import KEPT, load, projections
from .end_to_end import BACKWARDS
from .goals import goals_table
from .measure import RESULTS
from .pictures import draw_growth, draw_memory, draw_projection
from .projection import CALLS, LIMIT
from .smart_report import draw_smart, one_task_table, three_tasks_tables
from .tables import ranged, table

README = Path(__file__).parent / "README.md"
ROOT_README = README.parents[1] / "README.md"
SMARTREG_README = README.parents[1] / "smartreg" / "README.md"


def projection_tables() -> str:
    """Returns one table for each comparison, and what it was made with."""
    parts = []
    for run in projections():
        rows = sorted(run["rows"].items(), key=lambda item: item[1].get("ratio", {"median": 1e9})["median"])
        lines = []
        for name, row in rows:
            if "error" in row:
                lines.append([name, f"failed: {row['error']}", "", "", "", ""])
                continue
            error = row.get("relative_error")
            shown = "" if error is None else f"{error:.0e}"
            memory = f"{row['memory']:.2f}" if "memory" in row else ""
            cells = [
                ranged(row["ratio"]),
                f"{row['cpu_ms']['median']:,.2f}",
                f"{row['wall_ms']['median']:,.2f}",
            ]
            lines.append([name, *cells, memory, shown])
        made_with = run["measured_with"]
        peak = run.get("peak_gigabytes_per_second")
        peak = f" of {peak:.0f} GB/s by the memory's clock" if peak else ""
        versions = ", ".join(f"{name} {version}" for name, version in made_with["versions"].items())
        parts.append(
            f"**{run['model']}, T = {run['tasks']}, {run['device']}**: {run['parameters']:,} parameters in"
            f" {run['tensors']} tensors; the limit is {run['limit_gigabytes_per_second']:.0f} GB/s{peak}."
            f" {made_with['cpu']}, {made_with['threads']} thread; GPU: {made_with['gpu']}; {versions}.\n\n"
            + table(["", "x limit", "CPU ms", "wall ms", "memory, in gradients", "relative error"], lines)
        )
    if not any(run["device"] == "cuda" for run in projections()):
        parts.append("**CUDA**: not measured.")
    return "\n\n".join(parts)


def beside_table() -> str:
    """Returns the short comparison of the root README, MiniLM with three tasks."""
    rows = load("projection-minilm-3-cpu.json")["rows"]
    chosen = {name: row for name, row in rows.items() if name not in (LIMIT, CALLS) and "ratio" in row}
    lines = [
        [name, f"{row['ratio']['median']:.1f}", f"{row['memory']:.2f}", f"{row['relative_error']:.0e}"]
        for name, row in sorted(chosen.items(), key=lambda item: item[1]["ratio"]["median"])
    ]
    return table(["", "time, x the limit", "memory, in gradients", "relative error"], lines)


def end_to_end_tables() -> str:
    """Returns the tables of whole steps, and the peaks of memory."""
    parts = []
    for model, text in {"minilm": "MiniLM's encoder", "mlp": "20 small tensors"}.items():
        runs = {title: load(name) for name, title in KEPT.items()}
        batch = next(iter(runs.values()))["batch"]
        shape = f", {batch['rows']} x {batch['tokens']} tokens a task" if model == "minilm" else ""
        header = [f"{text}, T = {batch['tasks']}{shape}"]
        header += [f"{what}, {title}" for title in runs for what in ("CPU ms", f"x {BACKWARDS}")]
        lines = []
        for name in next(iter(runs.values()))[model]:
            rows = [run[model][name] for run in runs.values()]
            cells = [(f"{row['cpu_ms']['median']:,.2f}", ranged(row["ratio"], 3)) for row in rows]
            lines.append([name, *(cell for pair in cells for cell in pair)])
        parts.append(table(header, lines))
    memory = load("end_to_end.json")["memory"]
    peaks = {name: curve["peak"] / 1e6 for name, curve in memory["by"].items()}
    parts.append(
        f"Most memory in a backward: {peaks['callables']:,.0f} MB with callables, {peaks['losses']:,.0f} MB"
        f" with losses; one task's gradient takes {memory['gradient'] / 1e6:,.0f} MB."
    )
    return "\n\n".join(parts)


def added_table() -> str:
    """Returns the table of what is added to the T backwards."""
    found = load("added.json")
    batch, made_with = found["batch"], found["measured_with"]
    header = f"MiniLM's encoder, T = {batch['tasks']}, {batch['rows']} x {batch['tokens']} tokens a task"
    lines = [
        [name, f"{row['cpu_ms']['median']:,.1f}", ranged(row["ratio"], 3)]
        for name, row in found["rows"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in made_with["versions"].items())
    text = f"{made_with['cpu']}, {made_with['threads']} thread; {versions}."
    return table([header, "CPU ms", f"x {BACKWARDS}"], lines) + f"\n\n{text}"


def growth_tables() -> str:
    """Returns the tables of growth, and the exponents fitted to them."""
    found = load("growth.json")
    parts = []
    for key, first in {"by_tasks": "tasks", "by_parameters": "parameters"}.items():
        names = [name for name in found[key][0]["rows"] if name != LIMIT]
        other = {"tasks": "parameters", "parameters": "tasks"}[first]
        header = [f"{first} ({found[key][0][other]:,} {other})", "limit, CPU ms"]
        header += [f"{name}, x limit" for name in names] + ["memory, in gradients"]
        lines = []
        for point in found[key]:
            rows = point["rows"]
            cells = [f"{point[first]:,}", f"{rows[LIMIT]['cpu_ms']['median']:,.2f}"]
            cells += [f"{rows[name]['ratio']['median']:.2f}" for name in names]
            lines.append([*cells, f"{point['memory']:.3f}"])
        exponents = ", ".join(f"{name} {k:.2f}" for name, k in found["slopes"][first].items())
        parts.append(f"{table(header, lines)}\n\nTime grows with the {first} to the power of: {exponents}.")
    wins = found["gathering_wins_from"]
    parts.append(
        "There is no T among these from which on gathering is the faster way."
        if wins is None
        else f"Gathering is the faster way from T = {wins} on, among these T."
    )
    return "\n\n".join(parts)


def minbert_table() -> str:
    """Returns the table of minBERT's iteration."""
    found = load("minbert.json")
    lines = [
        [name, f"{row['cpu_ms']['median']:,.0f}", ranged(row["ratio"], 3)]
        for name, row in found["rows"].items()
    ]
    versions = found["measured_with"]["versions"]
    text = f"transformers {versions['transformers']} with {found['attention']} attention."
    return table(["", "CPU ms an iteration", "x transformers"], lines) + f"\n\n{text}"


SECTIONS: dict[str, Callable[[], str]] = {
    "beside": beside_table,
    "goals": goals_table,
    "projection": projection_tables,
    "end to end": end_to_end_tables,
    "added": added_table,
    "growth": growth_tables,
    "minbert": minbert_table,
    "smart on one task": lambda: one_task_table(load("smart.json")),
    "smart on three tasks": lambda: three_tasks_tables(load("smart.json")),
}


def filled(text: str) -> str:
    """Returns a README's text with the tables of the sections that it has between their markers."""
    for name, section in SECTIONS.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if start not in text:
            continue
        before, rest = text.split(start)
        text = f"{before}{start}\n{section()}\n{end}{rest.split(end)[1]}"
    return text


PICTURES: dict[str, Callable[[Path], None]] = {
    "projection.png": draw_projection,
    "growth.png": draw_growth,
    "memory.png": draw_memory,
    "smart.png": lambda path: draw_smart(load("smart.json"), path),
}


def main() -> None:
    for name, draw in PICTURES.items():
        draw(RESULTS / name)
    for readme in (README, ROOT_README, SMARTREG_README):
        readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
