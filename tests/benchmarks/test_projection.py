"""Small runs of the benchmarks of surgery; their committed results are what README.md shows."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    added,
    committed,
    end_to_end,
    goals,
    growth,
    measure,
    minbert,
    peers,
    projection,
    report,
    shapes,
    smart,
)
from gradsurgery import vectors
from tests.gradsurgery.counts import Launches

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("model", "tensors", "parameters"),
    # Devlin et al. 2018 give 110 M; He et al. 2016 25.6 M
    [("minilm", 103, 22_713_216), ("bert-base", 199, 109_482_240), ("resnet50", 161, 25_557_032)],
)
def test_shapes_are_those_of_the_model(model, tensors, parameters):
    found = shapes.MODELS[model]()
    assert (len(found), sum(map(math.prod, found))) == (tensors, parameters)


@pytest.mark.parametrize(("model", "layers", "width"), [("minilm", 6, 384), ("bert-base", 12, 768)])
def test_shapes_are_those_of_transformers(model, layers, width):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width)
    with torch.device("meta"):
        network = transformers.BertModel(config)
    assert sorted(map(tuple, (p.shape for p in network.parameters()))) == sorted(shapes.MODELS[model]())


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_the_order_of_the_projections_does_not_matter_for_the_rows(tasks):
    rows = [torch.cat([g.flatten() for g in row]) for row in shapes.rows([(40, 50), (50,)], tasks, CPU)]
    cosines = torch.corrcoef(torch.stack(rows))
    for i in range(tasks):
        for j in range(i):
            assert (cosines[i, j] < 0) == (i // 2 == j // 2)


@pytest.mark.parametrize("name", peers.PEERS)
def test_each_peer_that_is_there_gives_the_literal_algorithms_result(name):
    package, peer = peers.PEERS[name]
    problem = peers.Problem([(30, 20), (20,), (20, 30)], 3, CPU)
    try:
        call = projection.prepared(problem, peer)
    except ImportError:
        pytest.skip(f"{package} is not installed")
    right = problem.literal()
    for _ in range(2):  # the first may overwrite the gradients
        call()
        assert problem.error(right) < 1e-6
        call = projection.prepared(problem, peer)
    call()
    problem.parameters[0].grad[0, 0] += 1e-3 * right.abs().max()
    assert problem.error(right) > 1e-4


def test_a_peer_that_fails_is_a_row_that_says_so(monkeypatch):
    def failing(problem):
        raise ModuleNotFoundError("No module named 'absent'")

    def late(problem):
        return lambda: failing(problem)

    monkeypatch.setitem(peers.PEERS, "absent", ("absent", failing))
    monkeypatch.setitem(peers.PEERS, "late", ("late", late))
    found = projection.compare("mlp", 2, ["gradsurgery", "absent", "late"], CPU, rounds=2)
    assert found["rows"]["absent"]["error"] == "ModuleNotFoundError: No module named 'absent'"
    assert "error" in found["rows"]["late"]
    assert found["rows"]["gradsurgery"]["relative_error"] < 1e-6
    assert found["rows"][projection.LIMIT]["ratio"]["median"] == 1
    assert found["measured_with"]["versions"]["absent"] == "not installed"


@pytest.mark.parametrize("tasks", [3, 8])
def test_the_calls_alone_are_those_of_the_library(tasks):
    """T (T + 1) / 2 products a chunk; and one weighted sum."""
    rows = torch.randn(tasks, 2 * vectors.CHUNK + 1, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([0.999, *[0.001] * (tasks - 1)]) @ rows
    run = projection.calls(rows)
    with Launches() as launches:
        run()
    assert launches.names.count("aten::dot") == 3 * tasks * (tasks + 1) // 2
    torch.testing.assert_close(rows[0], expected)


def test_the_bandwidth_of_a_gpu_is_of_two_words_a_cycle(monkeypatch):
    # NVIDIA gives 3.35 TB/s for the H100 SXM: 5,120 bits at 2,619 MHz
    properties = SimpleNamespace(memory_clock_rate=2_619_000, memory_bus_width=5120)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert measure.peak_bandwidth(torch.device("cuda")) == pytest.approx(3352, abs=1)
    assert measure.peak_bandwidth(CPU) is None


def test_a_goal_is_reached_or_not(tmp_path, monkeypatch):
    for path in committed.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(committed, "RESULTS", tmp_path)
    found = committed.load("projection-minilm-3-cpu.json")
    found["rows"][projection.CALLS] = {"ratio": {"median": 1.4}}
    for times, said in [(1.49, "yes"), (1.51, "no")]:
        found["rows"]["gradsurgery"]["ratio"]["median"] = times
        (tmp_path / "projection-minilm-3-cpu.json").write_text(json.dumps(found), encoding="utf-8")
        (line,) = re.findall(r"^\| minilm, T = 3: x limit \|.*$", goals.goals_table(), re.MULTILINE)
        assert line.endswith(f"| {said} |")
        assert f" {times:.2f}; {projection.CALLS} 1.40 " in line
    assert projection.CALLS not in report.beside_table()


def test_the_peak_is_what_is_alive_at_a_time():
    def run():
        for _ in range(3):
            torch.ones(1000).mul(torch.ones(1000))

    assert 3 * 4000 <= measure.peak(run, CPU) < 3 * 4000 + 64


def test_a_slope_is_the_exponent():
    assert growth.slope([1, 2, 4, 8], [3 * x**1.5 for x in [1, 2, 4, 8]]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("gathered", "first"), [([1, 1, 1], 2), ([9, 9, 1], 4), ([1, 9, 1], 4), ([9, 9, 9], None)]
)
def test_gathering_takes_over_where_it_wins_from_then_on(gathered, first):
    points = [
        {
            "tasks": t,
            "rows": {w: {"cpu_ms": {"median": m}} for w, m in {"gathered": g, "in place": 5}.items()},
        }
        for t, g in zip([2, 3, 4], gathered, strict=True)
    ]
    assert growth.takes_over(points) == first


def test_the_scripts_write_what_the_report_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "TASKS", (2, 8))
    monkeypatch.setattr(growth, "SIZES", (1e6, 2e6))
    few = ["--rounds", "2", "--output", str(tmp_path)]
    projection.main(["--model", "mlp", "--peers", "gradsurgery", *few])
    growth.main(["--parameters", "1e6", *few])
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    small = ["--rows", "2", "--tokens", "8"]
    end_to_end.main(["--layers", "1", "--rounds", "1", *small, "--output", str(tmp_path)])
    (tmp_path / "end_to_end-kept.json").write_bytes((tmp_path / "end_to_end.json").read_bytes())
    added.main(["--layers", "1", "--rounds", "1", *small, "--output", str(tmp_path)])
    minbert.main([*small, "--rounds", "1", "--output", str(tmp_path)])
    smart.main(["--layers", "1", "--models", "minilm", "--rounds", "1", *small, "--output", str(tmp_path)])
    monkeypatch.setattr(committed, "RESULTS", tmp_path)
    text = report.filled(report.README.read_text(encoding="utf-8"))
    assert "mlp, T = 3, cpu" in text
    for name, draw in report.PICTURES.items():
        draw(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    memory = json.loads((tmp_path / "end_to_end.json").read_text())["memory"]
    # The gradients of three tasks either way (less the pooler's); of activations one task's or all tasks'.
    assert memory["by"]["losses"]["peak"] > memory["by"]["callables"]["peak"] > 2.9 * memory["gradient"]


def test_the_readme_shows_the_committed_results():
    text = report.README.read_text(encoding="utf-8")
    root = report.ROOT_README.read_text(encoding="utf-8")
    smartreg = report.SMARTREG_README.read_text(encoding="utf-8")
    for readme in (text, root, smartreg):
        assert report.filled(readme) == readme
    shown = {name for name in report.SECTIONS if f"<!-- {name} -->" in text}
    assert shown == set(report.SECTIONS) - {"beside"}
    assert "<!-- beside -->" in root
    assert "<!-- smart on one task -->" in smartreg
    for name in report.PICTURES:
        assert (committed.RESULTS / name).exists()
        assert f"(results/{name})" in text


def test_committed_results_are_right_and_name_no_folder():
    runs = committed.projections()
    assert {(run["model"], run["tasks"]) for run in runs} >= {("minilm", 3), ("bert-base", 3), ("minilm", 8)}
    for run in runs:
        own = run["rows"]["gradsurgery"]
        assert own["relative_error"] < 1e-6
        assert own["memory"] <= 0.05 or run["parameters"] < 10**6
    for path in Path(committed.RESULTS).glob("*.json"):
        assert '"/' not in path.read_text(encoding="utf-8")
