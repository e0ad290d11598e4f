"""A task's loss, with SMART's penalty and the Bregman proximal point's where the row asks for them."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from smartreg import SMART, BregmanProximalPoint

from . import ranks
from .batches import Batch
from .experiments import TASKS, Experiment
from .model import Embeddings, Masks, MultitaskModel

FIRST_MOMENTUM, MOMENTUM, FIRST_UPDATES = 0.99, 0.999, 0.1
"""The proximal point's β as in the paper of SMART: the first for a tenth of the updates, then the other."""
PUBLISHED_EPSILON = 1e-5
"""ε, with which go η = 100 ε and σ = ε."""
GRADIENT_SHARE = 0.1
"""Where a row calibrates ε: the penalty's gradient in units of the task's."""


@dataclass(frozen=True)
class Point:
    """What SMART is called with at a batch, and L there.

    Attributes:
        forward: From the embedding block's outputs to the task's outputs.
        embeddings: The embedding block's outputs.
        masks: Their masks.
        loss: From the task's outputs to L.
    """

    forward: Callable[[Any], Tensor]
    embeddings: Embeddings
    masks: Masks
    loss: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, model: MultitaskModel, task: str, batch: Batch) -> "Point":
        """Returns that of a task's batch."""
        embeddings, masks = model.embed(task, batch)
        return cls(
            forward=partial(model.outputs, task, masks=masks),
            embeddings=embeddings,
            masks=masks,
            loss=lambda outputs: model.head(task).loss(outputs, batch.labels),
        )


class TaskLoss:
    """The function from a task and a batch to the loss, 0-d, that a row minimises.

    Args:
        model: The model.
        experiment: The row.

    Raises:
        ValueError: If the row puts SMART's penalty on pairs in one row, and several ranks train it.

    Attributes:
        regularizers: SMART by task, where the row penalises it.
        proximal: The teacher, where the row has one.
        epsilons: ε by task, where the row calibrates it and that has been done.
    """

    def __init__(self, model: MultitaskModel, experiment: Experiment) -> None:
        self.model = model
        self.experiment = experiment
        self.regularizers = regularizers(model, experiment)
        # A rank would take its noise from where its pairs begin in two rows each, not in one.
        if ranks.world() > 1 and any(model.head(task).joint for task in self.regularizers):
            raise ValueError(
                f"SMART on pairs in one row must be trained by one process, got {ranks.world()} ranks; "
                "start it without torchrun"
            )
        self.proximal = BregmanProximalPoint(model) if experiment.bregman_weight else None
        self.epsilons: dict[str, float] = {}

    def __call__(self, task: str, batch: Batch) -> Tensor:
        """Returns the loss."""
        point = Point.of(self.model, task, batch)
        if task in self.regularizers:
            smart = self._on_share(self.regularizers[task], batch)
            outputs, penalty = smart.penalize(point.forward, point.embeddings, mask=point.masks)
            loss = point.loss(outputs) + self.experiment.smart_weight * penalty
        else:
            outputs = point.forward(point.embeddings)
            loss = point.loss(outputs)
        if self.proximal is not None:
            divergence = self.model.head(task).divergence
            target = self.proximal.target(task, batch)
            loss = loss + self.experiment.bregman_weight * divergence(outputs, target)
        return loss

    def _on_share(self, smart: SMART, batch: Batch) -> SMART:
        """Returns SMART for a rank's share: the library steps along a batch mean's gradient, then larger."""
        if self.experiment.smart != "smart-pytorch":
            return smart
        scaled = copy(smart)
        step_size = smart.perturbation.step_size * batch.share
        scaled.perturbation = replace(smart.perturbation, step_size=step_size)
        return scaled

    def calibrate(self, batches: Mapping[str, Sequence[Batch]]) -> None:
        """Sets each task's ε, where the row calibrates it: the geometric mean over batches.

        Args:
            batches: By task, the batches to calibrate on, on the model's device.

        Raises:
            ValueError: If no ε gives the gradient share that is aimed at.
        """
        if not self.experiment.smart_calibrated:
            return
        for task, smart in self.regularizers.items():
            found = []
            for batch in batches[task]:
                point = Point.of(self.model, task, batch)
                calibrated = smart.calibrate(
                    point.forward,
                    point.embeddings,
                    loss=point.loss,
                    parameters=self.model.parameters(),
                    weight=self.experiment.smart_weight,
                    mask=point.masks,
                    target=GRADIENT_SHARE,
                )
                found.append(calibrated.perturbation.epsilon)
            self.epsilons[task] = math.exp(math.fsum(map(math.log, found)) / len(found))
        self.regularizers = regularizers(self.model, self.experiment, self.epsilons)

    def update(self, progress: float) -> None:
        """Moves the teacher towards the model, after the optimizer's step.

        Args:
            progress: The share of the training that is done, in [0, 1].
        """
        if self.proximal is not None:
            self.proximal.momentum = FIRST_MOMENTUM if progress <= FIRST_UPDATES else MOMENTUM
            self.proximal.update()

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs: the teacher, and each calibrated ε."""
        return {
            "epsilons": dict(self.epsilons),
            "proximal": None if self.proximal is None else self.proximal.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` returned."""
        self.epsilons = dict(state["epsilons"])
        self.regularizers = regularizers(self.model, self.experiment, self.epsilons)
        if self.proximal is not None:
            self.proximal.load_state_dict(state["proximal"])


def regularizers(
    model: MultitaskModel, experiment: Experiment, epsilons: Mapping[str, float] | None = None
) -> dict[str, SMART]:
    """Returns SMART by task, where a row penalises it.

    Args:
        model: The model, whose heads tell what outputs are compared with.
        experiment: The row.
        epsilons: ε by task, to which η and σ keep their ratio; by default the published one.
    """
    if experiment.smart is None:
        return {}
    # smart-pytorch takes the clean outputs for constants, and of QQP's one logit a softmax: no penalty there.
    as_library = experiment.smart == "smart-pytorch"
    found = {}
    for task in TASKS:
        if as_library and task == "qqp":
            continue
        epsilon = (epsilons or {}).get(task, PUBLISHED_EPSILON)
        found[task] = SMART(
            preset=experiment.smart,
            divergence=model.head(task).divergence,
            epsilon=None if as_library else epsilon,
            step_size=100 * epsilon,
            noise_std=epsilon,
            # Only so is the share of the gradient that is calibrated the perturbation's, not that of dropout.
            dropout="shared" if experiment.smart_calibrated else "independent",
            detach_clean=as_library,
        )
    return found
