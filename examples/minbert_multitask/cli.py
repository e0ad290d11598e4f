"""The command line: ``minbert`` and its commands, each with its options."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import torch

from . import commands, ranks
from .prediction_files import SPLITS as PREDICTED
from .protocol import SCHEDULES, SEEDS
from .settings import DEVICES, PRECISIONS, Settings

_DEFAULTS = {field.name: field.default for field in fields(Settings)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: What follows the program's name; ``sys.argv`` where None.

    Returns:
        The exit status: 0; 1 where standard output was closed; 2 for what the user can mend; 130 after an
        interrupt.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line_warning
            if ranks.world() > 1 and options.command is not commands.train_rows:
                raise ValueError(
                    f"only `train` runs on several ranks, got {ranks.world()}; start this without torchrun"
                )
            options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        if ranks.is_first() or not isinstance(error, ValueError):  # which all ranks come upon
            _print_error(str(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_of_memory(error):
            raise
        smaller = "a smaller --batch-size or fewer --layers or " if hasattr(options, "batch_size") else ""
        _print_error(f"out of memory; choose {smaller}fewer --jobs")
        return 2
    except KeyboardInterrupt:
        remedy = ""
        if options.command in (commands.train_rows, commands.reproduce):
            how = " with --resume" if options.command is commands.train_rows else ""
            remedy = f"; the same command{how} goes on from the last checkpoint"
        print(f"minbert: interrupted{remedy}", file=sys.stderr)
        return 130
    return 0


def _is_of_memory(error: RuntimeError) -> bool:
    """Returns whether torch has found no memory: of the CPU's it raises a plain RuntimeError."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _print_error(message: str) -> None:
    print(f"minbert: error: {' '.join(message.split())}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            2,
            f"minbert: error: {' '.join(message.split())}; see `{self.prog} --help`\n"
            if ranks.is_first()
            else None,
        )


def _one_line_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if ranks.is_first():
        print(f"minbert: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="minbert", description=__doc__, allow_abbrev=False)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Any, what: str) -> argparse.ArgumentParser:
        said = what.replace("%", "%%")  # argparse takes the help, but not the description, for a format
        subparser = subparsers.add_parser(name, help=said, description=what, allow_abbrev=False)
        subparser.set_defaults(command=command)
        return subparser

    add("list", commands.list_rows, "List the rows that can be trained.")

    train = add("train", commands.train_rows, "Train and score rows of the table.")
    train.add_argument(
        "rows",
        nargs="+",
        metavar="ROW",
        help="names as in `minbert list`, or `paper`, `beside`, `beyond`, `all`",
    )
    _add_data(train)
    train.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoints in --out")
    train.add_argument("--jobs", type=int, default=1, help="rows trained at a time (default: %(default)s)")
    _add_how(train)
    _add_settings(train)

    reproduce = add(
        "reproduce",
        commands.reproduce,
        "Run the rows and seeds of PROTOCOL.md that have no record yet, and judge the claims.",
    )
    _add_reproduction(reproduce)

    findings = add("findings", commands.print_findings, "Judge the protocol's claims by a folder of records.")
    findings.add_argument("records", type=Path, metavar="RECORDS", help="what `reproduce` kept")
    findings.add_argument("--data", required=True, type=Path, metavar="DIR", help="the data of the runs")
    _add_page(findings)

    why = add("why", commands.measure_mechanisms, "Show on the frozen encoder why two similarity heads fail.")
    why.add_argument("--data", required=True, metavar="DIR", help="a folder with the handout's files")
    why.add_argument("--weights", type=_weights, default=_DEFAULTS["weights"], help="default: %(default)s")
    why.add_argument("--device", choices=DEVICES, default="auto")
    why.add_argument("--out", type=Path, metavar="FILE", help="a JSON file to write")

    for name, command, what in (
        (
            "evaluate",
            commands.evaluate_runs,
            "Score the best epoch of runs on dev, with bootstrap 95 % intervals.",
        ),
        ("predict", commands.predict_runs, "Write the prediction files of runs for dev and test."),
    ):
        subparser = add(name, command, what)
        subparser.add_argument(
            "runs",
            nargs="+",
            type=Path,
            metavar="RUN",
            help="a run's folder, as `train` made it, or with --data its record, as `reproduce` kept it"
            + (", or a folder of prediction files" if name == "evaluate" else ""),
        )
        subparser.add_argument(
            "--data", metavar="DIR", type=Path, help="a folder of data files (default: the run's own)"
        )
        subparser.add_argument("--device", choices=DEVICES, default="auto")
        if name == "predict":
            subparser.add_argument("--out", type=Path, help="where to write (default: RUN/predictions)")
            subparser.add_argument(
                "--splits", nargs="+", choices=PREDICTED, default=PREDICTED, help="default: both"
            )

    table = add("table", commands.print_table, "Print the table of all runs in a folder beside the paper's.")
    table.add_argument("out", nargs="?", type=Path, default=Path("runs"), help="default: %(default)s")
    table.add_argument("--markdown", action="store_true", help="as Markdown")

    figures = add("figures", commands.draw_figures, "Draw the figures of all runs in a folder.")
    figures.add_argument("out", nargs="?", type=Path, default=Path("runs"), help="default: %(default)s")

    smart = add(
        "diagnose-smart",
        commands.diagnose_smart,
        "Say what SMART's penalty consists of at the published epsilon, and which epsilon would matter.",
    )
    _add_diagnosis(smart)

    demo = add(
        "demo", commands.demo, "Train and score sixteen rows at a small schedule on the embedded corpus."
    )
    demo.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="default: %(default)s, or the next free name"
    )
    demo.add_argument("--jobs", type=int, default=2, help="rows trained at a time (default: %(default)s)")
    demo.add_argument("--weights", type=_weights, default=_DEFAULTS["weights"], help="default: %(default)s")
    demo.add_argument("--device", choices=DEVICES, default="auto")
    demo.add_argument("--iterations", type=int, default=commands.DEMO.iterations, help="default: %(default)s")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        default="demo",
        metavar="DIR|hub|demo",
        help="a folder with the handout's files, `hub` to fetch SST-5, QQP and STS-B, or the embedded corpus",
    )


def _add_reproduction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="*", default=["all"], metavar="ROW", help="default: all")
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder with the handout's files")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/reproduction"),
        help="folder of the runs (default: %(default)s)",
    )
    parser.add_argument(
        "--records", type=Path, default=Path("records"), help="folder of what is kept (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED", help="default: the protocol's"
    )
    parser.add_argument("--jobs", type=int, default=1, help="rows trained at a time (default: %(default)s)")
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="cpu",
        help="the protocol's, or the paper's in full (default: %(default)s)",
    )
    parser.add_argument("--weights", type=_weights, default=_DEFAULTS["weights"], help="default: %(default)s")
    _add_page(parser)


def _weights(name: str) -> str:
    """Returns a name of weights as results call it: a folder without a slash at its end."""
    return name.rstrip("/") or name


def _add_page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="a Markdown page whose marked tables are written anew"
    )


def _add_diagnosis(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/diagnose-smart"), help="default: %(default)s")
    parser.add_argument(
        "--samples", type=int, default=2, help="draws of noise and dropout to average (default: %(default)s)"
    )
    _add_settings(parser, only=commands.DIAGNOSED)


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Adds options that decide nothing of a run's result."""
    parser.add_argument(
        "--rank-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="under torchrun, when a rank that does not answer is given up (default: %(default)g)",
    )
    parser.add_argument(
        "--discard-model", action="store_true", help="keep scores and predictions, not the weights"
    )


def _add_settings(parser: argparse.ArgumentParser, *, only: Sequence[str] = tuple(_DEFAULTS)) -> None:
    def add(name: str, what: str, **options: Any) -> None:
        if name not in only:
            return
        shown = "all" if _DEFAULTS[name] is None else _DEFAULTS[name]
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, default=_DEFAULTS[name], help=f"{what} (default: {shown})", **options)

    add(
        "weights",
        "a folder of the Hugging Face form, an installed package or a hub's name",
        metavar="FOLDER|PACKAGE|HUB",
        type=_weights,
    )
    add("layers", "keep only the first encoder layers", type=int)
    add("epochs", "epochs, each of which ends with an evaluation on dev", type=int)
    add("iterations", "iterations an epoch; rows named -3x do three times as many", type=int)
    add("batch_size", "examples of each task an iteration", type=int)
    add("lr", "AdamW's learning rate", type=float)
    add("seed", "seed of the data order, the heads, dropout and the surgery's order", type=int)
    add("device", "where to compute", choices=DEVICES)
    add("precision", "bf16 runs the forward under autocast", choices=PRECISIONS)
    if "packed" in only:
        parser.add_argument(
            "--packed",
            action="store_true",
            help="leave padding out of the encoder's work: faster, with other dropout masks",
        )
    add("eval_batch_size", "examples a batch in evaluation", type=int)
    add("train_eval_size", "train examples of each task that are scored beside dev", type=int)
    add(
        "probe_every",
        "iterations between two measurements of the conflict and its null; 0 for none",
        type=int,
    )
    add("checkpoint_every", "iterations between two checkpoints within an epoch; 0 for none", type=int)
