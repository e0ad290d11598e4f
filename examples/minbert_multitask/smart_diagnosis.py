"""What SMART's penalty consists of in a row, before its training: verdicts, a file and a picture."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import smartreg
from smartreg import SMART, Diagnosis
from smartreg.plots import plot_sweep

from .batches import Batches, TokenizedExamples
from .bert import BertModel
from .comparable import LABELS
from .experiments import Experiment
from .files import read_json, write_atomically
from .inputs import Inputs
from .model import MultitaskModel
from .regularization import GRADIENT_SHARE, Point, regularizers
from .settings import Settings
from .typed_json import from_plain, to_plain

EPSILONS = tuple(10.0**exponent for exponent in range(-6, 1))
FORMAT, VERSION = "minbert-multitask SMART diagnosis", 1


@dataclass(frozen=True, kw_only=True)
class TaskDiagnosis:
    """One task's.

    Attributes:
        published: At the row's ε, with dropout as the row has it.
        sweep: At many ε, with shared dropout: the gradient share is the perturbation's alone.
        calibrated_epsilon: With shared dropout, the ε at which the gradient share is a tenth; None where no ε
            between 1e-6 and 1 gives it.
    """

    published: Diagnosis
    sweep: tuple[Diagnosis, ...]
    calibrated_epsilon: float | None


def diagnose(
    experiment: Experiment,
    settings: Settings,
    tokens: Mapping[tuple[str, str], TokenizedExamples],
    weights: Path,
    *,
    samples: int,
) -> Iterator[tuple[str, TaskDiagnosis]]:
    """Yields each task and its diagnosis at the first training batch, where the heads are still new.

    Args:
        experiment: A row with SMART in a ball.
        settings: The seed, the batch size, the layers and the device.
        tokens: The tokenised data.
        weights: The folder of the pretrained weights.
        samples: How many draws of noise and dropout the means are over.
    """
    torch.manual_seed(settings.seed)
    encoder = BertModel.from_pretrained(weights, num_layers=settings.layers)
    device = settings.torch_device()
    model = MultitaskModel(encoder, experiment).to(device).train()
    for task, smart in regularizers(model, experiment).items():
        batches = Batches(
            tokens[task, "train"], task=task, batch_size=settings.batch_size, seed=settings.seed
        )
        point = Point.of(model, task, batches.at(0, 0).to(device))
        options: dict[str, Any] = {
            "loss": point.loss,
            "parameters": list(model.parameters()),
            "weight": experiment.smart_weight,
            "mask": point.masks,
        }
        shared = SMART(divergence=smart.divergence, dropout="shared")
        published = smart.diagnose(point.forward, point.embeddings, samples=samples, **options)
        sweep = shared.sweep(point.forward, point.embeddings, epsilons=EPSILONS, samples=samples, **options)
        calibrated = None
        shares = [one.gradient_share for one in sweep if one.gradient_share is not None]
        if shares[0] < GRADIENT_SHARE < max(shares):
            calibrated = shared.calibrate(
                point.forward, point.embeddings, target=GRADIENT_SHARE, **options
            ).perturbation.epsilon
        yield task, TaskDiagnosis(published=published, sweep=sweep, calibrated_epsilon=calibrated)


def describe(inputs: Inputs, settings: Settings) -> dict[str, Any]:
    """Returns what a diagnosis was made with."""
    return {
        "data": {"name": inputs.data_name, "fingerprint": inputs.dataset.fingerprint},
        "weights": {"name": Path(settings.weights).name, "layers": settings.layers},
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "versions": {"torch": torch.__version__, "smartreg": smartreg.__version__},
    }


def save(found: Mapping[str, TaskDiagnosis], made_with: Mapping[str, Any], path: Path) -> None:
    """Writes all of it as JSON.

    Raises:
        OSError: If the disk is full or read-only.
    """
    content = {"format": FORMAT, "version": VERSION, **made_with, "tasks": to_plain(dict(found))}
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, TaskDiagnosis]:
    """Reads the diagnoses back.

    Raises:
        ValueError: If the file holds something else.
        OSError: If it cannot be read.
    """
    remedy = "make one with `minbert diagnose-smart`"
    content = read_json(path, remedy=remedy)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise ValueError(f"{path} is no diagnosis of this version; {remedy}")
    found: dict[str, TaskDiagnosis] = from_plain(
        content.get("tasks"), dict[str, TaskDiagnosis], place=f"{path}: tasks"
    )
    return found


def summary(task: str, found: TaskDiagnosis) -> list[str]:
    """Returns what a practitioner needs to know of a task, in two lines."""
    epsilon = found.calibrated_epsilon
    calibrated = "there is none" if epsilon is None else f"take epsilon {epsilon:.2g}"
    return [
        f"{task}: epsilon {found.published.epsilon:g} is {found.published.verdict}",
        f"{task}: for a tenth of the task's gradient, with shared dropout, {calibrated}",
    ]


def draw(found: Mapping[str, TaskDiagnosis], made_with: Mapping[str, Any]) -> Figure:
    """Returns the figure: a column a task, with the published and the calibrated ε."""
    marked = {}
    for task, one in found.items():
        marked[LABELS[task]] = {"published ε": one.published.epsilon}
        if one.calibrated_epsilon is not None:
            marked[LABELS[task]]["calibrated ε (gradient share 0.1)"] = one.calibrated_epsilon
    figure = plot_sweep({LABELS[task]: one.sweep for task, one in found.items()}, marked=marked)
    data, weights = made_with["data"]["name"], made_with["weights"]["name"]
    title = f"SMART at the first batch of each task, dropout shared (data: {data}; weights: {weights})"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure
