"""What the methods make of two gradients in conflict, in a plane of two parameters."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from .style import BLUE, GREEN, GREY, PALETTE, VERMILION, styled
from .toy import METHODS

GRADIENTS = ((0.9, 0.15), (-1.5, 1.1))


def update(name: str) -> list[float]:
    """Returns half of what a method writes into ``.grad``, the scale of a mean."""
    theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer: Any = METHODS[name](torch.optim.SGD([theta]))
    rows = torch.tensor(GRADIENTS, dtype=torch.float64)
    optimizer.backward([lambda: rows[0] @ theta, lambda: rows[1] @ theta])
    return [x / len(rows) for x in theta.grad.tolist()]


def measure() -> dict[str, Any]:
    """Returns each method's update but GSE's, whose first one is PCGrad's, and RLW's, which is random."""
    return {name: update(name) for name in METHODS if name not in ("GSE", "RLW")}


@styled
def draw(found: dict[str, Any], path: Path) -> None:
    """Draws PCGrad's construction, the updates in the plane, and their cosines with the gradients."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    construction, plane, angles = figure.subplots(1, 3, width_ratios=(1, 1, 0.95))
    first, second = torch.tensor(GRADIENTS, dtype=torch.float64)
    kept = [g - (g @ o) / (o @ o) * o for g, o in ((first, second), (second, first))]
    for panel in (construction, plane):
        _cone(panel)
        _arrow(panel, first, BLUE, "$g_1$")
        _arrow(panel, second, VERMILION, "$g_2$")
        panel.set(xlim=(-1.65, 1.15), ylim=(-0.75, 1.5), aspect="equal", xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for g, part, colour, name in zip((first, second), kept, (BLUE, VERMILION), "12", strict=True):
        construction.plot(*torch.stack([g, part]).T, ":", color=colour)
        _arrow(construction, part, colour, f"$g_{name}'$", alpha=0.55)
    _arrow(construction, sum(kept) / 2, GREEN, "PCGrad")
    _arrow(construction, (first + second) / 2, GREY, "mean", aside=(-0.12, 0.06))
    construction.set_title("each gradient loses what opposes the other")
    distinct: dict[tuple[float, ...], list[str]] = {}
    for name, d in found.items():
        distinct.setdefault(tuple(round(x, 3) for x in d), []).append(name)
    for k, ((x, y), names) in enumerate(distinct.items()):
        colour, mark = (*PALETTE, GREY, "#8b5a2b")[k], "os^vDP*X<"[k]
        plane.plot([0, x], [0, y], color=colour, linewidth=1.2)
        plane.plot(x, y, mark, color=colour, markersize=7, label=", ".join(names))
    plane.legend(loc="lower center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=8)
    plane.set_title("where the methods go (as means)")
    names = [*found]
    for g, colour, mark in ((first, BLUE, "o"), (second, VERMILION, "s")):
        cosines = [float(torch.tensor(found[n], dtype=torch.float64) @ g) for n in names]
        lengths = [float(g.norm()) * torch.tensor(found[n]).norm().item() for n in names]
        shown = [c / length for c, length in zip(cosines, lengths, strict=True)]
        angles.plot(shown, range(len(names)), mark, color=colour, label=f"$g_{1 if mark == 'o' else 2}$")
    angles.axvline(0, color="0.3", linewidth=0.8)
    angles.set_yticks(range(len(names)), names)
    angles.invert_yaxis()
    angles.set(xlabel="cosine of the update with a gradient", xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))
    angles.legend(loc="lower left")
    angles.set_title("left of 0 a task is made worse")
    figure.savefig(path, metadata={"Software": None})


def _arrow(
    panel: Any, end: Any, colour: str, label: str, *, alpha: float = 1.0, aside: Any = (0.03, 0.04)
) -> None:
    x, y = (float(v) for v in end)
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "alpha": alpha, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", (x, y), (0, 0), arrowprops=style)
    panel.text(x + aside[0], y + aside[1], label, color=colour)


def _cone(panel: Any) -> None:
    """Shades the directions that conflict with neither gradient."""
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    free = torch.stack([a * x + b * y for a, b in GRADIENTS]).amin(0)
    panel.contourf(x, y, free, levels=[0, 100], colors=["#e5f4ee"])
