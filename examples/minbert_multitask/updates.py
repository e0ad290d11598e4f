"""From the task losses of one iteration to updates of the parameters: the ``update`` of an experiment."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

import gradsurgery
from gradsurgery import DWA, GSE, GradientSurgery, PCGrad, UncertaintyWeighting

from . import ranks
from .experiments import TASKS, Method, Update

Losses = Mapping[str, Callable[[], Tensor]]
"""By task, a callable that runs the forward and returns the loss, 0-d; each update calls it anew."""


METHODS: dict[Method, type[GradientSurgery]] = {
    "pcgrad": gradsurgery.PCGrad,
    "cagrad": gradsurgery.CAGrad,
    "upgrad": gradsurgery.UPGrad,
    "mgda": gradsurgery.MGDA,
    "nash-mtl": gradsurgery.NashMTL,
    "aligned-mtl": gradsurgery.AlignedMTL,
    "imtl-g": gradsurgery.IMTLG,
    "config": gradsurgery.ConFIG,
}
"""The methods of gradsurgery by the name of the update."""


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

    def end_epoch(self) -> None:
        """Is called at each epoch's end."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what decides the further updates besides the parameters."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])


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


class BalancedUpdate(SummedUpdate):
    """One update with the gradient of the sum of balanced losses; what balances them is trained along."""

    def __init__(self, optimizer: Optimizer, balance: UncertaintyWeighting | DWA) -> None:
        super().__init__(optimizer)
        self.balance = balance

    def step(self, losses: Losses) -> None:
        """Makes one update."""
        super().step(cast(Losses, self.balance(losses)))  # of callables, callables
        if isinstance(self.balance, DWA):  # its sums, not copies of them, which hold this rank's losses
            for total, _ in self.balance.state_dict()["sums"].values():
                ranks.mean(total)

    def end_epoch(self) -> None:
        """Lets the balance weigh anew where it does so by epochs."""
        if isinstance(self.balance, DWA):
            self.balance.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state and the balance's."""
        return {**super().state_dict(), "balance": self.balance.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.balance.load_state_dict(state["balance"])


class SurgeryUpdate(Updater):
    """The updates of a gradsurgery optimizer."""

    def __init__(self, optimizer: GradientSurgery | GSE) -> None:
        super().__init__(optimizer)
        self.surgery = optimizer

    def step(self, losses: Losses) -> None:
        """Makes one update, two with GSE."""
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
    if update == "uncertainty":
        balance = UncertaintyWeighting(TASKS).to(optimizer.param_groups[0]["params"][0].device)
        optimizer.add_param_group({"params": list(balance.parameters())})
        return BalancedUpdate(optimizer, balance)
    if update == "dwa":
        return BalancedUpdate(optimizer, DWA())
    if update in METHODS:
        return SurgeryUpdate(METHODS[update](optimizer, generator=generator))
    if update in ("gse", "gse-reuse"):
        surgery = PCGrad(optimizer, reduction="mean", generator=generator)
        return SurgeryUpdate(GSE(surgery, second_update="recompute" if update == "gse" else "reuse"))
    raise ValueError(f"update {update!r} trains nothing; choose a row that does")
