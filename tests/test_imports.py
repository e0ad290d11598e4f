"""Who may import whom: the libraries torch alone, the example the libraries' public names."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("gradsurgery", "smartreg")
PLOTS = tuple(f"{library}.plots" for library in LIBRARIES)  # public, and apart for the sake of matplotlib
EXAMPLE = ROOT / "examples" / "minbert_multitask"
FILES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for folder in (*(ROOT / name for name in LIBRARIES), EXAMPLE)
    for path in sorted(folder.glob("*.py"))
}


def imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields every absolute import below a node: the module, and the names taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module, tuple(alias.name for alias in node.names)


def at_import_time(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the imports outside functions, ``if TYPE_CHECKING`` left out."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from imports(node)


def libraries_files() -> list[Path]:
    return [path for path in FILES if path.parts[0] in LIBRARIES]


@pytest.mark.parametrize("path", libraries_files(), ids=str)
def test_a_library_needs_torch_and_the_standard_library_alone(path):
    allowed = {*sys.stdlib_module_names, "torch", path.parts[0]}
    for module, _ in at_import_time(FILES[path]):
        assert module.split(".")[0] in allowed, f"{path} imports {module}"


@pytest.mark.parametrize("path", libraries_files(), ids=str)
def test_a_library_never_imports_the_other_nor_numpy_nor_the_example(path):
    forbidden = {*LIBRARIES, "numpy", "minbert_multitask"} - {path.parts[0]}
    for module, _ in imports(FILES[path]):
        assert module.split(".")[0] not in forbidden, f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "examples"], ids=str)
def test_the_example_takes_only_public_names_of_the_libraries(path):
    for module, names in imports(FILES[path]):
        if module.split(".")[0] in LIBRARIES:
            assert module in LIBRARIES + PLOTS, f"{path} imports {module}, which is not public"
            if module in LIBRARIES:
                public = {*importlib.import_module(module).__all__, "__version__"}
                assert set(names) <= public, f"{path}: {names}"
        assert module.split(".")[0] not in ("tests", "benchmarks"), f"{path} imports {module}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_public_name_is_there_and_documented(library):
    module = importlib.import_module(library)
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{library}.{name} has no docstring"
