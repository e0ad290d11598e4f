"""The page of results: its tables, its markers, whether tasks conflict."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask import cli, reproduction, results_page, task_conflicts
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.findings import CONFIRMED, REFUTED, UNDECIDED, UNFINISHED, Difference, judge
from minbert_multitask.protocol import CLAIMS, SEEDS
from minbert_multitask.results import ConflictSample
from scipy import stats

from .made_up import run

NAMES = st.lists(st.sampled_from(["scores", "claims", "cost"]), unique=True, min_size=1)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<>\r"), max_size=40)


@given(names=NAMES, around=TEXT, old=TEXT, new=TEXT)
def test_a_page_is_filled_between_its_markers_and_nowhere_else(names, around, old, new):
    def page(between):
        parts = [f"<!-- {name} -->\n{between}\n<!-- end of {name} -->\n{around}" for name in names]
        return around + "\n".join(parts)

    assert results_page.fill(page(old), dict.fromkeys(names, new), Path("page.md")) == page(new)


@pytest.mark.parametrize(
    "page", ["", "<!-- cost -->\n", "<!-- end of cost -->", "<!-- costs -->\n<!-- end -->"]
)
def test_a_page_without_the_markers_is_refused(page):
    with pytest.raises(
        ValueError, match=r"^page.md must hold the lines <!-- cost --> and <!-- end of cost -->, lacks one"
    ):
        results_page.fill(page, {"cost": "|"}, Path("page.md"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing; give a Markdown page"),
        (b"\xa1\xff", "is no UTF-8 text .*; give a Markdown page"),
        (b"# Results\n", "must hold the lines <!-- state -->"),
    ],
)
@pytest.mark.parametrize("command", ["findings", "reproduce"])
def test_a_page_that_cannot_be_filled_is_refused_before_anything_is_run(
    tmp_path, capsys, monkeypatch, command, content, message
):
    monkeypatch.setattr(reproduction, "conclude", lambda *_: pytest.fail("findings were judged"))
    monkeypatch.setattr(reproduction, "reproduce", lambda *_, **__: pytest.fail("a row was run"))
    path = tmp_path / "page.md"
    if content is not None:
        path.write_bytes(content)
    what = str(tmp_path) if command == "findings" else "gs"
    assert cli.main([command, what, "--data", str(tmp_path), "--page", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"minbert: error: {re.escape(str(path))} {message}.*\n", error), error


def test_the_names_of_the_tables_are_those_that_are_made():
    assert set(results_page.sections([run("gse")], [])) == set(results_page.SECTIONS)


def test_a_row_of_another_version_is_in_the_tables_and_not_among_the_papers():
    tables = results_page.sections([run("gse-of-old", probe_every=1)], [])
    assert "gse-of-old" in tables["scores"]
    assert "gse-of-old" in tables["cost"]
    assert tables["conflicts"] == tables["all-conflicts"] == task_conflicts.markdown([])
    assert tables["state"].startswith("0 of the protocol's")


def test_a_page_is_written_whole(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# é\n<!-- cost -->\n<!-- end of cost -->\n", encoding="utf-8")
    results_page.write(path, {"cost": "| 1 |"})
    assert path.read_text(encoding="utf-8") == "# é\n<!-- cost -->\n| 1 |\n<!-- end of cost -->\n"


def test_the_cost_is_the_mean_time_and_the_highest_peak_of_a_rows_runs():
    runs = [
        replace(run("gse", seed=seed), seconds=seconds, peak_memory_bytes=peak)
        for seed, seconds, peak in ((1, 60.0, 10**9), (2, 180.0, 2 * 10**9))
    ]
    table = results_page.sections(runs, [])["cost"]
    assert "| gse | 2 | 60 | 2.0 | 2.00 |" in table
    assert "| all | 2 | | 0.1 hours in all | |" in table


def test_the_page_says_how_much_has_been_run():
    runs = [run("gse", seed=11711), run("gs", seed=11711), run("gs", seed=11713), run("gs", seed=1)]
    state = results_page.sections(runs, [])["state"]
    assert state.startswith(f"3 of the protocol's {3 * len(EXPERIMENTS)} runs have ended. Still to run")
    assert "; `gs` (11712); `gse` (11712, 11713); " in state
    whole = [run(row, seed=seed) for row in EXPERIMENTS for seed in (11711, 11712, 11713)]
    state = results_page.sections(whole, [])["state"]
    assert state == f"All {3 * len(EXPERIMENTS)} runs of the protocol have ended."
    state = results_page.sections(whole[:-1], [])["state"]
    assert state.endswith(f"Still to run, with these seeds: `{[*EXPERIMENTS][-1]}` (11713).")


def test_the_page_counts_the_verdicts_and_names_the_claims_that_are_decided():
    wide, narrow = Difference(0.1, -1.0, 1.2, 3), Difference(0.1, 0.05, 0.15, 3)
    found = [narrow, narrow, wide, narrow]
    judged = [
        judge(claim, one, finished=claim != CLAIMS[3]) for claim, one in zip(CLAIMS, found, strict=False)
    ]
    assert results_page.sections([run("gse")], judged)["verdicts"] == (
        f"Of the protocol's {len(CLAIMS)} claims, confirmed: 1 (*GSE beats gradient surgery*); refuted: 1 "
        f"(*multitask hurts*); cannot be told at this size: 1; not yet run with all seeds: {len(CLAIMS) - 3} "
        f"({', '.join(f'*{claim.text}*' for claim in CLAIMS[3:])})."
    )
    judged = [judge(claim, narrow, finished=True) for claim in CLAIMS]
    verdicts = results_page.sections([run("gse")], judged)["verdicts"]
    assert verdicts.endswith("; cannot be told at this size: 0.")
    nothing = results_page.sections([run("gse")], [])["verdicts"]
    assert "confirmed: 0; refuted: 0;" in nothing


def test_the_conflicts_of_all_rows_stand_beside_those_of_the_papers():
    paper = [sampled("gs", seed, 0.1) for seed in SEEDS]
    runs = [*paper, *(sampled("mgda", seed, -0.5) for seed in SEEDS)]
    tables = results_page.sections(runs, [])
    for name, chosen in (("conflicts", paper), ("all-conflicts", runs)):
        assert tables[name] == task_conflicts.markdown(task_conflicts.task_conflicts(chosen))
    assert "| SST, QQP | +0.100 |" in tables["conflicts"]
    assert "| SST, QQP | -0.200 |" in tables["all-conflicts"]


def sampled(row, seed, *cosines, null=0.25):
    samples = tuple(
        ConflictSample(
            epoch=0,
            iteration=number,
            cosines={"sst-qqp": cosine, "sst-sts": 0.0, "qqp-sts": -cosine},
            null={"sst": null, "qqp": 2 * null, "sts": 0.0},
        )
        for number, cosine in enumerate(cosines)
    )
    return replace(run(row, seed=seed), conflicts=samples)


def test_conflicts_are_judged_over_seeds_by_students_interval():
    of_seed = dict(zip(SEEDS, [(-0.3, -0.1), (-0.3, -0.3), (-0.2, -0.4, 0.1)], strict=True))
    runs = [sampled("gse", seed, *cosines) for seed, cosines in of_seed.items()]
    found, _, turned = task_conflicts.task_conflicts(runs)
    means = [fmean(cosines) for cosines in of_seed.values()]
    half = stats.t.ppf(0.975, 2) * stdev(means) / 3**0.5
    assert found.cosine.value == pytest.approx(fmean(means))
    assert (found.cosine.low, found.cosine.high) == pytest.approx((fmean(means) - half, fmean(means) + half))
    assert found.share == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert found.null == pytest.approx((0.25, 0.5))
    assert found.verdict == (CONFIRMED if fmean(means) + half < 0 else UNDECIDED)
    assert turned.cosine.value == pytest.approx(-fmean(means))


def test_a_seed_weighs_as_much_as_another_and_has_the_same_rows():
    runs = [sampled("gse", 1, -0.5, null=0.1), sampled("gse", 2, *[0.5] * 9, null=0.3)]
    alone = task_conflicts.task_conflicts(runs)
    found = (alone[0].cosine.value, alone[0].share, *alone[0].null)
    assert found == pytest.approx((0, 0.5, 0.2, 0.4))
    assert task_conflicts.task_conflicts([*runs, sampled("gs", 2, -0.9, null=0.9)]) == alone
    assert task_conflicts.task_conflicts([sampled("gs", 1, 0.1), sampled("gse", 2, 0.1)]) == []


@pytest.mark.parametrize(
    ("means", "verdict"),
    [((-0.2, -0.21, -0.19), CONFIRMED), ((0.2, 0.21, 0.19), REFUTED), ((-0.2, 0.2, 0.0), UNDECIDED)],
)
def test_verdicts_on_conflicts(means, verdict):
    runs = [sampled("gse", seed, mean) for seed, mean in zip(SEEDS, means, strict=True)]
    found = task_conflicts.task_conflicts(runs)
    assert found[0].verdict == verdict
    others = [sampled("gse", 1, 0.9), *(sampled("gs", seed, -0.9) for seed in (1, 2, 3))]
    assert task_conflicts.task_conflicts([*runs, *others]) == found
    assert {each.verdict for each in task_conflicts.task_conflicts(others)} == {UNFINISHED}


def test_many_samples_of_one_seed_decide_nothing():
    runs = [sampled(row, SEEDS[0], *[-0.3, -0.31] * 50) for row in ("gs", "gse", "multitask")]
    found = task_conflicts.task_conflicts(runs)
    assert {each.verdict for each in found} == {UNFINISHED}
    assert "none of one seed" in task_conflicts.markdown(found)
    assert task_conflicts.task_conflicts([replace(runs[0], conflicts=())]) == []
