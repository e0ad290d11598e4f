"""The pictures of the results files, but for that of what SMART costs."""

from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .committed import load, projections
from .peers import OURS
from .projection import CALLS, LIMIT

ALONE: dict[str, Any] = {"color": "C0", "linestyle": ":"}


def draw_projection(path: Path) -> None:
    """Draws each comparison as bars on a logarithmic scale."""
    runs = projections()
    figure = Figure(figsize=(11, 3.6 * -(-len(runs) // 2)), layout="constrained")
    for axes, run in zip(figure.subplots(-(-len(runs) // 2), 2, squeeze=False).flat, runs, strict=False):
        ratios = {name: row["ratio"] for name, row in run["rows"].items() if "ratio" in row and name != LIMIT}
        if CALLS in ratios:
            axes.axvline(ratios.pop(CALLS)["median"], **ALONE)
        rows = list(ratios.items())
        rows.sort(key=lambda item: -item[1]["median"])
        for k, (name, ratio) in enumerate(rows):
            axes.barh(k, ratio["median"], color="C0" if name in OURS else "0.7")
            axes.text(ratio["median"], k, f" {ratio['median']:.1f}", va="center")
        axes.set_yticks(range(len(rows)), [fill(name, 40) for name, _ in rows], fontsize=9)
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlim(right=5 * max(ratio["median"] for _, ratio in rows))
        axes.set_title(f"{run['model']}, T = {run['tasks']}, {run['device']}")
        axes.set_xlabel("time, x the memory's limit")
    for axes in list(figure.axes)[len(runs) :]:
        axes.set_axis_off()
    figure.legend([Line2D([], [], **ALONE)], [CALLS], loc="outside lower right")  # off the bars
    figure.savefig(path, dpi=100, metadata={"Software": None})


def draw_growth(path: Path) -> None:
    """Draws time over tasks and over parameters, both axes logarithmic."""
    found = load("growth.json")
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (key, first) in zip(
        figure.subplots(1, 2), {"by_tasks": "tasks", "by_parameters": "parameters"}.items(), strict=True
    ):
        for name in found[key][0]["rows"]:
            medians = [point["rows"][name]["cpu_ms"]["median"] for point in found[key]]
            style = "--" if name == LIMIT else "-"
            axes.plot([point[first] for point in found[key]], medians, style, marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel=first, ylabel="CPU ms")
        if first == "tasks":
            axes.set_xticks([point["tasks"] for point in found[key]], minor=True, labels=[])
            axes.set_xticks([2, 4, 8, 16, 32], labels=["2", "4", "8", "16", "32"])
        axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def draw_memory(path: Path) -> None:
    """Draws the bytes alive over a backward."""
    memory = load("end_to_end.json")["memory"]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, found in memory["by"].items():
        seconds, alive = zip(*found["curve"], strict=True)
        axes.plot(seconds, [size / 1e6 for size in alive], drawstyle="steps-post", label=f"tasks are {name}")
    axes.set(xlabel="seconds into the step", ylabel="MB beside the parameters", ylim=0)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})
