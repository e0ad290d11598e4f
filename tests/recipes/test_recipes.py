"""The recipes: each is one page, runs, and prints what it was like before and after, and the conflicts."""

import ast
import math
import re
import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "recipes"
RECIPES = sorted(FOLDER.glob("*.py"))
NEEDS = {
    "accelerate_pcgrad.py": ("accelerate",),
    "huggingface_trainer.py": ("transformers", "accelerate"),
    "lightning_pcgrad.py": ("lightning",),
}


def test_every_recipe_is_in_the_readme_and_the_other_way_round():
    named = re.findall(r"\]\((\w+\.py)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert named
    assert sorted(named) == [path.name for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_one_page(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
@pytest.mark.filterwarnings("error:.*no surgery:UserWarning")
def test_a_recipe_runs_and_prints_before_after_and_the_conflicts(path, capsys):
    for package in NEEDS.get(path.name, ()):
        pytest.importorskip(package)
    with torch.random.fork_rng():
        runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    before, after = (
        ast.literal_eval(re.search(rf"^{when}, [^:]+: *(\{{.*\}})$", printed, re.MULTILINE).group(1))
        for when in ("before", "after")
    )
    assert before.keys() == after.keys()
    assert all(map(math.isfinite, [*before.values(), *after.values()]))
    assert before != after, "the surgery changed nothing"
    conflicts, pairs = map(int, re.search(r"^(\d+) of (\d+) pairs conflict$", printed, re.MULTILINE).groups())
    assert 0 <= conflicts <= pairs
    assert pairs >= 1
