"""The READMEs of the checkout: what they show runs, and every table is that of a committed results file."""

import argparse
import json
import re
from itertools import combinations
from pathlib import Path
from statistics import fmean, median

import pytest
from minbert_multitask import cli, figures, findings, results_page, smart_diagnosis, table, task_conflicts
from minbert_multitask.experiments import EXPERIMENTS, TASKS, select
from minbert_multitask.protocol import SEEDS, SETTINGS
from minbert_multitask.results import RunResult, collect
from minbert_multitask.train import epoch_iterations

from .readme import run_python_blocks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "minbert_multitask"
RESULTS = EXAMPLE / "results"
REPRODUCTION = RESULTS / "reproduction"


@pytest.fixture(scope="module")
def real_runs() -> list[RunResult]:
    return collect(REPRODUCTION)


def test_the_python_blocks_run(capsys):
    names = run_python_blocks(ROOT / "README.md")
    assert names["penalty"] >= 0
    assert "tensor([[" in capsys.readouterr().out


def test_the_root_readme_quotes_the_protocol():
    text = " ".join(README.split())
    done = SETTINGS.epochs * SETTINGS.iterations
    (longer,) = {row.epoch_multiple for row in EXPERIMENTS.values() if row.name.endswith("-3x")}
    assert f"{done} iterations a row ({longer * done} in rows named -3x), a twenty-fifth of" in text
    assert round(10 * 755 / done) == 25


def test_the_demos_table_is_that_of_a_committed_run():
    printed = table.text_table(collect(RESULTS / "demo" / "results.json"))
    assert all(row.name in printed for row in select(["paper", "beside"]))
    shown = re.search(r"^```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL).group(1)
    start = printed[: printed.index("\n\n- ")]
    assert start in shown


def test_the_committed_runs_are_of_the_protocol(real_runs):
    assert {run.seed for run in real_runs} <= set(SEEDS)
    assert len({(run.row, run.seed) for run in real_runs}) == len(real_runs)
    for run in real_runs:
        assert run.data.sizes["sst"] == {"train": 8544, "dev": 1101, "test": 2210}
        assert bool(run.epochs) == (EXPERIMENTS[run.row].update != "none")
        assert {name: run.config[name] for name in vars(SETTINGS)} == {**vars(SETTINGS), "seed": run.seed}
        expected = epoch_iterations(EXPERIMENTS[run.row], SETTINGS)
        assert all(epoch.iterations == expected for epoch in run.epochs)


def test_the_page_of_results_is_written_from_the_committed_records(real_runs):
    page = (EXAMPLE / "RESULTS.md").read_text(encoding="utf-8")
    judged = findings.load(REPRODUCTION / "findings.json")
    assert results_page.fill(page, results_page.sections(real_runs, judged), EXAMPLE / "RESULTS.md") == page
    for path in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (EXAMPLE / path).exists(), path


def gaps_beyond_the_papers_sampling_error(correlation=0.0, rows=tuple(table.PAPER)):
    """How many gaps exceed 1.96 standard errors of two rows' difference, if the rows' errors correlate so."""
    chosen = [table.PAPER[row] for row in rows if table.PAPER[row]]
    scored = [scores for scores in table.PAPER.values() if scores]
    error = {}
    for task, size in {"sst": 1101, "qqp": 40429, "sts": 863}.items():
        score = median(scores[task] for scores in scored)
        error[task] = ((1 - score**2) if task == "sts" else (score * (1 - score)) ** 0.5) / size**0.5
    error["overall"] = (error["sst"] ** 2 + error["qqp"] ** 2 + (error["sts"] / 2) ** 2) ** 0.5 / 3
    pairs = list(combinations(chosen, 2))
    beyond = {
        metric: sum(
            abs(a[metric] - b[metric]) > 1.96 * (2 - 2 * correlation) ** 0.5 * error[metric] for a, b in pairs
        )
        for metric in ("sst", "qqp", "overall")
    }
    return beyond, len(pairs)


def test_the_page_of_results_says_in_short_what_the_tables_show(real_runs):
    text = " ".join((EXAMPLE / "RESULTS.md").read_text(encoding="utf-8").split())
    beyond, pairs = gaps_beyond_the_papers_sampling_error()
    assert (
        f"Of the {pairs} gaps between its twelve scored rows, {beyond['sst']} in SST, {beyond['overall']}"
        in text
    )
    assert f"{beyond['qqp']} in QQP (40,429 pairs) exceed 1.96 standard errors" in text
    others = [row for row in table.PAPER if row not in ("cosine-embedding", "cosine-d")]
    assert gaps_beyond_the_papers_sampling_error(rows=others)[0]["overall"] == 0
    shared, _ = gaps_beyond_the_papers_sampling_error(0.5)
    told = (
        "at a correlation of .5, the median between ours in SST, the counts are {sst}, {overall} and {qqp}."
    )
    assert told.format(**shared) in text
    protocol = " ".join((EXAMPLE / "PROTOCOL.md").read_text(encoding="utf-8").split())
    assert (
        "Sampling error on its dev set is about .015 (SST), .002 (QQP, of 40,429 pairs) and .03 (STS)"
        in protocol
    )
    assert beyond["sst"] == 0
    assert beyond["overall"] < pairs / 2
    best = [run.dev for run in real_runs if run.row == "best"]
    sst, qqp, sts = (fmean(scores[task].value for scores in best) for task in TASKS)
    told = f"SST {sst:.3f}, QQP {qqp:.3f} and STS {sts:.3f} on dev, means of"
    count = {2: "two", 3: "three"}[len(best)]
    assert f"{told} {count} seeds; it was made for .50, .80 and .85" in text
    heads = ("cosine-embedding", "cosine-d", "cosine-2d+1", "gse")
    sts = {row: [run.dev.sts.value for run in real_runs if run.row == row] for row in heads}
    untrained = json.loads((REPRODUCTION / "mechanisms.json").read_text())["saturation"]["cls"][
        "cosine_pearson"
    ]
    assert f"it ends below the untrained cosine of `[CLS]`, {untrained:.3f}" in text
    assert table.PAPER["gse-3x"]["overall"] == table.PAPER["gse"]["overall"]
    assert max(sts["cosine-embedding"]) < untrained
    assert min(sts.pop("cosine-embedding")) > max(max(values) for values in sts.values()) + 0.2
    assert min(table.PAPER, key=lambda row: (table.PAPER[row] or {"sts": 1})["sts"]) == "cosine-embedding"
    verdicts = {found.claim.row: found for found in findings.load(REPRODUCTION / "findings.json")}
    assert {verdicts["smart-3x"].verdict, verdicts["cosine-2d+1-3x"].verdict} == {findings.CONFIRMED}
    assert verdicts["gse-3x"].verdict == findings.UNDECIDED
    assert verdicts["mean-pooling"].verdict == findings.CONFIRMED
    assert f"helps `multitask`**, by {verdicts['mean-pooling'].difference.value:.3f} overall" in text
    assert verdicts["cosine-2d+1-mean"].verdict == findings.UNDECIDED
    surgeries = ("upgrad", "nash-mtl", "aligned-mtl", "imtl-g", "config", "cagrad", "mgda")
    assert [verdicts[row].verdict for row in surgeries] == [findings.CONFIRMED] * 5 + [findings.UNDECIDED] * 2
    helps = [verdicts[row].difference.value for row in surgeries[:5]]
    assert f"help `multitask`**, by {min(helps):.3f} to {max(helps):.3f} overall" in text
    assert min(helps) == helps[0]
    assert verdicts["masked-lm"].verdict == findings.REFUTED
    assert f"harms `multitask`, by {-verdicts['masked-lm'].difference.value:.3f} overall" in text
    for row in ("uncertainty", "dwa", "max-pooling", "smart", "smart-calibrated", "smart-bregman"):
        assert verdicts[row].verdict == findings.UNDECIDED
    longer = [verdicts[row].difference.value for row in ("cosine-2d+1-3x", "gse-3x", "smart-3x")]
    assert longer == sorted(longer)
    assert verdicts["joint-pairs"].verdict == findings.CONFIRMED
    means = {
        row: fmean(run.dev.sts.value for run in real_runs if run.row == row)
        for row in ("joint-pairs", "cosine-embedding", "multitask", "zero-shot")
    }
    told = "{joint-pairs:.3f} against {cosine-embedding:.3f} of `cosine-embedding`, the best of them, and"
    assert f"{told} {{multitask:.3f}} of `multitask`, means of three seeds".format(**means) in text
    conflicts = task_conflicts.task_conflicts([run for run in real_runs if run.row in table.PAPER])
    assert {found.verdict for found in conflicts} == {findings.UNDECIDED}
    furthest = max(abs(found.cosine.value) for found in conflicts)
    assert f"each mean is within {furthest:.3f} of 0, and each interval contains 0." in text
    overall = {
        row: fmean(run.dev.overall.value for run in real_runs if run.row == row)
        for row in ("gs", "upgrad", "multitask")
    }
    gained = [overall[row] - overall["multitask"] for row in ("gs", "upgrad")]
    assert f"its mean difference is {gained[0]:.3f}, as UPGrad's." in text
    assert round(gained[0], 3) == round(gained[1], 3)
    assert f"`zero-shot`, the cosine of mean embeddings, has {means['zero-shot']:.3f}" in text


def test_every_trained_row_of_the_paper_learned_every_task_in_some_epoch(real_runs):
    best = {}
    for run in real_runs:
        for task in TASKS if run.epochs else ():
            above = max(epoch.dev[task] for epoch in run.epochs) - run.data.constant[task]
            best[run.row, task] = max(above, best.get((run.row, task), above))
    assert min(best.values()) > 0, min(best, key=best.get)


def test_the_committed_pictures_are_drawn_from_the_committed_runs(real_runs, tmp_path):
    judged = findings.load(REPRODUCTION / "findings.json")
    drawn = {path.name for path in figures.draw(real_runs, tmp_path, judged)}
    assert drawn == {path.name for path in (REPRODUCTION / "figures").iterdir()}
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_nothing_committed_names_a_folder_of_somebodys_machine(real_runs):
    for run in real_runs:
        assert not any(str(value).startswith("/") for value in run.config.values())
    for path in REPRODUCTION.glob("*/log.txt"):
        assert not re.search(r"(^|\s)/\w+/", path.read_text(encoding="utf-8")), path


def test_the_page_of_results_states_the_committed_diagnosis_of_smart():
    text = " ".join((EXAMPLE / "RESULTS.md").read_text(encoding="utf-8").split())
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
