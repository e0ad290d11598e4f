"""From the task losses of one iteration to updates of the parameters: the ``update`` of an experiment."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradsurgery import GSE, PCGrad

from .experiments import Update

Losses = Mapping[str, Callable[[], Tensor]]
"""By task, a callable that runs the forward and returns the loss, 0-d; each update calls it anew."""


class Updater:
    """One way to update the parameters from several losses.

    Attributes:
        optimizer: What is checkpointed: the optimizer, wrapped where the update needs it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, losses: Losses) -> None:
        """Makes one iteration's updates."""
        raise NotImplementedError


class SeparateUpdates(Updater):
    """A whole update for each task, one after the other: the paper's baseline."""

    def step(self, losses: Losses) -> None:
        """Makes one update a task, in the losses' order; each sees what the one before it changed."""
        for loss in losses.values():
            self.optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


class SummedUpdate(Updater):
    """One update with the gradient of the summed loss, its terms back-propagated one by one."""

    def step(self, losses: Losses) -> None:
        """Makes one update."""
        self.optimizer.zero_grad()
        for loss in losses.values():
            loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class SurgeryUpdate(Updater):
    """The updates of a gradsurgery optimizer."""

    def __init__(self, optimizer: PCGrad | GSE) -> None:
        super().__init__(optimizer)
        self.surgery = optimizer

    def step(self, losses: Losses) -> None:
        """Makes one update with PCGrad, two with GSE."""
        self.surgery.zero_grad()
        self.surgery.backward(losses)
        self.surgery.step()


def build(update: Update, optimizer: Optimizer, *, seed: int) -> Updater:
    """Returns the updater of this name around an optimizer.

    Args:
        update: The experiment's ``update``.
        optimizer: The one optimizer whose moments all updates share.
        seed: Seed of the surgery's random order.

    Raises:
        ValueError: If the row trains nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    if update == "separate":
        return SeparateUpdates(optimizer)
    if update == "sum":
        return SummedUpdate(optimizer)
    if update == "pcgrad":
        return SurgeryUpdate(PCGrad(optimizer, generator=generator))
    if update in ("gse", "gse-reuse"):
        surgery = PCGrad(optimizer, reduction="mean", generator=generator)
        return SurgeryUpdate(GSE(surgery, second_update="recompute" if update == "gse" else "reuse"))
    raise ValueError(f"update {update!r} trains nothing; choose a row that does")
