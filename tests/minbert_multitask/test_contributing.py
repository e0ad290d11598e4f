"""What CONTRIBUTING.md shows works: the method obeys the laws of methods, the experiment trains."""

import re
from pathlib import Path

import pytest
import torch
from minbert_multitask import cli, experiments
from minbert_multitask.experiments import Experiment

from tests.gradsurgery.reference import operate, same
from tests.readme import run_python_blocks

ROOT = Path(__file__).parents[2]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TEXT = CONTRIBUTING.read_text(encoding="utf-8")
ROWS = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 1.0, 0.0], [-0.5, -1.0, 0.3]], dtype=torch.float64)


@pytest.fixture(scope="module")
def method():
    return run_python_blocks(CONTRIBUTING)["EqualLengths"]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_method_scales_with_the_gradients_and_keeps_their_directions(method, scale):
    result, optimizer = operate(method, scale * ROWS)
    lengths = ROWS.norm(dim=1, keepdim=True)
    same(result, scale * (lengths.mean() * ROWS / lengths).sum(0))
    assert optimizer.conflicts.weights.min() > 0


def test_a_zero_gradient_does_no_harm(method):
    result, _ = operate(method, torch.cat([ROWS, torch.zeros(1, 3)]).double())
    assert result.isfinite().all()


def test_one_task_keeps_its_gradient(method):
    same(operate(method, ROWS[:1])[0], ROWS[0])


def test_the_row_is_listed_and_trains(monkeypatch, capsys, small_data, small_weights, tmp_path):
    (line,) = re.findall(r"^(Experiment\(.*\)),$", TEXT, re.MULTILINE)
    row = eval(line, {"Experiment": Experiment})
    assert row.name not in experiments.EXPERIMENTS
    monkeypatch.setitem(experiments.EXPERIMENTS, row.name, row)
    assert cli.main(["list"]) == 0
    assert f"{row.name} " in capsys.readouterr().out
    schedule = ["--epochs", "1", "--iterations", "2", "--batch-size", "4", "--probe-every", "0"]
    places = ["--data", small_data, "--weights", small_weights, "--out", tmp_path]
    assert cli.main(["train", row.name, *schedule, *map(str, places)]) == 0
    assert re.search(rf"^{row.name} ", capsys.readouterr().out, re.MULTILINE)


def test_the_files_that_it_names_are_there():
    for name in re.findall(r"`([\w/.-]+/[\w.-]+\.\w+)`", TEXT):
        assert (ROOT / name).is_file(), name
