"""A run's folder: what it was asked for, its checkpoint, its predictions, its model, and last its result."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from . import weights
from .bert import BertConfig, BertModel
from .data import SPLITS, load
from .experiments import Experiment, select
from .files import read_json, remove_half_written, write_atomically
from .inference import Predictor, predictor
from .inputs import DataSource, Inputs
from .model import MultitaskModel
from .results import RunResult
from .settings import Settings
from .tokenizer import Tokenizer
from .train import epoch_iterations
from .zero_shot import zero_shot

REQUEST, CHECKPOINT, LOG = "run.json", "checkpoint.pt", "log.txt"
PREDICTIONS, RESULT = "predictions", "result.json"
_MODEL, _HEADS = "model", "heads.safetensors"
_LATER = ("definition", "weights' fingerprint")  # what requests had not from the beginning


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row to be run.

    Attributes:
        experiment: The row.
        settings: How it is run.
        source: Where its data is.
        folder: Where the run is written.
        resume: Go on from the folder's last checkpoint; a finished run is left as it is.
        keep_model: Keep the best epoch's model in the folder.
    """

    experiment: Experiment
    settings: Settings
    source: DataSource
    folder: Path
    resume: bool = False
    keep_model: bool = True

    @property
    def iterations(self) -> int:
        """Iterations of the whole run; 1 for a row that trains nothing."""
        return max(1, self.settings.epochs * epoch_iterations(self.experiment, self.settings))

    def check(self, inputs: Inputs) -> None:
        """Raises a ValueError if the job cannot be run, or its folder holds a run not to be resumed."""
        BertConfig.from_folder(inputs.weights, num_layers=self.settings.layers)
        path = self.folder / REQUEST
        if not path.exists():
            if (self.folder / RESULT).exists():
                raise ValueError(f"{self.folder} holds a result without its {REQUEST}; choose another --out")
            return
        if not self.resume:
            raise ValueError(
                f"{self.folder} holds a run already; go on with --resume or choose another --out"
            )
        former = read_json(path, remedy="choose another --out")
        for name, asked in self._request(inputs).items():
            had = former.get(name)
            if name == "data":  # before whose fingerprint its name stood once
                had = str(had).rpartition(" ")[2]
            if had is None and name in _LATER:
                continue
            if name == "definition" and isinstance(had, dict):
                for key, (was, now) in self.experiment.changed(had).items():
                    self._refuse(f"row's {key}", was, now)
            elif had != asked:
                self._refuse(name, had, asked)

    def _refuse(self, name: str, had: object, asked: object) -> NoReturn:
        raise ValueError(
            f"{self.folder} was begun with {name} {had}, got {asked}; resume with the former "
            "or choose another --out"
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the folder inside the block; a killed process leaves no lock.

        Raises:
            ValueError: If another process trains in the folder.
            OSError: If the disk is full or read-only.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"{self.folder} is where another process trains; wait until it ends or choose another --out"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def claim(self, inputs: Inputs) -> None:
        """Writes into the folder what is run there, and clears away what a killed run left half-written.

        Raises:
            OSError: If the disk is full or read-only.
        """
        remove_half_written(self.folder)
        request = {**self._request(inputs), "data_folder": str(self.source.folder.resolve())}
        write_atomically(self.folder / REQUEST, json.dumps(request, indent=1) + "\n")

    def log(self, what: str) -> None:
        """Adds a line to the run's log, with the time (UTC).

        Raises:
            OSError: If the disk is full or read-only.
        """
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{now}  {what}\n")

    def _request(self, inputs: Inputs) -> dict[str, Any]:
        """Returns what decides the result, by which a resumed run is recognised."""
        return {
            "row": self.experiment.name,
            "definition": self.experiment.definition(),
            "data": inputs.dataset.fingerprint,
            **self.settings.what_decides(),
            "weights' fingerprint": inputs.weights_fingerprint,
        }


def save_model(model: MultitaskModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Keeps a model in a run's folder: an encoder of the Hugging Face form, with the heads beside it."""
    heads = {name: value.detach().cpu().contiguous() for name, value in model.heads.state_dict().items()}
    write_atomically(folder / _MODEL / _HEADS, safetensors.torch.save(heads))
    weights.save_pretrained(model.encoder, tokenizer, folder / _MODEL)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that has ended, read from its folder.

    Attributes:
        folder: The folder.
        experiment: The row.
        settings: How it was run, on the device asked for now.
        source: Its data, or other data asked for now.
        fingerprint: What its own data must still have; None where other data is asked for.
        weights_fingerprint: What the pretrained weights had; "" if that was not kept.
    """

    folder: Path
    experiment: Experiment
    settings: Settings
    source: DataSource
    fingerprint: str | None
    weights_fingerprint: str

    @classmethod
    def open(cls, folder: Path, *, device: str, data: Path | None = None) -> "FinishedRun":
        """Reads what was run in a folder.

        Args:
            folder: The folder.
            device: Where to compute, as in :class:`Settings`.
            data: A folder of data files instead of the run's own.

        Raises:
            ValueError: If the folder holds no finished run.
        """
        if not (folder / REQUEST).is_file() or not (folder / RESULT).is_file():
            raise ValueError(
                f"{folder} holds no finished run; give a folder that `minbert train` made, or, with --data, a"
                " record's or one of prediction files"
            )
        result = RunResult.load(folder / RESULT)
        (experiment,) = select([result.row])
        for name, (was, now) in experiment.changed(result.definition).items():
            raise ValueError(
                f"{folder} was trained when the row's {name} was {was}, got {now}; give the row its former"
                " definition, or train it again"
            )
        try:
            settings = replace(Settings(**{**result.config, "device": "cpu"}), device=device)
        except TypeError as error:
            raise ValueError(
                f"{folder / RESULT} has unknown settings ({error}); train the row again"
            ) from error
        request = read_json(folder / REQUEST, remedy="train the row again")
        data_folder = request.get("data_folder")
        if not isinstance(data_folder, str):
            raise ValueError(
                f"{folder / REQUEST} must have a data_folder, got {data_folder!r}; train the row again"
            )
        source = DataSource(result.data.name, Path(data_folder))
        if data is not None:
            source = DataSource(data.resolve().name, data)
        return cls(
            folder=folder,
            experiment=experiment,
            settings=settings,
            source=source,
            fingerprint=result.data.fingerprint if data is None else None,
            weights_fingerprint=result.weights.fingerprint,
        )

    def predict(self, splits: Sequence[str] = SPLITS) -> tuple[Predictor, Inputs]:
        """Returns the predictor of the best epoch's model, and the inputs to predict on.

        Args:
            splits: The splits that will be predicted.

        Raises:
            ValueError: If the run's data or model is gone, at fault or not what it was.
        """
        self._check_data()
        trained = self.experiment.update != "none"
        source: str | Path = self.folder / _MODEL if trained else self.settings.weights
        heads = self.folder / _MODEL / _HEADS
        if trained and not heads.is_file():
            raise ValueError(f"{self.folder} has no model; train the row again without --discard-model")
        needed = splits if trained else ("train", *splits)
        inputs = Inputs.load(self.source, source, splits=needed)
        if not trained and self.weights_fingerprint not in ("", inputs.weights_fingerprint):
            raise ValueError(
                f"{self.folder} was made of weights with fingerprint {self.weights_fingerprint}, got"
                f" {inputs.weights_fingerprint} in {inputs.weights}; put the former weights back"
            )
        layers = None if trained else self.settings.layers
        model = MultitaskModel(BertModel.from_pretrained(inputs.weights, num_layers=layers), self.experiment)
        model.to(self.settings.torch_device())
        if not trained:
            return zero_shot(model, inputs.tokens, self.settings), inputs
        try:
            model.heads.load_state_dict(safetensors.torch.load_file(heads))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{heads} is damaged or another row's ({error}); train the row again") from error
        return predictor(model, self.settings), inputs

    def _check_data(self) -> None:
        """Refuses files that were changed since: their scores would not be those of the run's result."""
        if self.fingerprint is None:
            return
        found = load(self.source.folder).fingerprint
        if found != self.fingerprint:
            raise ValueError(
                f"{self.folder} was trained on data with fingerprint {self.fingerprint}, got {found} in"
                f" {self.source.folder}; put the former files back, or name other data by --data"
            )
