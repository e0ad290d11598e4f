"""Every trained row is in one family of a size to be read, and looks the same in every figure."""

import pytest
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.families import families

TRAINED = [row.name for row in EXPERIMENTS.values() if row.update != "none"]


def test_every_trained_row_is_a_member_of_one_family():
    members = [row for family in families(TRAINED) for row in family.members]
    assert sorted(members) == sorted(TRAINED)


def test_a_family_has_at_most_eight_rows_that_differ_in_colour_and_in_marker():
    for family in families(TRAINED):
        looks = family.looks.values()
        assert 2 <= len(looks) <= 8
        assert len({look.color for look in looks}) == len(looks)
        assert len({look.marker for look in looks}) == len(looks)


@pytest.mark.parametrize(
    ("title", "reference", "some"),
    [
        ("update", "", {"baseline", "multitask", "gs", "gse", "uncertainty"}),
        ("other surgery", "multitask", {"cagrad", "mgda", "config"}),
        ("STS head", "gse", {"cosine-d", "cosine-2d+1-mean"}),
        ("encoder and heads", "multitask", {"mean-pooling", "agreement", "joint-pairs"}),
        ("SMART", "multitask", {"smart", "smart-gse"}),
        ("longer epochs", "gse", {"smart-3x", "best"}),
    ],
)
def test_a_row_is_beside_the_row_that_it_varies(title, reference, some):
    (family,) = (family for family in families(TRAINED) if family.title == title)
    assert family.reference == reference
    assert some <= family.members.keys()
    assert list(family.looks) == [*([reference] if reference else []), *family.members]


def test_a_rows_look_does_not_depend_on_which_others_have_runs():
    for family in families(TRAINED):
        for row, look in family.members.items():
            (alone,) = families([row])
            assert (alone.title, alone.reference, alone.members) == (family.title, "", {row: look})


def test_rows_that_are_not_declared_are_a_family():
    (family,) = families(["mine", "yours"])
    assert (family.title, list(family.looks)) == ("other rows", ["mine", "yours"])
