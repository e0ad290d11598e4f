"""What the distributions promise: torch alone, typed, one place for each version; and the workflows."""

import re
from pathlib import Path

import pytest
import tomllib
import yaml

import gradsurgery
import smartreg

ROOT = Path(__file__).parents[1]
LIBRARIES = {"gradsurgery": gradsurgery, "smartreg": smartreg}
PROJECTS = {
    name: tomllib.loads((ROOT / name / "pyproject.toml").read_text(encoding="utf-8")) for name in LIBRARIES
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_needs_torch_alone_and_is_typed(name):
    project = PROJECTS[name]["project"]
    assert project["dependencies"] == ["torch>=2.4"]
    assert "py.typed" in PROJECTS[name]["tool"]["setuptools"]["package-data"][name]
    assert (ROOT / name / "py.typed").is_file()
    files = {path.name for path in (ROOT / name).iterdir() if path.suffix not in (".py", ".md", ".toml")}
    shipped = set(PROJECTS[name]["tool"]["setuptools"]["package-data"][name])
    assert {file for file in files if (ROOT / name / file).is_file()} <= shipped | {"LICENSE"}
    declared = {c.rpartition(" :: ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert declared == {"3.10", "3.11", "3.12", "3.13"}
    assert project["requires-python"] == ">=3.10"


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_librarys_version_stands_in_one_place(name):
    assert PROJECTS[name]["project"]["dynamic"] == ["version"]
    assert PROJECTS[name]["tool"]["setuptools"]["dynamic"]["version"] == {"attr": f"{name}.__version__"}
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / name).glob("*.py")]
    assert sum(len(re.findall(r"^__version__ = ", text, re.MULTILINE)) for text in sources) == 1


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_changelog_tells_of_the_version(name):
    headings = re.findall(
        r"^## (.+)$", (ROOT / name / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] in ("Unreleased", LIBRARIES[name].__version__)
    assert LIBRARIES[name].__version__ in headings


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == gradsurgery.__version__ == smartreg.__version__


def test_workflows_call_targets_that_there_are_with_no_more_rights_than_they_need():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert {path.name for path in WORKFLOWS} == {"tests.yml", "docs.yml", "release.yml"}
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        assert set(re.findall(r"make ([\w-]+)", text)) <= targets
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 90
    publish = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    assert publish["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "password" not in str(publish)


def test_the_matrix_has_every_python_that_is_declared_and_the_oldest_torch():
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    matrix = tests["jobs"]["libraries"]["strategy"]["matrix"]
    assert set(matrix["python"]) == {"3.10", "3.11", "3.12", "3.13"}
    assert {entry["torch"] for entry in matrix["include"]} == {"==2.4.0"}


def test_a_commit_is_checked_by_the_commands_of_make_check_and_fetches_nothing():
    pre_commit = pytest.importorskip("pre_commit.clientlib")
    repos = pre_commit.load_config(ROOT / ".pre-commit-config.yaml")["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} <= {"system", "unsupported"}  # two names of one thing
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^check:.*\n((?:\t.+\n)+)", makefile, re.MULTILINE)
    checks = re.findall(r"\$\(BIN\)/(.+?)(?: \$\(SOURCES\))?$", recipe, re.MULTILINE)
    entries = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks]
    assert sorted(entries) == sorted(check.removesuffix(" --check") for check in checks)


def test_issue_forms_are_what_their_reader_takes():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= form.keys()
            ids = [part["id"] for part in form["body"]]
            assert len(ids) == len(set(ids))
