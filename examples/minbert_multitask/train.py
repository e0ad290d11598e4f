"""The training loop of one row: epochs, dev scores, the best epoch, and a state to go on from."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import probe, ranks, updates
from .batches import Batch, Batches, TokenizedExamples
from .checkpoint import restore_rng_state, rng_state
from .evaluate import Predictions, TaskPredictions
from .experiments import TASKS, Experiment
from .inference import autocast, point_scores, predict_split, predictor
from .model import MultitaskModel
from .regularization import TaskLoss
from .results import ConflictSample, Epoch
from .settings import Settings
from .shares import Share
from .typed_json import from_plain, to_plain

CALIBRATION_BATCHES = 4
"""How many of the first training batches of each task ε is calibrated on."""


def epoch_iterations(experiment: Experiment, settings: Settings) -> int:
    """Returns how many iterations an epoch of a row has; 0 for a row that trains nothing."""
    return 0 if experiment.update == "none" else settings.iterations * experiment.epoch_multiple


class Trainer:
    """Trains one row.

    Everything that decides how training goes on is in :meth:`state_dict`, so that a run which was stopped and
    goes on from it ends with the very weights of one that was not, on the CPU to the last bit.

    Args:
        experiment: The row.
        settings: The schedule.
        model: The model, on the run's device; trained in place.
        tokens: The tokenised data.
        report: Called after each iteration with the iterations done and the last dev score in words.

    Attributes:
        epochs: The history so far.
        conflicts: The cosines measured so far.
        task_loss: What is minimised.
        best: The best epoch's weights, on the CPU.
        best_dev: The best epoch's predictions on dev.
        seconds: Time spent, interruptions left out.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: Settings,
        *,
        model: MultitaskModel,
        tokens: Mapping[tuple[str, str], TokenizedExamples],
        report: Callable[[int, str], None],
    ) -> None:
        self.experiment = experiment
        self.settings = settings
        self.model = model
        self.tokens = tokens
        self.report = report
        self.iterations = epoch_iterations(experiment, settings)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, fused=True
        )
        self.updater = updates.build(experiment.update, optimizer, seed=settings.seed)
        if not isinstance(self.updater, updates.SurgeryUpdate):  # which averages by itself
            ranks.average_before_each_step(optimizer)
        self.task_loss = TaskLoss(model, experiment)
        self._batches, self._probe_batches = (
            {
                task: Batches(
                    tokens[task, "train"], task=task + use, batch_size=settings.batch_size, seed=settings.seed
                )
                for task in TASKS
            }
            for use in ("", " probe")
        )
        self.epoch = 0
        self.iteration = 0
        self.epochs: list[Epoch] = []
        self.conflicts: list[ConflictSample] = []
        self.best: dict[str, Tensor] = {}
        self.best_dev: Predictions = {}
        self.seconds = 0.0
        self._loss_sums = torch.zeros(len(TASKS), dtype=torch.float64, device=settings.torch_device())

    def train(self, save: Callable[[], None]) -> None:
        """Trains to the end of the schedule.

        Args:
            save: Called where a run may go on from: at each epoch's end, and every ``checkpoint_every``
                iterations.

        Raises:
            ValueError: If a loss is not finite.
        """
        clock = time.monotonic() - self.seconds
        every = self.settings.checkpoint_every
        self.model.train()
        while self.epoch < self.settings.epochs:
            while self.iteration < self.iterations:
                if every and self.iteration and self.iteration % every == 0:
                    self.seconds = time.monotonic() - clock
                    self._mean_losses()  # a diverged state must not replace a sound one
                    save()
                self._iterate()
                self.iteration += 1
                self.report(self.epoch * self.iterations + self.iteration, self._note())
            self.seconds = time.monotonic() - clock
            self._end_epoch()
            self.seconds = time.monotonic() - clock
            save()

    def best_epoch(self) -> int:
        """Returns the epoch of the highest overall score on dev, the first of equals."""
        return max(self.epochs, key=lambda epoch: epoch.dev["overall"]).epoch

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that decides how training goes on, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "updater": self.updater.state_dict(),
            "task_loss": self.task_loss.state_dict(),
            "generators": rng_state(),
            "loss_sums": self._loss_sums,
            "epochs": to_plain(self.epochs),
            "conflicts": to_plain(self.conflicts),
            "best": self.best,
            "best_dev": {task: torch.from_numpy(found.predicted) for task, found in self.best_dev.items()},
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` returned.

        Raises:
            ValueError: If a value is not what it was; others raise what torch raises of them.
        """
        self.epoch, self.iteration = (from_plain(state[k], int, place=k) for k in ("epoch", "iteration"))
        self.seconds = from_plain(state["seconds"], float, place="seconds")
        if state["best"]:
            self.model.load_state_dict(state["best"])  # to refuse now, not at the end, what does not fit
        self.model.load_state_dict(state["model"])
        self.updater.load_state_dict(state["updater"])
        self.task_loss.load_state_dict(state["task_loss"])
        restore_rng_state(state["generators"])
        self._loss_sums.copy_(state["loss_sums"])
        self.epochs = list(from_plain(state["epochs"], tuple[Epoch, ...], place="epochs"))
        self.conflicts = list(from_plain(state["conflicts"], tuple[ConflictSample, ...], place="conflicts"))
        self.best = dict(state["best"])
        self.best_dev = {
            task: TaskPredictions.of(self.tokens[task, "dev"].examples, predicted.numpy())
            for task, predicted in state["best_dev"].items()
        }
        if len(self.epochs) != self.epoch or bool(self.best) != bool(self.epoch):
            raise ValueError(f"epoch must be the number of epochs that were scored, got {self.epoch}")
        if not 0 <= self.iteration <= self.iterations:
            raise ValueError(f"iteration must be from 0 to {self.iterations}, got {self.iteration}")

    def _iterate(self) -> None:
        """Measures the conflict where it is due, and makes one iteration's updates."""
        if not self.epoch and not self.iteration:
            self._calibrate()
        if self.settings.probe_every and self.iteration % self.settings.probe_every == 0:
            self.conflicts.append(self._probe())
        first_losses: dict[str, Tensor] = {}  # an update may ask for a loss again, at other parameters

        def loss_of(task: str, share: Share) -> Tensor:
            loss = share.loss(partial(self._loss, task))
            first_losses.setdefault(task, loss.detach())
            return loss

        device = self.settings.torch_device()
        batches = {task: self._batches[task].at(self.epoch, self.iteration).to(device) for task in TASKS}
        shares = {
            task: Share(batch, rank=ranks.rank(), world=ranks.world()) for task, batch in batches.items()
        }
        done = self.epoch * self.iterations + self.iteration
        total = self.settings.epochs * self.iterations
        if self.experiment.lr_decay:
            for group in self.updater.optimizer.param_groups:
                group["lr"] = self.settings.lr * (1 - done / total)
        self.updater.step({task: partial(loss_of, task, share) for task, share in shares.items()})
        self.task_loss.update((done + 1) / total)
        self._loss_sums += ranks.mean(torch.stack([first_losses[task].double() for task in TASKS]))

    def _calibrate(self) -> None:
        """Sets ε on the first batches, where the row calibrates it."""
        device = self.settings.torch_device()
        first = range(min(CALIBRATION_BATCHES, self.iterations))
        batches = {task: [self._batches[task].at(0, number).to(device) for number in first] for task in TASKS}
        with autocast(self.settings):
            self.task_loss.calibrate(batches)

    def _loss(self, task: str, batch: Batch) -> Tensor:
        with autocast(self.settings):
            return self.task_loss(task, batch)

    def _probe(self) -> ConflictSample:
        device = self.settings.torch_device()

        def loss_of(task: str) -> Callable[[], Tensor]:
            batches = self._probe_batches[task].epoch(self.epoch, start=2 * self.iteration)
            return lambda: self._loss(task, next(batches).to(device))

        cosines, null = probe.cosines(
            list(self.model.encoder.parameters()), {task: loss_of(task) for task in TASKS}
        )
        return ConflictSample(epoch=self.epoch, iteration=self.iteration, cosines=cosines, null=null)

    def _end_epoch(self) -> None:
        """Scores the epoch, keeps its weights if they are the best, and begins the next."""
        predict = predictor(self.model, self.settings)
        dev = predict_split(predict, self.tokens, "dev")
        train = None
        if self.settings.train_eval_size:
            train = point_scores(
                predict_split(predict, self.tokens, "train", limit=self.settings.train_eval_size)
            )
        self.epochs.append(
            Epoch(
                epoch=self.epoch,
                iterations=self.iterations,
                train_loss=self._mean_losses(),
                dev=point_scores(dev),
                train=train,
                seconds=self.seconds,
            )
        )
        if self.best_epoch() == self.epoch:
            self.best = {
                name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()
            }
            self.best_dev = dev
        self._loss_sums.zero_()
        self.updater.end_epoch()
        self.epoch, self.iteration = self.epoch + 1, 0
        self.report(self.epoch * self.iterations, self._note())

    def _mean_losses(self) -> dict[str, float]:
        """Returns the epoch's mean training losses so far by task."""
        means = dict(zip(TASKS, (self._loss_sums / max(self.iteration, 1)).tolist(), strict=True))
        for task, mean in means.items():
            if not abs(mean) < float("inf"):
                raise ValueError(
                    f"the training loss of {task} became {mean} in epoch {self.epoch} "
                    f"with lr {self.settings.lr}; choose a lower --lr"
                )
        return means

    def _note(self) -> str:
        return f"dev overall {self.epochs[-1].dev['overall']:.3f}" if self.epochs else ""
