"""The table of what was aimed at beside what was measured."""

import math
from typing import Any

from .added import REUSE
from .committed import KEPT, load, projections
from .end_to_end import BACKWARDS, COMPILED, SURGERY, UPDATE
from .peers import OURS, PLAIN
from .projection import CALLS, LIMIT
from .tables import table


def goals_table() -> str:
    """Returns what was aimed at beside what was measured."""
    goals: list[tuple[str, str, str, bool]] = []

    def at_most(goal: str, found: float, most: float, form: str = "{:.2f}", note: str = "") -> None:
        goals.append((goal, form.format(found) + note, form.format(most), found <= most))

    def ratio(rows: dict[str, Any], name: str) -> float:
        return float(rows.get(name, {}).get("ratio", {}).get("median", math.inf))

    def milliseconds(rows: dict[str, Any], name: str) -> float:
        return float(rows[name]["cpu_ms"]["median"])

    for run in projections():
        if run["device"] != "cpu":
            continue
        rows, title = run["rows"], f"{run['model']}, T = {run['tasks']}"
        others = {name: ratio(rows, name) for name in rows if name not in (LIMIT, CALLS, *OURS)}
        for name in OURS:
            if name not in rows:
                continue
            found, how = ratio(rows, name), name.removeprefix(PLAIN)
            if run["parameters"] > 10**6:
                alone = f"; {CALLS} {ratio(rows, CALLS):.2f}" if name == PLAIN and CALLS in rows else ""
                at_most(f"{title}{how}: x limit", found, 2.0 if run["tasks"] > 3 else 1.5, note=alone)
                at_most(f"{title}{how}: memory, in gradients", rows[name]["memory"], 0.05, "{:.3f}")
            if others:
                best = min(others, key=lambda name: others[name])
                text, reached = f"{others[best] / found:.2f} ({best})", others[best] >= 2 * found
                goals.append((f"{title}{how}: the fastest other, x this", text, "at least 2", reached))
    grown = {point["tasks"]: point for point in load("growth.json")["by_tasks"]}[8]
    at_most(
        f"{grown['parameters']:,} parameters, T = 8: memory, in gradients", grown["memory"], 0.05, "{:.3f}"
    )
    for name, title in KEPT.items():
        steps, small = (load(name)[model] for model in ("minilm", "mlp"))
        for how in ("", COMPILED):
            found = 100 * (ratio(steps, f"{SURGERY}{how}") - 1)
            at_most(f"MiniLM, {title}: {SURGERY}{how} beyond the T backwards", found, 5, "{:.1f} %")
        found = milliseconds(small, SURGERY) - milliseconds(small, BACKWARDS)
        most = max(0.3, 2 * milliseconds(small, UPDATE))
        at_most(f"20 small tensors, {title}: {SURGERY} beyond the T backwards", found, most, "{:.2f} ms")
    added = load("added.json")["rows"]
    for how in ("", COMPILED):
        once, twice = (100 * ratio(added, f"{way}{how}") for way in (SURGERY, REUSE))
        at_most(f"MiniLM, gradients given: {SURGERY}{how}, of the T backwards", once, 5, "{:.1f} %")
        text = f"MiniLM, gradients given: GSE's reuse{how} beyond its update, of the T backwards"
        at_most(text, twice - once, 2, "{:.1f} %")
    at_most(
        "minBERT's iteration, x transformers'", ratio(load("minbert.json")["rows"], "minbert"), 1, "{:.3f}"
    )
    lines = [[goal, text, allowed, "yes" if reached else "no"] for goal, text, allowed, reached in goals]
    return table(["goal", "measured", "allowed", "reached"], lines)
