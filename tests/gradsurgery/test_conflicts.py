"""Reports against the definition of a cosine; what they print and log."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import ConflictReport, PCGrad
from tests.gradsurgery.reference import QUARTER, losses_with, matrices, parameters_like


def report_of(rows, names=None, **options):
    parameters = parameters_like(rows[0])
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0), scope="all", **options)
    losses = losses_with(rows, parameters)
    optimizer.backward(losses if names is None else dict(zip(names, losses, strict=True)))
    return optimizer.conflicts, parameters[0].grad


@QUARTER
@given(rows=matrices(tasks=(1, 5)), mean=st.booleans())
def test_a_report_describes_the_rows(rows, mean):
    rows = rows[:, rows.any(dim=0)] if rows.any() else rows
    report, result = report_of(rows, reduction="mean" if mean else "sum")
    lengths = rows.norm(dim=1)
    torch.testing.assert_close(report.norms, lengths)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            expected = (
                torch.cosine_similarity(a, b, dim=0, eps=0.0) if a.any() and b.any() else torch.tensor(0.0)
            )
            assert report.cosines[i, j].item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(report.weights @ rows, result)
    pairs = [(i, j) for i in range(len(rows)) for j in range(i) if rows[i].any() and rows[j].any()]
    negative = sum(report.cosines[i, j] < 0 for i, j in pairs)
    assert report.conflict_rate == (negative / len(pairs) if pairs else pytest.approx(math.nan, nan_ok=True))


def test_pairs_go_by_the_tasks_names():
    report, _ = report_of(torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 2.0]]), names=["sst", "qqp", "sts"])
    assert report.tasks == ("sst", "qqp", "sts")
    assert report.pairs == {
        ("sst", "qqp"): pytest.approx(-(0.5**0.5)),
        ("sst", "sts"): 0.0,
        ("qqp", "sts"): pytest.approx(0.5**0.5),
    }


def test_a_report_shows_what_is_not_finite():
    gramian = torch.tensor([[1.0, math.nan], [math.nan, math.inf]])
    assert ConflictReport(("a", "b"), gramian, torch.ones(2)).cosines.isnan()[0, 1]


def test_there_is_a_report_after_a_backward_only():
    parameters = parameters_like(torch.zeros(2))
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0))
    assert optimizer.conflicts is None
    optimizer.backward(losses_with(torch.ones(2, 2), parameters), accumulate=True)
    assert optimizer.conflicts is None


class Writer:
    def __init__(self):
        self.scalars = {}

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars[tag, global_step] = scalar_value


def test_a_report_equals_itself_and_can_be_kept_in_a_set():
    report, other = (report_of(torch.eye(2))[0] for _ in range(2))
    assert report == report
    assert report != other
    assert len({report, other}) == 2


def test_a_report_is_logged_to_whatever_has_add_scalar():
    rows = torch.tensor([[3.0, 4.0], [-3.0, 4.0]])
    parameters = parameters_like(rows[0], [1, 1])
    optimizer = PCGrad(
        torch.optim.SGD(parameters, lr=1.0),
        scope="all",
        granularity="parameter",
        breakdown={"x": parameters[:1]},
    )
    optimizer.backward(dict(zip("ab", losses_with(rows, parameters), strict=True)))
    writer = Writer()
    optimizer.conflicts.log(writer, 7)
    assert writer.scalars == {
        ("conflicts/cosine/a-b", 7): pytest.approx(7 / 25),
        ("conflicts/norm/a", 7): 5.0,
        ("conflicts/norm/b", 7): 5.0,
        ("conflicts/weight/a", 7): 1.5,  # 2 where x is operated on, which cancels, and 1 for the other
        ("conflicts/weight/b", 7): 1.5,
        ("conflicts/conflict_rate", 7): 0.0,
        ("conflicts/x/cosine/a-b", 7): -1.0,
        ("conflicts/x/norm/a", 7): 3.0,
        ("conflicts/x/norm/b", 7): 3.0,
        ("conflicts/x/weight/a", 7): 2.0,
        ("conflicts/x/weight/b", 7): 2.0,
        ("conflicts/x/conflict_rate", 7): 1.0,
        ("conflicts/other/cosine/a-b", 7): 1.0,
        ("conflicts/other/norm/a", 7): 4.0,
        ("conflicts/other/norm/b", 7): 4.0,
        ("conflicts/other/weight/a", 7): 1.0,
        ("conflicts/other/weight/b", 7): 1.0,
        ("conflicts/other/conflict_rate", 7): 0.0,
    }
    turned = Writer()
    optimizer.backward(dict(zip("ba", losses_with(rows, parameters), strict=True)))
    optimizer.conflicts.log(turned, 7)
    assert turned.scalars.keys() == writer.scalars.keys()  # one pair, one curve
    alone = Writer()
    report_of(rows[:1])[0].log(alone, 0, prefix="one")
    assert set(alone.scalars) == {("one/norm/0", 0), ("one/weight/0", 0)}


def test_a_report_prints_as_a_table():
    gramian = torch.tensor([[4.0, -3.0, 0.0], [-3.0, 9.0, 0.0], [0.0, 0.0, 0.0]])
    trunk = ConflictReport(("sst", "qqp", "sts"), gramian, torch.ones(3))
    report = ConflictReport(("sst", "qqp", "sts"), gramian, torch.tensor([1.5, 2.0, 1.0]), {"trunk": trunk})
    assert str(report).splitlines() == [
        "1 of 3 pairs conflict",
        "task  norm  weight  cos sst  cos qqp  cos sts",
        "sst      2     1.5        ·   -0.500    0.000",
        "qqp      3       2   -0.500        ·    0.000",
        "sts      0       1    0.000    0.000        ·",
        "",
        "part   pairs that conflict  least cosine        of",
        "trunk                    1        -0.500  sst, qqp",
    ]
    alone = ConflictReport(("a",), gramian[:1, :1], torch.ones(1), {"x": trunk})
    assert str(alone).splitlines() == [
        "0 of 0 pairs conflict",
        "task  norm  weight  cos a",
        "a        2       1      ·",
    ]


def test_what_there_is_not_makes_no_curve():
    x, y = (torch.nn.Parameter(torch.ones(1)) for _ in "ab")
    optimizer = PCGrad(torch.optim.SGD([x, y], lr=1.0), granularity="group")
    optimizer.backward({"a": x.sum(), "b": y.sum()})  # nothing shared, no surgery
    writer = Writer()
    optimizer.conflicts.log(writer, 0)
    assert set(writer.scalars) == {("conflicts/norm/a", 0), ("conflicts/norm/b", 0)}
    assert "nan" not in str(optimizer.conflicts)
    overflowed, _ = report_of(torch.tensor([[math.inf, 1.0], [1.0, -1.0]]))
    assert math.isnan(overflowed.conflict_rate)
    writer = Writer()
    overflowed.log(writer, 0)
    assert not any("cosine" in tag or "rate" in tag for tag, _ in writer.scalars)
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert report_of(rows)[0].conflict_rate == 1.0  # of the one pair of gradients that are not zero
