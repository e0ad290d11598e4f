"""Every block of every README and page is of a kind that is run: Python, a changed loop, commands, output."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from minbert_multitask import cli

import gradsurgery

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "gradsurgery", "smartreg", "examples/minbert_multitask", "examples/recipes", "benchmarks")
READMES = [ROOT / folder / "README.md" for folder in FOLDERS]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "examples/minbert_multitask/RESULTS.md"]
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
        "examples/minbert_multitask/RESULTS.md": "tests/test_readme.py",
    }
    assert sorted(pages) == sorted(compared)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_the_files_that_a_page_names_are_there(name):
    named = re.findall(r"`([\w./-]+/[\w-]+\.\w+)`", (ROOT / name).read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


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
