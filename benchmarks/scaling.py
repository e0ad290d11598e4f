"""What a step sends: messages and bytes counted on simulated ranks, and a model of the time that they take.

The ranks are simulated by torch's fake backend: one process runs what one rank of many would, and what it
sends is counted and goes nowhere. Times are modelled, not measured.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from minbert_multitask.files import write_atomically
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradsurgery import PCGrad

from . import measure, shapes, tables

TASKS = 3
RANKS = (8, 16, 32, 64, 128, 256, 512)
COUNTED = (8, 64, 512)
PARAMETERS = {"110 M": 110e6, "7 B": 7e9}
BLOCKS = 12
CHOSEN = shapes.MODELS["bert-base"]()
"""The shapes that are counted."""
LINKS = {"400 Gb/s": 50e9, "100 Gb/s": 12.5e9}
"""Bytes a second that a rank sends, while it receives as many."""
LATENCY = 5e-6
"""Seconds from one rank to another."""
TOKENS, FLOPS = 4096, 150e12
"""Tokens a task and rank, and operations a second, 6 for each parameter and token."""
KINDS = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "broadcast_": "broadcast",
}
"""By torch's operator, what a collective is called."""
COMPARED = 5
"""Numbers by which surgery on DDP's gradients tells whether the ranks are alike."""


class Traffic(TorchDispatchMode):
    """Records the kind and the bytes of each message of a collective that is sent inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            kind = KINDS[function.overloadpacket.__name__]
            tensors = args[0] if isinstance(args[0], list) else [a for a in args[:2] if isinstance(a, Tensor)]
            self.messages.append((kind, max(t.nbytes for t in tensors)))
        return function(*args, **(kwargs or {}))


def totals(messages: Sequence[tuple[str, int]]) -> dict[str, dict[str, int]]:
    """Returns by kind the number of messages and the bytes of the whole tensors."""
    return {
        kind: {"messages": len(sizes), "bytes": sum(sizes)}
        for kind in KINDS.values()
        if (sizes := [size for k, size in messages if k == kind])
    }


class Block(nn.Module):
    """Parameters of some shapes, with the least that gives each a gradient."""

    def __init__(self, chosen: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in chosen)

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x + weight.sum()
        return x


def model(chosen: Sequence[tuple[int, ...]]) -> nn.Sequential:
    """Returns the shapes in equal numbers in BLOCKS blocks."""
    size = math.ceil(len(chosen) / BLOCKS)
    return nn.Sequential(*(Block(chosen[k : k + size]) for k in range(0, len(chosen), size)))


def reduced_by_hook(ddp: nn.parallel.DistributedDataParallel) -> None:
    """Lets the reducer's buckets pass through Python, where they are counted."""

    def hook(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        buffer = bucket.buffer().div_(dist.get_world_size())
        dist.all_reduce(buffer)
        future.set_result(buffer)
        return future

    ddp.register_comm_hook(None, hook)


def counted(module: nn.Module, *, plain: bool) -> dict[str, dict[str, int]]:
    """Returns what a third step sends: T backwards with surgery, or one of the sum of T forwards."""
    x = torch.ones(1, requires_grad=True)
    optimizer = PCGrad(torch.optim.SGD(module.parameters(), lr=0.0))
    tasks: list[Callable[[], Tensor]] = [lambda k=k: (k + 1) * module(x).sum() for k in range(TASKS)]
    for _ in range(3):
        optimizer.zero_grad()
        with Traffic() as traffic:
            if plain:
                sum(task() for task in tasks).backward()  # type: ignore[union-attr]
            else:
                optimizer.backward(tasks)
    return totals(traffic.messages)


class AllTasks(nn.Module):
    """All forwards in one, since a reducer wants one forward a backward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return sum((self.module(k * x) for k in range(1, TASKS)), self.module(x))


def replicated(chosen: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Returns what DistributedDataParallel's step sends, without surgery and with."""
    plain = nn.parallel.DistributedDataParallel(AllTasks(model(chosen)))
    reduced_by_hook(plain)
    x = torch.ones(1)
    for _ in range(3):  # its buckets are built anew after the first backward
        with Traffic() as traffic:
            plain(x).sum().backward()
    ddp = nn.parallel.DistributedDataParallel(model(chosen))
    return {"plain": totals(traffic.messages), "surgery": counted(ddp, plain=False)}


def sharded(chosen: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Returns what fully_shard's step sends, without surgery and with."""
    from torch.distributed.fsdp import fully_shard

    found = {}
    for name in ("plain", "surgery"):
        module = model(chosen)
        for block in module:
            fully_shard(block)
        found[name] = counted(fully_shard(module), plain=name == "plain")
    return found


@contextmanager
def simulated(ranks: int) -> Iterator[None]:
    """Makes this process the first of so many ranks, which do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def sent(found: dict[str, dict[str, int]], ranks: int) -> float:
    """Returns the bytes that a rank sends, by the algorithms that send least: rings."""
    rounds = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
    return sum(rounds[kind] * (ranks - 1) / ranks * entry["bytes"] for kind, entry in found.items())


def expected(parameters: float, tensors: int, way: str, *, plain: bool) -> dict[str, dict[str, int]]:
    """Returns the bytes of :func:`counted` on paper, in float32; a test compares."""
    P = 4 * int(parameters)
    compared = 8 * 2 * COMPARED  # int64, each number and its negative
    if way == "DDP":
        if plain:
            return {"all-reduce": {"bytes": P}}
        reached = 4 * TASKS * tensors  # int32, whether a task reaches a tensor
        return {"all-reduce": {"bytes": TASKS * P + compared + reached}}
    gramian = {} if plain else {"all-reduce": {"bytes": compared + 8 * TASKS**2}}
    reduced = 1 if plain else TASKS
    return {**gramian, "all-gather": {"bytes": 2 * TASKS * P}, "reduce-scatter": {"bytes": reduced * P}}


def exposed(parameters: float, ranks: int, bandwidth: float, *, plain: bool) -> float:
    """Returns the seconds of a DDP step in which messages keep the ranks from computing.

    Without surgery the reduction runs beside the last two thirds of the computation, the backward; with it,
    a task's beside the following tasks, one after another, and the last task's beside none.
    """
    task = 6 * parameters * TOKENS / FLOPS
    row = 2 * (ranks - 1) / ranks * 4 * parameters / bandwidth + 2 * math.log2(ranks) * LATENCY
    if plain:
        return max(row - 2 / 3 * TASKS * task, 0.0)
    end = 0.0
    for k in range(1, TASKS + 1):
        end = max(end, k * task) + row
    return end - TASKS * task


def modelled() -> list[dict[str, Any]]:
    """Returns bytes and times a step by size, ranks and way."""
    rows = []
    for size, parameters in PARAMETERS.items():
        for ranks in RANKS:
            row: dict[str, Any] = {"parameters": size, "ranks": ranks}
            for way in ("DDP", "FSDP2"):
                for plain in (True, False):
                    name = f"{way} {'plain' if plain else 'surgery'}"
                    row[name] = sent(expected(parameters, 200, way, plain=plain), ranks)
            row["exposed"] = {
                link: [exposed(parameters, ranks, bandwidth, plain=plain) for plain in (True, False)]
                for link, bandwidth in LINKS.items()
            }
            row["gramian"] = 2 * math.log2(ranks) * LATENCY
            rows.append(row)
    return rows


def table(found: dict[str, Any]) -> str:
    """Returns the page's table."""
    lines = []
    for row in found["modelled"]:
        if row["ranks"] not in COUNTED:
            continue
        sizes = [
            f"{row[f'{way} {kind}'] / 1e9:.2f}" for way in ("DDP", "FSDP2") for kind in ("plain", "surgery")
        ]
        times = [" → ".join(f"{1e3 * t:.1f}" for t in row["exposed"][link]) for link in LINKS]
        lines.append([row["parameters"], str(row["ranks"]), *sizes, *times, f"{1e3 * row['gramian']:.2f}"])
    header = ["parameters", "ranks", "DDP, GB", "with surgery", "FSDP2, GB", "with surgery"]
    header += [f"DDP waits, {link}, ms" for link in LINKS]
    return tables.table([*header, "T² numbers, ms"], lines)


def draw(found: dict[str, Any]) -> Figure:
    """Returns the picture of bytes and of exposed times over the ranks."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for size, marker in zip(PARAMETERS, "os", strict=True):
        rows = [row for row in found["modelled"] if row["parameters"] == size]
        colours = {"DDP plain": "C0", "DDP surgery": "C3", "FSDP2 plain": "C1", "FSDP2 surgery": "C2"}
        for name, colour in colours.items():
            left.plot(
                RANKS, [row[name] / 1e9 for row in rows], marker + "-", color=colour, label=f"{name}, {size}"
            )
    left.set(xscale="log", yscale="log", xlabel="ranks", ylabel="GB sent by a rank in a step")
    left.set_title("Bytes, T = 3, float32", fontsize=10)
    rows = [row for row in found["modelled"] if row["parameters"] == "110 M"]
    for link, style in zip(LINKS, ("-", "--"), strict=True):
        for k, (name, colour) in enumerate([("plain", "C0"), ("surgery", "C3")]):
            times = [1e3 * row["exposed"][link][k] for row in rows]
            right.plot(RANKS, times, "o" + style, color=colour, label=f"DDP {name}, {link}")
    right.plot(RANKS, [1e3 * row["gramian"] for row in rows], "o-", color="C2", label="FSDP2: T² numbers")
    right.set(xscale="log", xlabel="ranks", ylabel="ms a step that the ranks wait")
    right.set_title("Model of the time not hidden, 110 M parameters", fontsize=10)
    for axes in (left, right):
        axes.set_xticks(RANKS, [str(ranks) for ranks in RANKS])
        axes.minorticks_off()
        axes.legend(fontsize=7)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--output", type=Path, default=measure.RESULTS, help="a folder")
    options = parser.parse_args(arguments)
    cases = []
    for ranks in COUNTED:
        with simulated(ranks):
            cases.append({"ranks": ranks, "DDP": replicated(CHOSEN), "FSDP2": sharded(CHOSEN)})
    found = {
        "parameters": sum(math.prod(shape) for shape in CHOSEN),
        "tensors": len(CHOSEN),
        "tasks": TASKS,
        "counted": cases,
        "modelled": modelled(),
        "measured_with": measure.facts(),
    }
    write_atomically(options.output / "scaling.json", json.dumps(found, indent=2) + "\n")
    draw(found).savefig(options.output / "scaling.png", dpi=150)


if __name__ == "__main__":
    main()
