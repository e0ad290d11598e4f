"""What the results files hold."""

import json
from typing import Any

from .measure import RESULTS

KEPT = {"end_to_end.json": "as it is", "end_to_end-kept.json": "memory kept"}
"""The files of whole steps, by what malloc does with the memory of a step."""


def load(name: str) -> Any:
    """Returns what a results file holds."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def projections() -> list[dict[str, Any]]:
    """Returns the comparisons that were made, the largest models last."""
    found = [load(path.name) for path in RESULTS.glob("projection-*.json")]
    return sorted(found, key=lambda run: (run["device"], run["tasks"], run["parameters"]))
