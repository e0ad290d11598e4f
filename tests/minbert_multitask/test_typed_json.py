"""Dataclasses through JSON and back, and JSON that does not fit."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.typed_json import from_plain, to_plain


@dataclass(frozen=True)
class Leaf:
    number: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Tree:
    count: int
    right: bool
    leaves: tuple[Leaf, ...]
    by_name: dict[str, dict[str, float]]
    maybe: Leaf | None
    older: Optional[int]  # noqa: UP045  the other spelling of a union
    anything: Any


TEXT = st.text(max_size=5)
FLOATS = st.floats()
LEAVES = st.builds(Leaf, FLOATS, TEXT)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
TREES = st.builds(
    Tree,
    count=st.integers(),
    right=st.booleans(),
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    by_name=st.dictionaries(TEXT, st.dictionaries(TEXT, FLOATS, max_size=2), max_size=2),
    maybe=st.none() | LEAVES,
    older=st.none() | st.integers(),
    anything=PLAIN,
)


def through_json(value, kind=Tree):
    return from_plain(json.loads(json.dumps(to_plain(value), allow_nan=False)), kind, place="value")


def same_number(a, b):
    return type(b) is float and (a == b or (not math.isfinite(a) and math.isnan(b)))


def same_leaf(a, b):
    return a == b if a is None or b is None else same_number(a.number, b.number) and a.name == b.name


@given(TREES)
def test_a_value_comes_back_equal_but_for_numbers_that_are_not_finite(tree):
    back = through_json(tree)
    assert type(back) is Tree
    assert (back.count, back.right, back.older, back.anything) == (
        tree.count,
        tree.right,
        tree.older,
        tree.anything,
    )
    assert type(back.right) is bool
    assert len(back.leaves) == len(tree.leaves)
    assert type(back.leaves) is tuple
    assert all(map(same_leaf, tree.leaves, back.leaves))
    assert same_leaf(tree.maybe, back.maybe)
    assert back.by_name.keys() == tree.by_name.keys()
    for name, numbers in tree.by_name.items():
        assert back.by_name[name].keys() == numbers.keys()
        assert all(same_number(number, back.by_name[name][key]) for key, number in numbers.items())


def test_whole_numbers_are_floats_where_floats_are_asked_for():
    number = from_plain(3, float, place="value")
    assert number == 3
    assert type(number) is float
    assert math.isnan(from_plain(None, float, place="value"))


GOOD = {
    "count": 1,
    "right": True,
    "leaves": [{"number": 0.5, "name": "a"}],
    "by_name": {"a": {"b": 1.0}},
    "maybe": None,
    "older": None,
    "anything": [1],
}


def test_the_example_that_the_refusals_vary_is_good():
    assert from_plain(GOOD, Tree, place="tree").leaves == (Leaf(0.5, "a"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1.0}, r"tree.count must be int, got '1.0'"),
        ({"count": "1"}, r"tree.count must be int, got '1'"),
        ({"count": True}, r"tree.count must be int, got 'True'"),
        ({"count": None}, r"tree.count must be int, got 'None'"),
        ({"right": 1}, r"tree.right must be bool, got '1'"),
        ({"leaves": {}}, r"tree.leaves must be tuple, got '{}'"),
        ({"leaves": [3]}, r"tree.leaves\[0\] must be Leaf, got '3'"),
        (
            {"leaves": [*GOOD["leaves"], {"number": "x", "name": "a"}]},
            r"tree.leaves\[1\].number must be float, got 'x'",
        ),
        ({"leaves": [{"number": True, "name": "a"}]}, r"tree.leaves\[0\].number must be float, got 'True'"),
        ({"leaves": [{"number": 1}]}, r"tree.leaves\[0\] must have number, name, got \['number'\]"),
        ({"leaves": [{}]}, r"tree.leaves\[0\] must have number, name, got \[\]"),
        (
            {"leaves": [{"number": 1, "name": "", "more": 1}]},
            r"tree.leaves\[0\] must have number, name, got \[.*'more'\]",
        ),
        (
            {"leaves": [{"number": 10**400, "name": ""}]},
            r"tree.leaves\[0\].number must be float, got a whole number beyond its range",
        ),
        ({"by_name": []}, r"tree.by_name must be dict, got '\[\]'"),
        ({"by_name": {"a\nb": 1}}, r"tree.by_name\['a\\nb'\] must be dict, got '1'"),
        (
            {"by_name": {"a": {"b": "long" * 99}}},
            r"tree.by_name\['a'\]\['b'\] must be float, got '(long){10}'",
        ),
        ({"maybe": 3}, r"tree.maybe must be Leaf, got '3'"),
        ({"older": 3.5}, r"tree.older must be int, got '3.5'"),
        ({"more\n": 3}, r"tree must have count, .*, anything, got \['count', .*"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change, message):
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        from_plain({**GOOD, **change}, Tree, place="tree")
    assert "\n" not in str(caught.value)


def test_what_has_a_default_may_be_missing():
    """A field that is added with a default leaves older files readable."""

    @dataclass(frozen=True)
    class Grown:
        name: str
        number: float = 2.0
        more: dict[str, float] = field(default_factory=dict)

    assert from_plain({"name": "a"}, Grown, place="value") == Grown("a", 2.0, {})
    assert from_plain({"name": "a", "more": {"b": 1}}, Grown, place="value") == Grown("a", 2.0, {"b": 1.0})
    with pytest.raises(ValueError, match=r"value must have name, number, more, got \['number'\]"):
        from_plain({"number": 1.0}, Grown, place="value")


@given(PLAIN)
def test_any_json_fits_or_is_refused_with_a_value_error(value):
    for kind in (Tree, Leaf, int, str, bool, float, dict[str, float], tuple[int, ...], int | None):
        try:
            found = from_plain(value, kind, place="value")
        except ValueError:
            continue
        expected = kind if isinstance(kind, type) and kind in (Tree, Leaf, int, str, bool, float) else object
        assert isinstance(found, expected)
