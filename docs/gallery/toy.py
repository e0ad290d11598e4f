"""Two losses that conflict, in two parameters: where every method goes from three starts.

The losses are the toy problem of CAGrad (Liu et al. 2021, arXiv 2110.14048, appendix): valleys that lead past
each other above, and below two bowls whose best compromises are the line between their centres.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import gradsurgery as gs

from .style import GREY, PALETTE, styled

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))
STEPS, KEPT, LR = 2000, 20, 0.02  # every 20th point is kept
CENTRES = ((7.0, -8.0), (-7.0, -8.0))

Wrap = Callable[[torch.optim.Optimizer], torch.optim.Optimizer]
METHODS: dict[str, Wrap] = {
    "Sum": gs.Sum,
    "PCGrad": gs.PCGrad,
    "GSE": gs.GSE,
    "GradVac": gs.GradVac,
    "UPGrad": gs.UPGrad,
    "DualProj": gs.DualProj,
    "MGDA": gs.MGDA,
    "CAGrad": gs.CAGrad,
    "NashMTL": gs.NashMTL,
    "IMTLG": gs.IMTLG,
    "ConFIG": gs.ConFIG,
    "AlignedMTL": gs.AlignedMTL,
    "RLW": gs.RLW,
}


def losses(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both losses at points ``(..., 2)``."""
    x, y = theta.unbind(-1)
    above, below = (0.5 * y).tanh().clamp(min=0), (-0.5 * y).tanh().clamp(min=0)
    valleys = [
        (0.5 * (-x + shift) + y.tanh() + offset).abs().clamp(min=5e-6).log() + 6
        for shift, offset in ((-7, 0), (3, 2))
    ]
    bowls = [((x - cx).square() + 0.1 * (y - cy).square()) / 10 - 20 for cx, cy in CENTRES]
    first, second = (above * v + below * b for v, b in zip(valleys, bowls, strict=True))
    return first, second


def path(wrap: Wrap, start: tuple[float, float], steps: int = STEPS) -> list[list[float]]:
    """Returns the points that a method passes, the start first: each ``KEPT``-th and the last."""
    theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer: Any = wrap(torch.optim.Adam([theta], lr=LR))
    points = [theta.tolist()]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        optimizer.backward([lambda: losses(theta)[0], lambda: losses(theta)[1]])
        optimizer.step()
        if step % KEPT == 0:
            points.append([round(x, 4) for x in theta.tolist()])
    return points


def measure() -> dict[str, Any]:
    """Returns every method's paths, one from each start."""
    return {name: [path(wrap, start) for start in STARTS] for name, wrap in METHODS.items()}


def reaches(points: list[list[float]]) -> bool:
    """Whether a path ends within 0.5 of the Pareto set, the line between the bowls' centres."""
    (right, y), (left, _) = CENTRES
    x, height = points[-1]
    return left - 0.5 <= x <= right + 0.5 and abs(height - y) <= 0.5


@styled
def draw(found: dict[str, Any], path: Path) -> None:
    """Draws a panel for each method over the contours of the losses' sum, and one panel for each loss."""
    grid = torch.linspace(-11, 11, 221, dtype=torch.float64)
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    first, second = losses(torch.stack([x, y], dim=-1))
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(3, 5, sharex=True, sharey=True).flat
    for title, values in (("the first loss", first), ("the second loss", second)):
        panel = next(panels)
        panel.contourf(x, y, values, levels=24, cmap="viridis")
        panel.set_title(title, style="italic")
    for name, paths in found.items():
        panel = next(panels)
        panel.contour(x, y, first + second, levels=24, cmap="Greys", linewidths=0.6, alpha=0.7)
        (right, height), (left, _) = CENTRES
        panel.plot([left, right], [height] * 2, color="0.35", linewidth=5, alpha=0.45, solid_capstyle="round")
        for points, colour in zip(paths, PALETTE, strict=False):
            panel.plot(*zip(*points, strict=True), color=colour, linewidth=1.8)
            panel.plot(*points[0], "o", color=colour, markersize=5)
            panel.plot(*points[-1], "*", color=colour, markersize=13, markeredgecolor="white")
        panel.set_title(f"{name}: {sum(map(reaches, paths))} of {len(paths)}")
    for panel in figure.axes:
        panel.set(xlim=(-11, 11), ylim=(-11, 11), xticks=[], yticks=[])
        panel.spines[:].set_visible(True)
        panel.spines[:].set_color(GREY)
    figure.savefig(path, metadata={"Software": None})
