"""Learning curves of several methods: three regressions of unequal size through one narrow trunk."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .style import PALETTE, styled
from .toy import METHODS

SHOWN = ("Sum", "PCGrad", "CAGrad", "NashMTL", "AlignedMTL")
SIZES = {"small": 0.3, "middle": 1.0, "large": 3.0}
"""By task, the standard deviation of its targets, in whose square its loss counts."""
SEEDS, STEPS, EVERY, INPUTS, BATCH = 5, 300, 30, 12, 64


def problem(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns inputs ``(N, 12)`` and by task targets ``(N, 1)``: random networks' outputs, standardised."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2048, INPUTS, generator=generator)
    targets = {}
    for task, size in SIZES.items():
        first = torch.randn(INPUTS, 8, generator=generator) / INPUTS**0.5
        y = (2 * x @ first).tanh() @ torch.randn(8, 1, generator=generator)
        targets[task] = size * (y - y.mean()) / y.std()
    return x, targets


def curve(name: str, seed: int, steps: int = STEPS) -> dict[str, list[float]]:
    """Returns by task the error on unseen inputs, of the targets' variance, at each ``EVERY``-th step."""
    x, targets = problem(seed)
    torch.manual_seed(seed)
    trunk, heads = nn.Sequential(nn.Linear(INPUTS, 10), nn.Tanh()), nn.ModuleDict()
    heads.update({task: nn.Linear(10, 1) for task in SIZES})
    parameters = [*trunk.parameters(), *heads.parameters()]
    optimizer: Any = METHODS[name](torch.optim.Adam(parameters, lr=1e-2))
    batches = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {task: [] for task in SIZES}
    for step in range(steps + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                for task, size in SIZES.items():
                    error = mse_loss(heads[task](trunk(x[1024:])), targets[task][1024:])
                    found[task].append(round(error.item() / size**2, 5))
        rows = torch.randint(1024, (BATCH,), generator=batches)
        features = trunk(x[rows])
        optimizer.zero_grad()
        optimizer.backward({t: mse_loss(heads[t](features), targets[t][rows]) for t in SIZES})
        optimizer.step()
    return found


def measure() -> dict[str, Any]:
    """Returns each method's curves, one for each seed."""
    return {name: [curve(name, seed) for seed in range(SEEDS)] for name in SHOWN}


def ends(found: dict[str, Any], name: str, task: str) -> tuple[float, float]:
    """Returns a method's mean error at the end, and its standard error over the seeds."""
    values = [run[task][-1] for run in found[name]]
    return fmean(values), stdev(values) / len(values) ** 0.5


@styled
def draw(found: dict[str, Any], path: Path) -> None:
    """Draws a panel for each task: means over the seeds, and their standard errors as bands."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for panel, (task, size) in zip(figure.subplots(1, 3, sharey=True), SIZES.items(), strict=True):
        for k, (name, runs) in enumerate(found.items()):
            values = list(zip(*(run[task] for run in runs), strict=True))
            steps = [EVERY * n for n in range(len(values))]
            means = [fmean(v) for v in values]
            errors = [stdev(v) / len(v) ** 0.5 for v in values]
            colour, style = PALETTE[k % 7], "--" if name == "Sum" else "-"
            panel.plot(steps, means, style, color=colour, label=name, linewidth=1.8)
            low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
            panel.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        panel.set(yscale="log", xlabel="steps")
        panel.set_title(f"{task}: targets of size {size:g}")
    figure.axes[0].set_ylabel("error on unseen inputs, of the variance")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, metadata={"Software": None})
