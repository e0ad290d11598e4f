"""What the surgery costs beside other packages and beside the memory's bandwidth.

It is timed from where the T gradients exist to where ``.grad`` holds the result. The limit is what the memory
allows: the gradients read twice and the result written once, measured in the same rounds.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from minbert_multitask.files import write_atomically
from torch import Tensor

from gradsurgery import vectors

from . import measure, shapes
from .peers import PEERS, Peer, Problem

LIMIT = "limit: read twice, written once"
CALLS = "gradsurgery's calls of torch alone"


def limit(matrix: Tensor) -> Callable[[], object]:
    """Returns the fastest calls of torch that read T rows ``(T, P)`` twice and write one, where one is."""

    def run() -> None:
        for row in [*matrix, *matrix]:
            row.sum()
        matrix[0].zero_()

    return run


def calls(matrix: Tensor) -> Callable[[], object]:
    """Returns the calls by which the library multiplies and adds up rows on the CPU, on rows ``(T, P)``.

    There are no tensors to find and to cut, and none to gather: the rest of a surgery is what is beyond this.
    """
    tasks = len(matrix)
    chunks = matrix.split(vectors.CHUNK, dim=1)
    pieces = [list(piece) for piece in zip(*(row.split(vectors.SUMMED) for row in matrix), strict=True)]
    weights = [0.999, *[0.001] * (tasks - 1)]

    def run() -> None:
        for chunk in chunks:
            vectors._dots(chunk.unbind())
        for piece in pieces:
            vectors._add_up([piece], weights)

    return run


def prepared(problem: Problem, peer: Peer) -> Callable[[], object]:
    """Returns the peer's call with the problem as it was."""
    problem.restore()
    return peer(problem)


def compare(
    model: str,
    tasks: int,
    peers: Sequence[str],
    device: torch.device,
    *,
    rounds: int = 20,
    seconds: float = 4.0,
) -> dict[str, Any]:
    """Returns for each peer its times, the memory beyond the gradients, and how far off its result is."""
    problem = Problem(shapes.MODELS[model](), tasks, device)
    matrix = problem.matrix()
    bounds = {LIMIT: limit(matrix)} | ({CALLS: calls(matrix)} if device.type == "cpu" else {})
    entries: dict[str, measure.Preparation] = {name: lambda run=run: run for name, run in bounds.items()}
    entries |= {name: partial(prepared, problem, PEERS[name][1]) for name in peers}
    right = problem.literal()
    rows: dict[str, dict[str, Any]] = {}
    for name in peers:
        rows[name] = {"package": PEERS[name][0]} | checked(problem, entries[name], right)
    del right
    runnable = {name: e for name, e in entries.items() if "error" not in rows.get(name, {})}
    timed = measure.in_rounds(runnable, reference=LIMIT, device=device, rounds=rounds, seconds=seconds)
    for name, times in timed.items():
        rows[name] = rows.get(name, {}) | times
    written = 4 * problem.size * (2 * tasks + 1)
    gigabytes = written / timed[LIMIT]["wall_ms"]["median"] / 1e6
    return {
        "model": model,
        "parameters": problem.size,
        "tensors": len(problem.parameters),
        "tasks": tasks,
        "device": device.type,
        "limit_gigabytes_per_second": gigabytes,
        "peak_gigabytes_per_second": measure.peak_bandwidth(device),
        "rows": rows,
        "measured_with": measure.facts(*sorted({package for package, _ in PEERS.values()})),
    }


def checked(problem: Problem, prepare: measure.Preparation, right: Tensor) -> dict[str, Any]:
    """Returns a peer's memory, in gradients of one task, and its error; or what went wrong."""
    try:
        peak = measure.peak(prepare(), problem.device)
    except Exception as error:  # a peer may fail in any way
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"memory": peak / (4 * problem.size), "relative_error": problem.error(right)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.projection", description=__doc__)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--model", choices=shapes.MODELS, default="minilm")
    parser.add_argument("--peers", default="all", help="'all', or labels that contain one of these, by comma")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0, help="a peer leaves after as many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=measure.RESULTS, help="a folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    wanted = [""] if options.peers == "all" else options.peers.split(",")
    peers = [name for name in PEERS if any(part in name for part in wanted)]
    device = torch.device(options.device)
    found = compare(
        options.model, options.tasks, peers, device, rounds=options.rounds, seconds=options.seconds
    )
    name = f"projection-{options.model}-{options.tasks}-{options.device}.json"
    write_atomically(options.output / name, json.dumps(found, indent=2) + "\n")
    for label, row in found["rows"].items():
        print(f"{label:40s}", row.get("error") or f"{row['ratio']['median']:8.2f} x the limit")


if __name__ == "__main__":
    main()
