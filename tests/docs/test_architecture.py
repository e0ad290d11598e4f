"""The picture of the architecture holds the imports that there are, and no others."""

import importlib
import re
import sys

import pytest

from docs import architecture
from docs.architecture import PACKAGES, direct, imports, levels, svg


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_and_every_import_is_in_the_picture(package):
    picture = svg(package)
    shown = set(re.findall(r'text-anchor="middle" fill="#111">(\w+)<', picture))
    folder = PACKAGES[package]
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    assert shown - set(architecture.LIBRARIES) == files - set(architecture.LIBRARIES)
    edges = set(re.findall(r'data-from="(\w+)" data-to="(\w+)"', picture))
    graph = imports(folder)
    assert edges <= {(name, other) for name, others in graph.items() for other in others}
    # What is left out follows from what is drawn.
    for name, others in graph.items():
        reached, ahead = set(), [name]
        while ahead:
            found = {end for start, end in edges if start == ahead[-1]} - reached
            ahead.pop()
            reached |= found
            ahead += found
        assert others <= reached, name


@pytest.mark.parametrize("package", PACKAGES)
def test_what_python_imports_is_what_is_read(package):
    """Python itself tells which of the package's modules a module's namespace has names of."""
    graph = imports(PACKAGES[package])
    for name in graph.keys() - set(architecture.LIBRARIES):
        module = importlib.import_module(f"{package}.{name}")
        for value in vars(module).values():
            origin = value.__name__ if type(value) is type(sys) else getattr(value, "__module__", None)
            if isinstance(origin, str) and origin.startswith(f"{package}."):
                other = origin.removeprefix(f"{package}.")
                assert other == name or other in graph[name] or other in _reached(graph, name), (name, other)


def _reached(graph, name):
    return graph[name].union(*(_reached(graph, other) for other in graph[name]))


def test_a_module_stands_above_what_it_imports():
    for folder in PACKAGES.values():
        graph = imports(folder)
        level = levels(graph)
        assert all(level[name] > level[other] for name, others in graph.items() for other in others)


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match=r"got a -> b -> a$"):
        levels({"a": {"b"}, "b": {"a"}})


def test_an_import_that_a_longer_way_implies_is_left_out():
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert direct(graph) == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}


def test_imports_within_functions_count_and_those_of_types_do_not(tmp_path):
    (tmp_path / "a.py").write_text(
        "from typing import TYPE_CHECKING\nfrom . import b\nif TYPE_CHECKING:\n    from .c import C\n"
        "def f():\n    from .d import D\n    import gradsurgery.plots\n"
    )
    for name in "bcd":
        (tmp_path / f"{name}.py").touch()
    assert imports(tmp_path)["a"] == {"b", "d", "gradsurgery"}
