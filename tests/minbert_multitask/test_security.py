"""No file that is read can run code: a hostile pickle in the place of each, and no call that could."""

import ast
import contextlib
import io
import pickle
from pathlib import Path

import pytest
import torch

import gradsurgery
from tests.minbert_multitask import places

ROOT = Path(__file__).parents[2]
FOLDERS = ("gradsurgery", "smartreg", "examples/minbert_multitask")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
ASKED_FOR = {"kernels.py": {"ctypes", "subprocess"}}  # SECURITY.md names the one call
RUN_CODE = {"eval", "exec", "compile", "__import__"}
MODULES_THAT_RUN_CODE = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "runpy",
    "subprocess",
}


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return exec, (f"open({self.marker!r}, 'w').close()",)


def pickled(marker):
    return pickle.dumps({"epoch": Hostile(marker)}, protocol=2)


def zipped(marker):
    """The form that torch.save writes."""
    buffer = io.BytesIO()
    torch.save({"epoch": Hostile(marker)}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    places.make(folder)
    return folder


@pytest.mark.parametrize("form", [pickled, zipped])
def test_the_payload_runs_where_nothing_guards_against_it(form, tmp_path):
    with contextlib.suppress(RuntimeError):  # that what it has unpickled is no checkpoint: too late
        torch.load(io.BytesIO(form(tmp_path / "ran")), weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", [pickled, zipped])
@pytest.mark.parametrize("file", places.READERS)
def test_no_reader_runs_it_and_each_says_so_in_one_line(file, form, place, tmp_path):
    assert (place / file).is_file()
    with places.replaced(place, file, form(tmp_path / "ran")):
        status, line = places.call(*places.READERS[file])
    assert status == 2
    assert line.startswith("minbert: error: ")
    assert Path(file).name in line
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", places.READERS)
def test_each_reader_takes_the_file_that_it_expects(file, place):
    with places.replaced(place, file, (place / file).read_bytes()):
        status, line = places.call(*places.READERS[file])
    assert status == 0, line


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_has_a_call_that_could_run_a_file(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & MODULES_THAT_RUN_CODE - ASKED_FOR.get(path.name, set()), (
                f"{path.name}:{node.lineno}"
            )
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in RUN_CODE, f"{path.name}:{node.lineno} calls {called}"
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called == "torch.load":
            assert options.get("weights_only") == "True", f"{path.name}:{node.lineno}"
        assert options.get("allow_pickle", "False") == "False", f"{path.name}:{node.lineno}"
        assert "trust_remote_code" not in options, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("name", ["PCGrad", "GradVac", "NashMTL", "GSE"])
def test_the_libraries_state_passes_weights_only(name):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(gradsurgery, name)(torch.optim.AdamW([weight]))
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward({"a": lambda: weight.square().sum(), "b": lambda: weight[0] - weight[1]})
        optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    optimizer.load_state_dict(torch.load(buffer, weights_only=True))
