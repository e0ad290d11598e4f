"""A folder with one file of every kind that the program reads, and the command that reads each of them."""

import contextlib
import errno
import io
import shutil
from pathlib import Path

import torch
from minbert_multitask import cli, corpus, weights
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.results import RunResult
from minbert_multitask.tokenizer import SPECIAL_TOKENS, Tokenizer

SCHEDULE = "--epochs 1 --iterations 2 --batch-size 4 --eval-batch-size 16 --train-eval-size 4 --probe-every 0"
RUN, STOPPED = Path("runs/multitask-11711"), Path("stopped/multitask-11711")
FINISHED = ("evaluate", str(RUN))
TRAIN = ("train", "multitask", *SCHEDULE.split(), "--data", "data", "--weights", "weights", "--out")
READERS = {
    "data/ids-sst-train.csv": (*TRAIN, "new"),
    "data/quora-dev.csv": (*TRAIN, "new"),
    "data/sts-test-student.csv": (*TRAIN, "new"),
    "weights/config.json": (*TRAIN, "new"),
    "weights/vocab.txt": (*TRAIN, "new"),
    "weights/tokenizer_config.json": (*TRAIN, "new"),
    "weights/model.safetensors": (*TRAIN, "new"),
    "pickled/pytorch_model.bin": (*TRAIN[:-2], "pickled", "--out", "new"),
    f"{RUN}/run.json": FINISHED,
    f"{RUN}/result.json": FINISHED,
    f"{RUN}/model/heads.safetensors": FINISHED,
    f"{RUN}/model/config.json": FINISHED,
    f"{RUN}/predictions/sst-dev-output.csv": ("evaluate", str(RUN / "predictions"), "--data", "data"),
    f"{RUN}/predictions/sts-dev-output.csv": ("evaluate", str(RUN / "predictions"), "--data", "data"),
    "runs/results.json": ("table", "runs/results.json"),
    f"{STOPPED}/run.json": (*TRAIN, "stopped", "--resume"),
    f"{STOPPED}/checkpoint.pt": (*TRAIN, "stopped", "--resume"),
}
"""By file, the arguments of a command that reads it, in the place as the working folder."""


def make(place: Path) -> None:
    """Fills a folder: data, weights in both forms, a finished run and a stopped one."""
    corpus.write(place / "data", sizes={t: {"train": 12, "dev": 6, "test": 4} for t in ("sst", "qqp", "sts")})
    vocabulary = [
        *SPECIAL_TOKENS,
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=4,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    weights.save_pretrained(model, Tokenizer(vocabulary, max_length=16), place / "weights")
    shutil.copytree(place / "weights", place / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(model.state_dict(), place / "pickled" / "pytorch_model.bin")
    with contextlib.chdir(place):
        for out in ("runs", "stopped"):
            status, _ = call(*TRAIN, out, stop=out == "stopped")
            assert status == (2 if out == "stopped" else 0)


def call(*arguments: str, stop: bool = False) -> tuple[int, str]:
    """Runs a command; returns its status and its last line on standard error.

    Args:
        arguments: The command line.
        stop: Whether the disk is full when the result is written, so that the checkpoint stays.
    """
    save = RunResult.save

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    printed = io.StringIO()
    RunResult.save = full if stop else save
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed):
            status = cli.main(list(arguments))
    except SystemExit as end:
        status = end.code
    finally:
        RunResult.save = save
    return status, printed.getvalue().splitlines()[-1] if printed.getvalue() else ""


@contextlib.contextmanager
def replaced(place: Path, file: str, content: bytes):
    """The place as working folder, one file with other content; afterwards all is as it was."""
    path = place / file
    kept = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    path.write_bytes(content)
    try:
        with contextlib.chdir(place):
            yield
    finally:
        shutil.rmtree(place / "new", ignore_errors=True)
        for p in [p for p in place.rglob("*") if p.is_file() and p not in kept]:
            p.unlink()
        for p, former in kept.items():
            p.parent.mkdir(parents=True, exist_ok=True)
            if not p.is_file() or p.read_bytes() != former:
                p.write_bytes(former)
