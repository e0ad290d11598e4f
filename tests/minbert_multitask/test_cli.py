"""The command line from end to end, on small data and small weights."""

import csv
import json
from dataclasses import fields

import pytest
from minbert_multitask import cli, commands, smart_diagnosis
from minbert_multitask.experiments import EXPERIMENTS, select
from minbert_multitask.results import RunResult, collect
from minbert_multitask.settings import Settings

PREDICTION_FILES = sorted(
    f"{task}-{split}-output.csv" for task in ("sst", "para", "sts") for split in ("dev", "test")
)


@pytest.fixture
def call(small_data, small_weights, tmp_path, capsys):
    """Calls ``minbert`` with the small data and weights where a command takes them."""

    def call(command, *arguments, status=0):
        options = [str(argument) for argument in arguments]
        if command == "train":
            given = (
                "--epochs",
                2,
                "--iterations",
                2,
                "--batch-size",
                4,
                "--out",
                tmp_path / "runs",
                "--lr",
                1e-3,
            )
            options += [str(option) for option in (*given, "--data", small_data, "--weights", small_weights)]
        assert cli.main([command, *options]) == status
        return capsys.readouterr()

    return call


def test_list_names_every_row(call):
    printed = call("list").out.splitlines()
    assert [line.split()[0] for line in printed] == list(EXPERIMENTS)


@pytest.mark.parametrize(
    "command", ["list", "train", "evaluate", "predict", "table", "figures", "diagnose-smart", "demo", None]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*([command] if command else []), "--help"])
    assert caught.value.code == 0
    assert "usage: minbert" in capsys.readouterr().out


def test_the_defaults_are_the_papers():
    options = cli._parser().parse_args(["train", "gse"])
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    assert settings == Settings()
    assert (settings.iterations, settings.epochs, settings.batch_size, settings.lr, settings.seed) == (
        755,
        10,
        8,
        1e-5,
        11711,
    )
    assert 3 * 755 == 2265
    assert options.data == "demo"


def test_train_evaluate_predict_table_and_figures(call, tmp_path):
    printed = call("train", "multitask", "zero-shot")
    runs = tmp_path / "runs"
    for name in ("multitask-11711", "zero-shot-11711"):
        assert sorted(path.name for path in (runs / name / "predictions").iterdir()) == PREDICTION_FILES
        assert not (runs / name / "checkpoint.pt").exists()
    assert str(runs / "results.csv") in printed.out.splitlines()
    assert "[2/2]" in printed.err

    trained = RunResult.load(runs / "multitask-11711" / "result.json")
    assert len(trained.epochs) == 2
    assert trained.best_epoch == max(trained.epochs, key=lambda epoch: epoch.dev["overall"]).epoch
    for name in ("multitask-11711", "zero-shot-11711"):
        scores = RunResult.load(runs / name / "result.json").dev.values()
        evaluated = call("evaluate", runs / name).out
        assert "bootstrap 95 % intervals" in evaluated
        for metric, value in scores.items():
            (line,) = (line for line in evaluated.splitlines() if line.split()[0] == metric)
            assert f"{value:.3f}" in line
        first = {path.name: path.read_bytes() for path in (runs / name / "predictions").iterdir()}
        written = call("predict", runs / name, "--out", tmp_path / name).out.splitlines()
        assert sorted(first) == sorted(path.rpartition("/")[2] for path in written)
        for path in (tmp_path / name).iterdir():
            assert path.read_bytes() == first[path.name]

    table = call("table", runs).out
    for name in [*(name for name, row in EXPERIMENTS.items() if row.group == "paper"), "zero-shot"]:
        assert name in table
    assert "|" in call("table", runs, "--markdown").out
    rows = list(csv.DictReader((runs / "results.csv").open(encoding="utf-8")))
    assert [row["row"] for row in rows] == ["multitask", "zero-shot"]
    assert [run.row for run in collect(runs / "results.json")] == ["multitask", "zero-shot"]
    assert call("table", runs / "results.json").out == table
    drawn = call("figures", runs).out.splitlines()
    assert drawn
    assert all(path.startswith(str(runs / "figures")) and path.endswith(".png") for path in drawn)


def test_a_folder_of_prediction_files_is_scored_too(call, tmp_path, small_data):
    call("train", "multitask")
    run = tmp_path / "runs" / "multitask-11711"
    own = call("evaluate", run).out.splitlines()[1:]
    (run / "predictions").rename(tmp_path / "elsewhere")
    assert call("evaluate", tmp_path / "elsewhere", "--data", small_data).out.splitlines()[1:] == own


def test_two_processes_give_what_one_gives(call, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    call("train", "gse", "smart", "zero-shot")
    (tmp_path / "runs").rename(tmp_path / "one")
    call("train", "gse", "smart", "zero-shot", "--jobs", 2)
    for name in ("gse-11711", "smart-11711", "zero-shot-11711"):
        for file in PREDICTION_FILES:
            ours = (tmp_path / "runs" / name / "predictions" / file).read_bytes()
            assert ours == (tmp_path / "one" / name / "predictions" / file).read_bytes()
        devices = [
            RunResult.load(tmp_path / out / name / "result.json").versions["device"]
            for out in ("one", "runs")
        ]
        assert devices[0] == devices[1]  # as many threads, if fewer were asked for than there are cores


def test_a_finished_run_is_left_as_it_is_by_resume(call, tmp_path):
    call("train", "multitask")
    path = tmp_path / "runs" / "multitask-11711" / "result.json"
    former = path.read_bytes()
    assert "done before" in call("train", "multitask", "--resume").err
    assert path.read_bytes() == former


def test_a_constant_prediction_is_flagged_and_scores_zero(call, tmp_path):
    call("train", "zero-shot")
    path = tmp_path / "runs" / "zero-shot-11711" / "result.json"
    content = json.loads(path.read_text())
    assert content["runs"][0]["dev"]["sst"]["flagged"]
    assert "a constant prediction" in call("evaluate", path.parent).out


def test_the_demo_runs_the_rows_of_every_table_and_never_writes_over_an_older_one(
    call, tmp_path, small_weights, monkeypatch
):
    sizes = {task: {"train": 24, "dev": 12, "test": 6} for task in ("sst", "qqp", "sts")}
    monkeypatch.setattr("minbert_multitask.corpus.write.__kwdefaults__", {"seed": 1, "sizes": sizes})
    monkeypatch.setattr(commands, "DEMO", Settings(**{**vars(commands.DEMO), "layers": 1, "batch_size": 2}))
    arguments = ("--out", tmp_path / "demo", "--weights", small_weights, "--jobs", 1, "--iterations", 1)
    printed = call("demo", *arguments).out
    rows = {row.name for row in select(["paper", "beside"])}
    assert len(rows) == 16
    assert all(name in printed for name in rows)
    assert {run.row for run in collect(tmp_path / "demo")} == rows
    for file in (
        "results.json",
        "results.csv",
        "figures/scores.png",
        "figures/smart.png",
        "figures/conflicts.png",
    ):
        assert (tmp_path / "demo" / file).stat().st_size > 0
        assert str(tmp_path / "demo" / file) in printed
    call("demo", *arguments)
    assert (tmp_path / "demo-2" / "results.csv").exists()


def test_diagnose_smart(call, small_data, small_weights, tmp_path):
    arguments = ("--data", small_data, "--weights", small_weights, "--out", tmp_path / "d", "--samples", 1)
    printed = call("diagnose-smart", *arguments).out
    found = json.loads((tmp_path / "d" / "diagnosis.json").read_text(encoding="utf-8"))
    assert list(found["tasks"]) == ["sst", "qqp", "sts"]
    assert found["data"]["name"] == small_data.name
    for task, one in found["tasks"].items():
        published, sweep = one["published"], one["sweep"]
        assert published["epsilon"] == 1e-5
        assert f"{task}: epsilon 1e-05 is {published['verdict']}" in printed
        assert "inert" in published["verdict"]
        assert len(sweep) == 7
        (same,) = (d for d in sweep if d["epsilon"] == pytest.approx(1e-5))
        assert same["adversarial"] == pytest.approx(published["adversarial"], rel=0.5)
        assert f"{task}: for a tenth of the task's gradient" in printed
        if one["calibrated_epsilon"] is not None:
            first = next(n for n, d in enumerate(sweep) if d["gradient_share"] >= 0.08)
            assert sweep[first - 1]["epsilon"] / 2 < one["calibrated_epsilon"] < 2 * sweep[first]["epsilon"]
    assert (tmp_path / "d" / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    again = smart_diagnosis.load(tmp_path / "d" / "diagnosis.json")
    assert [line for task, one in again.items() for line in smart_diagnosis.summary(task, one)] == [
        line for line in printed.splitlines() if ": " in line
    ]
    refused = call("diagnose-smart", *arguments[:-1], 0, status=2)
    assert refused.err == "minbert: error: samples must be at least 1, got 0\n"
