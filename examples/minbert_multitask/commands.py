"""What each command does, from its parsed options."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from . import (
    figures,
    findings,
    mechanisms,
    ranks,
    records,
    reproduction,
    results_page,
    smart_diagnosis,
    table,
)
from .comparable import UNITS
from .data import SPLITS, load
from .evaluate import METRICS, Predictions, score
from .experiments import EXPERIMENTS, Experiment, select
from .files import write_atomically
from .findings import Finding
from .inference import predict_split
from .inputs import DataSource, Inputs
from .parallel import run_all
from .prediction_files import read_predictions, write_predictions
from .protocol import SCHEDULES
from .results import RunResult, collect, write_summary
from .run_folder import PREDICTIONS, REQUEST, RESULT, FinishedRun, Job
from .settings import Settings

DEMO = Settings(
    epochs=2,
    iterations=6,
    batch_size=4,
    lr=1e-4,
    packed=True,
    train_eval_size=50,
    probe_every=6,
    checkpoint_every=0,
)
"""The demo's schedule: sixteen rows in under five minutes on two cores."""

DIAGNOSED = ("weights", "layers", "batch_size", "seed", "device")
"""The settings that a diagnosis of SMART depends on."""


def list_rows(_: Namespace) -> None:
    """Prints every row and what it is."""
    for row in EXPERIMENTS.values():
        print(f"{row.name:<18} {row.what}{'' if row.group == 'paper' else ' (not in the paper)'}")


def train_rows(options: Namespace) -> None:
    """Trains and scores rows, and prints the table of all runs in the folder."""
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    rows = select(options.rows)
    if ranks.world() > 1 and options.jobs > 1:
        raise ValueError(f"jobs must be 1 where {ranks.world()} ranks train a row, got {options.jobs}")
    if ranks.world() > 1 and settings.packed:
        raise ValueError(f"packed must be left out where {ranks.world()} ranks share the dropout masks")
    with ranks.group(timeout=options.rank_timeout):
        source = ranks.on_first(lambda: DataSource.find(options.data, options.out))
        _run(
            rows,
            settings,
            source,
            options.out,
            processes=options.jobs,
            resume=options.resume or ranks.restarted(),
            keep_model=not options.discard_model,
        )
    if ranks.is_first():
        _show(options.out)


def evaluate_runs(options: Namespace) -> None:
    """Prints the dev scores of runs, records or folders of prediction files, with their intervals."""
    for folder in options.runs:
        if options.data is None or any((folder / name).exists() for name in (REQUEST, RESULT)):
            predictions = _predictions(folder, options, ("dev",))["dev"]
        else:
            predictions = read_predictions(folder, "dev", load(options.data, splits=("dev",)))
        scores = score(predictions)
        print(f"{folder}: dev, bootstrap 95 % intervals")
        for metric in METRICS:
            found = scores[metric]
            interval = f"[{found.low:.3f}, {found.high:.3f}]"
            flag = "  (a constant prediction)" if found.flagged else ""
            print(f"  {metric:<8} {UNITS[metric] or 'mean':<9} {found.value:6.3f}  {interval}{flag}")


def predict_runs(options: Namespace) -> None:
    """Writes the prediction files of runs or records for dev and test, and prints their paths."""
    names = [folder.name for folder in options.runs]
    if options.out is not None and (again := {name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"runs must differ in name for one --out, got {min(again)} twice; predict one at a time"
        )
    for folder in options.runs:
        out = folder / PREDICTIONS
        if options.out is not None:
            out = options.out / folder.name if len(options.runs) > 1 else options.out
        for split, predictions in _predictions(folder, options, options.splits).items():
            for path in write_predictions(predictions, split, out):
                print(path)


def _predictions(folder: Path, options: Namespace, splits: Sequence[str]) -> dict[str, Predictions]:
    """Returns by split what a record keeps, or what a run's model predicts."""
    if record := records.Record.open(folder):
        if options.data is None:
            raise ValueError(f"{folder} is a record, which does not name its data; give --data")
        dataset = load(options.data, splits=SPLITS)
        return {split: record.predictions(split, dataset) for split in splits}
    run = FinishedRun.open(folder, device=options.device, data=options.data)
    predict, inputs = run.predict(splits)
    return {split: predict_split(predict, inputs.tokens, split) for split in splits}


def print_table(options: Namespace) -> None:
    """Prints the table of all runs in a folder or a summary."""
    results = collect(options.out)
    print(table.markdown_table(results) if options.markdown else table.text_table(results))


def draw_figures(options: Namespace) -> None:
    """Draws the figures of all runs in a folder or a summary, and prints their paths."""
    results = collect(options.out)
    folder = options.out.parent if options.out.is_file() else options.out
    for path in figures.draw(results, folder / "figures"):
        print(path)


def diagnose_smart(options: Namespace) -> None:
    """Prints what SMART's penalty consists of at the first training batches; writes it and its picture."""
    settings = Settings(**{name: getattr(options, name) for name in DIAGNOSED})
    if options.samples < 1:
        raise ValueError(f"samples must be at least 1, got {options.samples}")
    inputs = Inputs.load(DataSource.find(options.data, options.out), settings.weights)
    made_with = smart_diagnosis.describe(inputs, settings)
    found = {}
    for task, one in smart_diagnosis.diagnose(
        EXPERIMENTS["smart"], settings, inputs.tokens, inputs.weights, samples=options.samples
    ):
        found[task] = one
        print(*smart_diagnosis.summary(task, one), sep="\n", flush=True)
    smart_diagnosis.save(found, made_with, options.out / "diagnosis.json")
    picture = smart_diagnosis.draw(found, made_with)
    write_atomically(options.out / "diagnosis.png", figures.png(picture))
    for name in ("diagnosis.json", "diagnosis.png"):
        print(options.out / name)


def demo(options: Namespace) -> None:
    """Trains and scores the rows of every table at a small schedule on the embedded corpus."""
    out = _free_folder(options.out)
    settings = Settings(
        **{
            **vars(DEMO),
            "weights": options.weights,
            "iterations": options.iterations,
            "device": options.device,
        }
    )
    rows = select(["paper", "beside"])
    _run(rows, settings, DataSource.find("demo", out), out, processes=options.jobs, keep_model=False)
    _show(out)


def reproduce(options: Namespace) -> None:
    """Runs what has no record yet of the reproduction, and prints the table and the findings."""
    if options.page is not None:
        results_page.check(options.page)
    found, judged = reproduction.reproduce(
        select(options.rows),
        DataSource.find(options.data, options.out),
        runs=options.out,
        kept=options.records,
        seeds=options.seeds,
        settings=replace(SCHEDULES[options.schedule], weights=options.weights),
        processes=_positive(options.jobs),
    )
    results = [record.result for record in found]
    print(table.text_table(results))
    print()
    _show_findings(results, judged, options)


def print_findings(options: Namespace) -> None:
    """Prints the verdict on every claim; writes and draws beside the records what follows from them."""
    if options.page is not None:
        results_page.check(options.page)
    found, judged = reproduction.conclude(options.records, load(options.data, splits=SPLITS))
    _show_findings([record.result for record in found], judged, options)


def _show_findings(results: list[RunResult], judged: list[Finding], options: Namespace) -> None:
    """Prints the verdicts, draws the figures, and fills the tables of the page of results, if any."""
    print(findings.markdown(judged))
    for path in figures.draw(results, options.records / "figures", judged):
        print(path)
    if options.page is not None:
        results_page.write(options.page, results_page.sections(results, judged))
        print(options.page)


def measure_mechanisms(options: Namespace) -> None:
    """Prints why two similarity heads fail, from the frozen encoder, and writes it as JSON where asked."""
    settings = Settings(weights=options.weights, device=options.device)
    found = mechanisms.measure(DataSource.find(options.data, Path("runs")), settings)
    print(found.markdown())
    if options.out is not None:
        found.save(options.out)
        print(options.out)


def _positive(jobs: int) -> int:
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    return jobs


def _run(
    rows: list[Experiment],
    settings: Settings,
    source: DataSource,
    out: Path,
    *,
    processes: int,
    resume: bool = False,
    keep_model: bool,
) -> None:
    inputs = Inputs.load(source, settings.weights)
    jobs = [
        Job(
            experiment=row,
            settings=settings,
            source=source,
            folder=out / f"{row.name}-{settings.seed}",
            resume=resume,
            keep_model=keep_model,
        )
        for row in rows
    ]
    run_all(jobs, inputs, processes=_positive(processes))


def _show(out: Path) -> None:
    """Prints the table of all runs in a folder, writes their summary and figures, and says where they are."""
    results = collect(out)
    print(table.text_table(results))
    print()
    for path in [*write_summary(results, out), *figures.draw(results, out / "figures")]:
        print(path)
    print(out / "*" / PREDICTIONS)


def _free_folder(folder: Path) -> Path:
    """Returns the folder, or the first of folder-2, folder-3 … that is not there yet."""
    candidates = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
