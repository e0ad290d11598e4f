"""SMART on two classes in the plane: the ball around a point, where it moves to, and what that does."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from smartreg import SMART, symmetric_kl

from .style import BLUE, GREY, ORANGE, VERMILION, styled

EPSILON, WEIGHT, STEPS, EXTENT, POINTS = 0.25, 3.0, 400, 2.4, 61
POINT = 5
"""The training point whose ball is drawn."""


def data(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns points ``(N, 2)`` on two interleaved half circles with noise, and their classes ``(N,)``."""
    labels = torch.arange(number) % 2
    angles = torch.rand(number, generator=generator) * torch.pi
    sign = 1.0 - 2.0 * labels
    circles = torch.stack([angles.cos() * sign + labels - 0.5, angles.sin() * sign + 0.5 * labels - 0.25], 1)
    return 1.2 * circles + 0.3 * torch.randn(number, 2, generator=generator), labels


def regularizer(num_steps: int = 1) -> SMART:
    """Returns the penalty with a ball that can be seen."""
    return SMART(epsilon=EPSILON, step_size=EPSILON, noise_std=EPSILON / 10, num_steps=num_steps)


def train(x: Tensor, labels: Tensor, *, weight: float, steps: int = STEPS) -> nn.Module:
    """Returns a small network, trained with ``weight`` times the penalty beside the cross entropy."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer, smart = torch.optim.Adam(model.parameters(), lr=1e-2), regularizer()
    for _ in range(steps):
        optimizer.zero_grad()
        outputs, penalty = smart.penalize(model, x)
        (cross_entropy(outputs, labels) + weight * penalty).backward()
        optimizer.step()
    return model


def moved(model: nn.Module, x: Tensor) -> Tensor:
    """Returns where SMART moves points ``(N, 2)``: what the model is called with last."""
    calls: list[Tensor] = []

    def forward(embeddings: Tensor) -> Tensor:
        calls.append(embeddings.detach())
        return model(embeddings)

    regularizer().penalize(forward, x)
    return calls[-1]


def square(centre: Tensor, half: float) -> Tensor:
    """Returns a grid of points ``(N, N, 2)`` around a centre."""
    grid = torch.linspace(-half, half, POINTS)
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    return torch.stack([x, y], -1) + centre


@torch.no_grad()
def described(model: nn.Module, x: Tensor, test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Returns a model's scores on other points, its map of the plane, and what SMART finds there."""
    points, labels = test
    generator = torch.Generator().manual_seed(2)
    found = regularizer().diagnose(model, x, samples=8)
    noisy = points + EPSILON * torch.randn(points.shape, generator=generator)
    return {
        "accuracy": (model(points).argmax(1) == labels).double().mean().item(),
        "accuracy with noise": (model(noisy).argmax(1) == labels).double().mean().item(),
        "cross entropy": cross_entropy(model(points), labels).item(),
        "adversarial": found.adversarial,
        "random": found.random,
        "gain": found.gain,
        "map": _rounded(model(square(torch.zeros(2), EXTENT)).softmax(-1)[..., 1]),
    }


def measure() -> dict[str, Any]:
    """Returns the data, the ball of one point of the plain network, and what either network is like."""
    generator = torch.Generator().manual_seed(1)
    x, labels = data(60, generator)
    test = data(4000, generator)
    plain, smooth = (train(x, labels, weight=weight) for weight in (0.0, WEIGHT))
    centre = x[POINT]
    with torch.no_grad():
        around = plain(square(centre, 1.4 * EPSILON))
        clean = plain(centre.expand(POINTS, POINTS, 2))
        pairs = zip(around.flatten(0, 1).split(1), clean.flatten(0, 1).split(1), strict=True)
        ball = torch.tensor([symmetric_kl(p, c).item() for p, c in pairs]).view(POINTS, POINTS)
    torch.manual_seed(0)
    return {
        "points": _rounded(x),
        "labels": labels.tolist(),
        "moved": _rounded(torch.stack([moved(plain, x) for _ in range(12)])),
        "ball": _rounded(ball),
        "without": described(plain, x, test),
        "with": described(smooth, x, test),
    }


@styled
def draw(found: dict[str, Any], path: Path) -> None:
    """Draws R in the ball of a point, and both networks' maps of the plane."""
    figure = Figure(figsize=(12.5, 4.3), layout="constrained")
    ball, without, beside = figure.subplots(1, 3)
    x, y = found["points"][POINT]
    half = 1.4 * EPSILON
    image = ball.imshow(
        found["ball"], origin="lower", extent=(x - half, x + half, y - half, y + half), cmap="magma_r"
    )
    figure.colorbar(image, ax=ball, label="R: divergence from the outputs at x", shrink=0.85)
    ball.add_patch(Rectangle((x - EPSILON, y - EPSILON), 2 * EPSILON, 2 * EPSILON, fill=False, linewidth=1.5))
    for draws in found["moved"]:
        end = draws[POINT]
        ball.annotate("", end, (x, y), arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 1.6})
    ball.plot(x, y, "o", color="black")
    ball.text(x, y - 0.035, "x", ha="center", va="top")
    ball.set_title(f"one x, its ball (ε = {EPSILON:g}) and SMART's x + δ")
    for panel, name, title in ((without, "without", "trained without SMART"), (beside, "with", "with SMART")):
        extent = (-EXTENT, EXTENT, -EXTENT, EXTENT)
        panel.imshow(
            found[name]["map"], origin="lower", extent=extent, cmap="RdBu", vmin=0, vmax=1, alpha=0.75
        )
        panel.contour(found[name]["map"], levels=[0.5], extent=extent, colors="black", linewidths=1.2)
        for label, colour, mark in ((0, VERMILION, "o"), (1, BLUE, "s")):
            chosen = [p for p, own in zip(found["points"], found["labels"], strict=True) if own == label]
            panel.plot(*zip(*chosen, strict=True), mark, color=colour, markeredgecolor="white", markersize=6)
        panel.add_patch(
            Rectangle(
                (x - EPSILON, y - EPSILON), 2 * EPSILON, 2 * EPSILON, fill=False, color=ORANGE, linewidth=2
            )
        )
        panel.set_title(f"{title}: R = {found[name]['adversarial']:.2g}")
    for panel in figure.axes[:3]:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(True)
        panel.spines[:].set_color(GREY)
    figure.savefig(path, metadata={"Software": None})


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=4).tolist()
