"""One run of one row, from its inputs to its result."""

import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import gradsurgery
import smartreg

from . import checkpoint, memory, ranks
from .bert import BertModel
from .evaluate import score
from .inference import predict_split, predictor
from .inputs import Inputs
from .masked_lm import pretrain
from .model import MultitaskModel
from .prediction_files import write_predictions
from .progress import Event, Report
from .results import DataInfo, Epoch, RunResult, WeightsInfo
from .run_folder import CHECKPOINT, PREDICTIONS, RESULT, Job, save_model
from .settings import Settings
from .train import Trainer
from .zero_shot import zero_shot


def run(job: Job, inputs: Inputs, report: Report) -> RunResult:
    """Trains and scores one row; writes its predictions, its model and last its result.

    Args:
        job: What to run, in a folder that it has claimed.
        inputs: The data and the weights, which all jobs share.
        report: Called with every step forward.

    Raises:
        ValueError: If the weights or the folder's checkpoint are at fault, or a loss is not finite.
        OSError: If something cannot be read or written.
    """
    if (job.folder / RESULT).exists():
        result = RunResult.load(job.folder / RESULT)
        _report(
            job, report, job.iterations, f"done before, dev overall {result.dev.overall.value:.3f}", last=True
        )
        return result
    started = time.monotonic()
    settings, device = job.settings, job.settings.torch_device()
    memory.reset_peak(device)
    torch.manual_seed(settings.seed)
    encoder = BertModel.from_pretrained(inputs.weights, num_layers=settings.layers)
    encoder.packed = settings.packed
    model = MultitaskModel(encoder, job.experiment).to(device)
    trainer = None
    if job.experiment.update == "none":
        predict = zero_shot(model, inputs.tokens, settings)
        dev = predict_split(predict, inputs.tokens, "dev")
    else:
        trainer = Trainer(
            job.experiment,
            settings,
            model=model,
            tokens=inputs.tokens,
            report=lambda done, note: _report(job, report, done, note),
        )
        _train(trainer, job, inputs)
        model.load_state_dict(trainer.best)
        predict, dev = predictor(model, settings), trainer.best_dev
    training_seconds = trainer.seconds if trainer else time.monotonic() - started
    peak = memory.peak_bytes(device)
    predictions = {"dev": dev, "test": predict_split(predict, inputs.tokens, "test")}
    result = RunResult(
        row=job.experiment.name,
        seed=settings.seed,
        data=DataInfo.of(inputs.data_name, inputs.dataset),
        weights=WeightsInfo(
            name=Path(settings.weights).name,
            layers=encoder.config.num_hidden_layers,
            fingerprint=inputs.weights_fingerprint,
        ),
        config=asdict(settings),
        versions=_versions(settings),
        epochs=tuple(trainer.epochs) if trainer else (),
        best_epoch=trainer.best_epoch() if trainer else None,
        dev=score(dev),
        conflicts=tuple(trainer.conflicts) if trainer else (),
        seconds=training_seconds,
        peak_memory_bytes=peak,
        smart_epsilons=trainer.task_loss.epsilons if trainer else {},
        definition=job.experiment.definition(),
    )
    if ranks.is_first():
        for split, predicted in predictions.items():
            write_predictions(predicted, split, job.folder / PREDICTIONS)
        if job.keep_model:
            save_model(model, inputs.tokenizer, job.folder)
        job.log(f"ended: best epoch {result.best_epoch}, peak memory {peak / 1e6:.0f} MB")
        result.save(job.folder / RESULT)
        (job.folder / CHECKPOINT).unlink(missing_ok=True)
    _report(job, report, job.iterations, f"dev overall {result.dev.overall.value:.3f}", last=True)
    return result


def _train(trainer: Trainer, job: Job, inputs: Inputs) -> None:
    path = job.folder / CHECKPOINT
    begun = "begun"
    if job.resume and path.exists():
        state = checkpoint.load(path)
        try:
            trainer.load_state_dict(state)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is another version's checkpoint ({error}); delete it to begin anew"
            ) from error
        begun = f"resumed at epoch {trainer.epoch}, iteration {trainer.iteration}"
    elif job.experiment.masked_lm:
        started = time.monotonic()
        found = pretrain(trainer.model.encoder, inputs.tokens, inputs.tokenizer, job.settings)
        trainer.seconds += time.monotonic() - started
        begun += (
            f" after {found.iterations} iterations of masked language modelling, loss {found.first_loss:.3f} "
            f"to {found.last_loss:.3f}"
        )
    if not ranks.is_first():  # the first is in the same state, and writes
        trainer.train(save=lambda: None)
        return
    versions = ", ".join(f"{name} {value}" for name, value in _versions(job.settings).items())
    job.log(f"{begun}: {job.experiment.name}, seed {job.settings.seed}; {versions}")

    def save() -> None:
        checkpoint.save(trainer.state_dict(), path)
        if trainer.iteration == 0:
            job.log(_in_words(trainer.epochs[-1]))

    trainer.train(save)


def _in_words(epoch: Epoch) -> str:
    losses, scores = (
        " ".join(f"{name} {value:.4f}" for name, value in values.items())
        for values in (epoch.train_loss, epoch.dev)
    )
    return (
        f"epoch {epoch.epoch}: {epoch.iterations} iterations, train loss {losses}, dev {scores}, "
        f"{epoch.seconds:.0f} s since the start"
    )


def _report(job: Job, report: Report, done: int, note: str, *, last: bool = False) -> None:
    report(Event(run=job.folder.name, done=done, total=job.iterations, note=note, finished=last))


def _versions(settings: Settings) -> dict[str, str]:
    device = settings.torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gradsurgery": gradsurgery.__version__,
        "smartreg": smartreg.__version__,
        "device": f"{name}, {torch.get_num_threads()} threads"
        + (f", {ranks.world()} ranks" * (ranks.world() > 1)),
    }
