"""The picture of the claims: their differences, intervals and verdicts, and the paper's differences."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from minbert_multitask import findings
from minbert_multitask.claims_figure import claims_figure, paper_difference
from minbert_multitask.comparable import comparable
from minbert_multitask.figure_parts import GREEN, GREY, VERMILION
from minbert_multitask.findings import Difference
from minbert_multitask.protocol import CLAIMS
from minbert_multitask.table import PAPER

from tests.minbert_multitask.made_up import lines, panels, run

COLORS = {findings.CONFIRMED: GREEN, findings.REFUTED: VERMILION, findings.UNDECIDED: GREY}


def judged():
    generator = np.random.default_rng(0)
    found = []
    for claim in reversed(CLAIMS):
        value, half = generator.normal(0, 0.03), 0.02
        found.append(findings.judge(claim, Difference(value, value - half, value + half, 3), finished=True))
    return found


def drawn(found):
    (group,) = comparable([run("gse"), run("multitask")])
    return claims_figure(group, found)


def test_every_claim_is_a_point_with_its_interval_turned_to_the_claimed_side():
    found = judged()
    (panel,) = panels(drawn(found))
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert {finding.verdict for finding in found} == set(COLORS)
    for finding in found:
        claim, difference = finding.claim, finding.difference
        (point,), (interval,) = lines(panel, claim.text), lines(panel, f"_{claim.text}")
        at = point[1][0]
        assert labels[int(at)].startswith(f"{claim.text} (")
        assert point[0] == pytest.approx(claim.sign * difference.value)
        assert sorted(interval[0]) == pytest.approx(
            sorted(claim.sign * end for end in (difference.low, difference.high))
        )
        assert set(interval[1]) == {at}
        (line,) = (line for line in panel.lines if line.get_label() == claim.text)
        assert to_rgb(line.get_color()) == to_rgb(COLORS[finding.verdict])
        papers = lines(panel, f"_paper's {claim.text}")
        assert len(papers) == (PAPER.get(claim.row) is not None and PAPER.get(claim.reference) is not None)
        if papers:
            expected = PAPER[claim.row][claim.metric] - PAPER[claim.reference][claim.metric]
            np.testing.assert_allclose(papers[0], [[claim.sign * expected], [at]])


def test_the_papers_claims_come_first():
    (panel,) = panels(drawn(judged()))
    bold = [label.get_fontweight() == "bold" for label in panel.get_yticklabels()]
    assert bold == sorted(bold, reverse=True)
    assert sum(bold) == sum(claim.in_paper for claim in CLAIMS)


def test_what_one_seed_says_is_not_drawn():
    alone = findings.judge(CLAIMS[0], Difference(0.1, -math.inf, math.inf, 1), finished=False)
    assert drawn([alone]) is None
    assert drawn([]) is None
    (panel,) = panels(drawn([alone, *judged()[:2]]))
    assert len(panel.get_yticklabels()) == 2


def test_a_row_that_the_paper_did_not_finish_has_no_difference():
    (claim,) = (claim for claim in CLAIMS if claim.text == "multitask hurts")
    assert paper_difference(claim) == pytest.approx(-0.005)
    (ours,) = (claim for claim in CLAIMS if claim.row == "gse" and claim.reference == "gse-reuse")
    assert paper_difference(ours) is None


def test_findings_are_read_as_they_were_written(tmp_path):
    alone = findings.judge(CLAIMS[0], Difference(0.1, -math.inf, math.inf, 1), finished=False)
    found = [*judged(), alone]
    findings.save(found, tmp_path / "findings.json")
    again = findings.load(tmp_path / "findings.json")
    assert again[:-1] == found[:-1]
    assert findings.markdown(again) == findings.markdown(found)
    (tmp_path / "findings.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read .* write it with `minbert findings`"):
        findings.load(tmp_path / "findings.json")
