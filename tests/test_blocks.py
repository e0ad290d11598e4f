"""Every block of every README and page is of a kind that is run: Python, a changed loop, commands, output."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from minbert_multitask import cli, smart_diagnosis
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.results import collect

import gradsurgery

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "gradsurgery", "smartreg", "examples/minbert_multitask", "examples/recipes", "benchmarks")
READMES = [ROOT / folder / "README.md" for folder in FOLDERS]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_generated" not in page.parts]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), kind, text)
    for page in READMES + PAGES
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))
]
RUN_ELSEWHERE = {"python": "with the page", "text": "against a results file"}


def of(kind):
    return [pytest.param(text, id=f"{page}-{k}") for k, (page, own, text) in enumerate(BLOCKS) if own == kind]


def test_every_block_is_of_a_kind_that_is_run():
    for page, kind, text in BLOCKS:
        directive = kind.startswith("{") and page.startswith("docs/")  # make docs builds it
        assert directive or kind in {"", "diff", *RUN_ELSEWHERE}, f"{page} has a block in {kind!r}:\n{text}"


def test_output_is_shown_where_a_test_compares_it():
    pages = [page for page, kind, _ in BLOCKS if kind == "text"]
    compared = {
        "README.md": "tests/test_readme.py",
        "CONTRIBUTING.md": "tests/minbert_multitask/test_contributing.py",
        "examples/minbert_multitask/README.md": "test_the_example_quotes_its_diagnosis_of_smart",
    }
    assert sorted(pages) == sorted(compared)


def test_the_example_quotes_its_diagnosis_of_smart():
    example = ROOT / "examples" / "minbert_multitask"
    text = (example / "README.md").read_text(encoding="utf-8")
    (shown,) = [
        text
        for page, kind, text in BLOCKS
        if (page, kind) == ("examples/minbert_multitask/README.md", "text")
    ]
    found = smart_diagnosis.load(example / "results" / "smart-diagnosis" / "diagnosis.json")
    for task, task_found in found.items():
        published = task_found.published
        assert f"{task}: epsilon {published.epsilon:g} is {published.verdict}" in shown
        assert f"take epsilon {task_found.calibrated_epsilon:.2g}" in shown
        assert re.search(rf"{published.gradient_share:.2g} \({task.upper()}\)", text)
        assert re.search(rf"{published.gain:,.0f} \({task.upper()}\)", text)


def loop_names():
    """What the loops of the diffs are given: a model, batches and two losses that conflict."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    x = torch.randn(8, 3)
    batches = [(x, x), (x, x)]

    def loss_a(model, batch):
        return (model(batch if isinstance(batch, torch.Tensor) else batch[0]) - 1).square().mean()

    def loss_b(model, batch):
        return (model(batch if isinstance(batch, torch.Tensor) else batch[0]) + 1).square().mean()

    losses = [loss_a(model, x), loss_b(model, x)]
    return {
        "torch": torch,
        "model": model,
        "batches": batches,
        "loss_a": loss_a,
        "loss_b": loss_b,
        "losses": losses,
    }


@pytest.mark.parametrize("text", of("diff"))
def test_both_sides_of_a_changed_loop_train(text):
    trained = {}
    for side in "-+":
        lines = [line for line in text.splitlines() if line[:1] in (" ", side)]
        program = "\n".join(line[1:] for line in lines)
        names = loop_names() | {"PCGrad": gradsurgery.PCGrad}
        if "from pcgrad" in program:  # a repository that no registry has
            continue
        before = [p.detach().clone() for p in names["model"].parameters()]
        exec(compile(program, f"{side} side", "exec"), names)
        after = list(names["model"].parameters())
        assert not any(torch.equal(p, q) for p, q in zip(before, after, strict=True)), side
        trained[side] = after
    assert "+" in trained
    changed = [line for line in text.splitlines() if line[:1] == "+"]
    assert 0 < len(changed) <= 3


def commands():
    for page, kind, text in BLOCKS:
        if kind == "":
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                if line.strip():
                    yield pytest.param(line, id=f"{page}: {line}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_is_one_that_there_is(line, capsys):
    words = shlex.split(line, comments=True)
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]  # set for the command
    name, *rest = words
    name = name.removeprefix(".venv/bin/")
    if name == "torchrun":
        options = torch.distributed.run.get_args_parser().parse_args(rest)
        assert options.module
        name, rest = {"minbert_multitask": "minbert"}[options.training_script], options.training_script_args
    if name == "make":
        targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif name == "pip":
        assert rest.pop(0) == "install"
        for word in rest:
            if "/" in word or word.endswith(".txt"):
                assert (ROOT / re.sub(r"\[.*", "", word)).exists(), word
            else:
                assert word.startswith("-") or re.sub(r"\[.*", "", word) in ("gradsurgery", "smartreg"), word
    elif name == "minbert":
        cli._parser().parse_args(rest)
    elif rest[:1] == ["-m"] and rest[1] in ("venv", "pytest"):
        assert importlib.util.find_spec(rest[1])
    else:
        assert (name, rest.pop(0)) == ("python", "-m"), line
        with pytest.raises(SystemExit, match="0"):
            importlib.import_module(rest.pop(0)).main(["--help"])
        known = capsys.readouterr().out
        for word in rest:
            assert not word.startswith("--") or word in known, word


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_a_readme_begins_with_a_picture_and_its_links_lead_to_files(path):
    text = path.read_text(encoding="utf-8")
    if path.parent.name != "recipes":
        assert "](" in text.split("\n## ")[0]
        assert re.search(r"^!\[[^]]+\]\([^)]+\.png\)$", "\n".join(text.splitlines()[:14]), re.MULTILINE)
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", BLOCK.sub("", text)):
        assert (path.parent / target).exists(), target


def test_the_root_readme_quotes_the_runs():
    """The sentences around the table of real data, whose figures no table holds."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    results = ROOT / "examples" / "minbert_multitask" / "results"
    runs = {run.row: run for run in collect(results / "real-data" / "results.json")}
    (longer,) = collect(results / "real-data-longer" / "results.json")
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
