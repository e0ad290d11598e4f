"""How the surgery's time and memory grow with the tasks and the parameters, and which way is faster where."""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import linear_regression
from typing import Any

import torch
from minbert_multitask.files import write_atomically

from gradsurgery import vectors

from . import measure, shapes
from .peers import Problem, gradsurgery
from .projection import LIMIT, limit, prepared

TASKS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
SIZES = (1e6, 3e6, 10e6, 30e6, 100e6, 300e6)
WAYS = {"in place": {"SMALL": 0}, "gathered": {"SMALL": 2**62}}
"""The two ways to multiply on the CPU, by the setting that chooses them throughout."""


@contextmanager
def settings(changes: dict[str, int]) -> Iterator[None]:
    """Changes settings of the library inside the block."""
    before = {name: getattr(vectors, name) for name in changes}
    for name, value in changes.items():
        setattr(vectors, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vectors, name, value)


def one_way(problem: Problem, changes: dict[str, int]) -> Callable[[], object]:
    """Returns the surgery's call with its settings changed."""
    call = prepared(problem, gradsurgery)

    def run() -> None:
        with settings(changes):
            call()

    return run


def point(size: float, tasks: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Returns times and memory for so many parameters and tasks."""
    problem = Problem(shapes.even(int(size)), tasks, device)
    steps = limit(problem.matrix())
    entries: dict[str, measure.Preparation] = {
        LIMIT: lambda: steps,
        "gradsurgery": partial(prepared, problem, gradsurgery),
    }
    entries |= {way: partial(one_way, problem, changes) for way, changes in WAYS.items()}
    memory = measure.peak(entries["gradsurgery"](), device) / (4 * problem.size)
    times = measure.in_rounds(entries, reference=LIMIT, device=device, rounds=rounds)
    return {"parameters": problem.size, "tasks": tasks, "memory": memory, "rows": times}


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Returns the exponent k of the best fit ``y = c x^k``."""
    return linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope


def fitted(points: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    """Returns for each way the exponent of its time's growth with this key."""
    return {
        name: slope([p[key] for p in points], [p["rows"][name]["cpu_ms"]["median"] for p in points])
        for name in points[0]["rows"]
    }


def takes_over(points: Sequence[dict[str, Any]]) -> int | None:
    """Returns the number of tasks from which on gathering is the faster way."""

    def wins(found: dict[str, Any]) -> bool:
        gathered, in_place = (found["rows"][way]["cpu_ms"]["median"] for way in ("gathered", "in place"))
        return bool(gathered < in_place)

    behind = [k for k, found in enumerate(points) if not wins(found)]
    first = behind[-1] + 1 if behind else 0
    return points[first]["tasks"] if first < len(points) else None


def available() -> float:
    """Returns the bytes of memory that are free, as Linux tells them; elsewhere no limit is known."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), math.inf
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--parameters", type=float, default=10e6, help="where the tasks grow")
    parser.add_argument("--tasks", type=int, default=3, help="where the parameters grow")
    parser.add_argument("--largest", type=float, default=SIZES[-1], help="the most parameters")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=measure.RESULTS, help="a folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    # The rows, the first once more, and those of the limit.
    fitting = [
        size
        for size in SIZES
        if size <= options.largest and 4 * size * (2 * options.tasks + 2) < 0.8 * available()
    ]
    by_tasks = [point(options.parameters, tasks, device, options.rounds) for tasks in TASKS]
    by_size = [point(size, options.tasks, device, options.rounds) for size in fitting]
    found = {
        "by_tasks": by_tasks,
        "by_parameters": by_size,
        "slopes": {"tasks": fitted(by_tasks, "tasks"), "parameters": fitted(by_size, "parameters")},
        "gathering_wins_from": takes_over(by_tasks),
        "measured_with": measure.facts(),
    }
    write_atomically(options.output / "growth.json", json.dumps(found, indent=2) + "\n")
    print(json.dumps({key: found[key] for key in ("slopes", "gathering_wins_from")}, indent=2))


if __name__ == "__main__":
    main()
