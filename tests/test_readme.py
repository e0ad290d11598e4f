"""The READMEs of the checkout: what they show runs, and every table is that of a committed results file."""

import argparse
import re
from pathlib import Path

import pytest
from minbert_multitask import cli, figures, smart_diagnosis, table
from minbert_multitask.experiments import TASKS, select
from minbert_multitask.results import RunResult, collect

from .readme import run_python_blocks

EXPERIMENTS = {row.name: row for row in select(["paper", "beside"])}  # those that every table shows
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "minbert_multitask"
RESULTS = EXAMPLE / "results"
REAL = RESULTS / "real-data"


@pytest.fixture(scope="module")
def real_runs() -> list[RunResult]:
    return collect(REAL / "results.json")


def test_the_python_blocks_run(capsys):
    names = run_python_blocks(ROOT / "README.md")
    assert names["penalty"] >= 0
    assert "tensor([[" in capsys.readouterr().out


def test_the_table_is_that_of_the_committed_runs(real_runs):
    assert table.markdown_table(real_runs) in README


def test_the_root_readme_quotes_the_runs(real_runs):
    """The sentences around the table of real data, whose figures no table holds."""
    text = " ".join(README.split())
    runs = {run.row: run for run in real_runs}
    (longer,) = collect(RESULTS / "real-data-longer" / "results.json")
    score, constant = re.search(r"brings it to \.(\d+) against \.(\d+)", text).groups()
    assert f"{longer.dev['qqp'].value:.3f}"[2:] == score
    assert f"{longer.data.constant['qqp']:.4f}"[2:] == constant
    assert "no trained row beats what the weights know untrained (`zero-shot`) but on SST" in text
    untrained = runs.pop("zero-shot").dev
    best = {task: max(run.dev[task].value for run in runs.values()) for task in ("sst", "qqp", "sts")}
    assert [best[task] > untrained[task].value for task in best] == [True, False, False]
    hours = sum(run.epochs[-1].seconds for run in runs.values()) / 2 / 3600  # --jobs 2
    assert "two CPU cores finish in an hour and a half" in text
    assert 1.25 < hours < 1.75
    done = sum(epoch.iterations for epoch in runs["gs"].epochs)
    assert "a fortieth of the paper's" in text
    assert round(10 * 755 / done, -1) == 40
    assert f"All {sum(row.group == 'paper' for row in EXPERIMENTS.values())} rows" in text


def test_the_demos_table_is_that_of_a_committed_run():
    printed = table.text_table(collect(RESULTS / "demo" / "results.json"))
    assert all(row in printed for row in EXPERIMENTS)
    shown = re.search(r"^```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL).group(1)
    start = printed[: printed.index("\n\n- ")]
    assert start in shown


def test_every_row_ran_on_the_real_data(real_runs):
    assert {run.row for run in real_runs} == set(EXPERIMENTS)
    for run in real_runs:
        assert run.data.sizes["sst"] == {"train": 8544, "dev": 1101, "test": 2210}
        assert bool(run.epochs) == (EXPERIMENTS[run.row].update != "none")


def test_every_trained_row_learned_every_task_in_some_epoch(real_runs):
    best = {}
    for run in [*real_runs, *collect(RESULTS / "real-data-longer" / "results.json")]:
        for task in TASKS if run.epochs else ():
            above = max(epoch.dev[task] for epoch in run.epochs) - run.data.constant[task]
            best[run.row, task] = max(above, best.get((run.row, task), above))
    assert len(best) == 3 * sum(row.update != "none" for row in EXPERIMENTS.values())
    assert min(best.values()) > 0, min(best, key=best.get)


def test_the_committed_pictures_are_drawn_from_the_committed_runs(real_runs, tmp_path):
    drawn = {path.name for path in figures.draw(real_runs, tmp_path)}
    assert drawn == {path.name for path in (REAL / "figures").iterdir()}
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_nothing_committed_names_a_folder_of_somebodys_machine(real_runs):
    for run in real_runs:
        assert not any(str(value).startswith("/") for value in run.config.values())


def test_the_examples_readme_states_the_committed_diagnosis_of_smart():
    text = " ".join((EXAMPLE / "README.md").read_text(encoding="utf-8").split())
    found = smart_diagnosis.load(RESULTS / "smart-diagnosis" / "diagnosis.json")
    for task, one in found.items():
        assert all(line in text for line in smart_diagnosis.summary(task, one))
        assert f"{one.published.gradient_share:.2g} ({task.upper()})" in text
        assert f"{one.published.gain:,.0f} ({task.upper()})" in text
        assert 1e-3 < one.calibrated_epsilon < 1e-1
    assert (RESULTS / "smart-diagnosis" / "diagnosis.png").exists()


def test_the_examples_readme_names_every_command_and_file():
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    (subparsers,) = (
        action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    for command in subparsers.choices:
        assert f"minbert {command}" in text
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (EXAMPLE / name).exists(), name
