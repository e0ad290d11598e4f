"""The reproduction: its protocol in prose and code, its one command, its statistics, its records."""

import json
import math
import re
import shutil
import statistics
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import minbert_multitask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minbert_multitask import cli, findings, parallel, protocol, records, reproduction
from minbert_multitask.best_runs import best_runs
from minbert_multitask.data import load
from minbert_multitask.evaluate import METRICS, TaskPredictions
from minbert_multitask.experiments import EXPERIMENTS, select
from minbert_multitask.inputs import DataSource
from minbert_multitask.prediction_files import write_predictions
from minbert_multitask.protocol import CLAIMS, SEEDS, SETTINGS, Claim
from minbert_multitask.records import Record
from scipy import stats

PROSE = (Path(minbert_multitask.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")

# The protocol


def test_the_protocol_says_in_prose_what_it_says_in_code():
    assert f"{SETTINGS.epochs} epochs of {SETTINGS.iterations} iterations" in PROSE
    assert f"3 epochs of {3 * SETTINGS.iterations}" in PROSE
    best = EXPERIMENTS["best"]
    assert best.lr_decay
    assert f"3 epochs of {best.epoch_multiple * SETTINGS.iterations:,} iterations" in PROSE
    assert f"Batch {SETTINGS.batch_size} a task, AdamW with lr 1e-4, {SETTINGS.precision}" in PROSE
    assert SETTINGS.lr == 1e-4
    assert SETTINGS.packed
    assert f"**Seeds**: {', '.join(map(str, SEEDS))}." in PROSE
    assert f"of {len(CLAIMS)} claims" in PROSE


def test_every_claim_stands_in_the_protocol_with_its_rows_score_and_direction():
    said = re.findall(r"^\| (.+) \| `(\S+)` - `(\S+)` \| (\w+) \| (above|below) 0 \|$", PROSE, re.MULTILINE)
    sides = {1: "above", -1: "below"}
    assert said == [(c.text, c.row, c.reference, c.metric, sides[c.sign]) for c in CLAIMS]
    assert [claim.in_paper for claim in CLAIMS] == [True] * 11 + [False] * (len(CLAIMS) - 11)
    sharing = sum("multitask" in (claim.row, claim.reference) for claim in CLAIMS)
    assert f"as {sharing} share `multitask`" in PROSE


def test_the_protocol_has_what_was_asked_of_it():
    assert SETTINGS.layers is None
    assert SETTINGS.epochs * SETTINGS.iterations >= 300
    assert len(set(SEEDS)) >= 3
    assert {row.name for row in protocol.rows()} >= {row.name for row in select(["paper"])}


def test_claims_are_about_rows_that_there_are_and_differ():
    for claim in CLAIMS:
        assert {claim.row, claim.reference} <= EXPERIMENTS.keys()
        assert claim.row != claim.reference
        assert claim.metric in METRICS
        assert claim.sign in (-1, 1)
    assert len({(claim.row, claim.reference, claim.metric) for claim in CLAIMS}) == len(CLAIMS)
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS)


# The statistics


def predictions(generator, size, skill):
    """Made-up predictions for the same made-up examples: right with the probability of the skill."""
    gold = np.random.default_rng(0)
    found = {}
    for task, classes in (("sst", 5), ("qqp", 2)):
        labels = gold.integers(0, classes, size).astype(float)
        right = generator.random(size) < skill
        predicted = np.where(right, labels, (labels + 1) % classes)
        found[task] = TaskPredictions(tuple(map(str, range(size))), predicted, labels)
    labels = 5 * gold.random(size)
    noise = generator.normal(size=size)
    found["sts"] = TaskPredictions(tuple(map(str, range(size))), skill * labels + (1 - skill) * noise, labels)
    return found


def pairs_of(seed, *, count, size=300, skills=(0.7, 0.7), luck=0.0):
    """Pairs of runs; in each seed both rows' skill differs by some luck of its own."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        a, b = (min(max(skill + luck * generator.normal(), 0.05), 0.95) for skill in skills)
        pairs.append((predictions(generator, size, a), predictions(generator, size, b)))
    return pairs


@pytest.mark.parametrize("metric", METRICS)
def test_a_difference_is_the_mean_over_seeds_of_the_paired_difference(metric):
    pairs = pairs_of(1, count=3)

    def score(found):
        sst, qqp = (float(np.mean(found[t].predicted == found[t].gold)) for t in ("sst", "qqp"))
        sts = stats.pearsonr(found["sts"].predicted, found["sts"].gold).statistic
        return {"sst": sst, "qqp": qqp, "sts": sts, "overall": (sst + qqp + (sts + 1) / 2) / 3}[metric]

    found = findings.difference(pairs, metric)
    assert found.value == pytest.approx(np.mean([score(a) - score(b) for a, b in pairs]))
    assert found.seeds == 3
    assert found.low < found.value < found.high


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(METRICS))
def test_a_difference_turned_round_is_its_negative(seed, metric):
    pairs = pairs_of(seed, count=2)
    found = findings.difference(pairs, metric)
    turned = findings.difference([(b, a) for a, b in pairs], metric)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_of_one_seed_nothing_can_be_told():
    found = findings.difference(pairs_of(1, count=1, skills=(0.9, 0.1)), "sst")
    assert found.value > 0.5
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert findings.verdict(found, sign=1) == findings.UNDECIDED
    with pytest.raises(ValueError, match=r"^pairs must hold the predictions of one seed at least, got none$"):
        findings.difference([], "sst")


def test_no_verdict_falls_before_all_seeds_have_run():
    for finished, verdict in ((True, findings.CONFIRMED), (False, findings.UNFINISHED)):
        found = findings.judge(CLAIMS[1], findings.Difference(0.1, 0.05, 0.15, 3), finished=finished)
        assert found.verdict == verdict


def test_only_the_protocols_seeds_decide():
    """Or seeds could be added until a claim is decided."""

    def made_up(seeds, skill):
        found = []
        for row, skilled in (("multitask", 0.5), ("baseline", skill)):
            for seed in seeds:
                predicted = predictions(np.random.default_rng(seed), 300, skilled)
                result = SimpleNamespace(row=row, seed=seed)
                found.append(SimpleNamespace(result=result, predictions=lambda *_, all=predicted: all))
        return found

    (own,) = findings.findings(made_up(SEEDS, 0.9), None)
    assert own.verdict == findings.CONFIRMED
    assert findings.findings([*made_up(SEEDS, 0.9), *made_up((1, 2), 0.1)], None) == [own]
    (others,) = findings.findings(made_up((1, 2, 3), 0.9), None)
    assert (others.verdict, others.difference.seeds) == (findings.UNFINISHED, 3)
    (part,) = findings.findings([*made_up(SEEDS[:2], 0.9), *made_up((1,), 0.9)], None)
    assert (part.verdict, part.difference.seeds) == (findings.UNFINISHED, 2)


def test_equal_runs_differ_by_nothing_and_confirm_nothing():
    pairs = [(a, a) for a, _ in pairs_of(1, count=3)]
    found = findings.difference(pairs, "overall")
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert findings.judge(CLAIMS[0], found, finished=True).verdict == findings.UNDECIDED


@pytest.mark.parametrize("luck", [0.0, 0.05])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(luck):
    """Both rows are equally good; with luck, the seeds' own error is most of it."""
    covered = [
        found.low <= 0 <= found.high
        for found in (
            findings.difference(pairs_of(seed, count=3, size=100, luck=luck), "sst") for seed in range(150)
        )
    ]
    assert 0.9 <= np.mean(covered) <= 1.0


def test_the_seeds_error_is_part_of_the_interval():
    """Two of three seeds say the one, one says the other: examples alone would be sure."""
    generator = np.random.default_rng(0)
    skills = [(0.9, 0.5), (0.9, 0.5), (0.3, 0.5)]
    pairs = [tuple(predictions(generator, 2000, skill) for skill in pair) for pair in skills]
    found = findings.difference(pairs, "sst")
    assert found.value > 0.15
    assert found.low < 0


@pytest.mark.parametrize(
    ("sign", "low", "high", "verdict"),
    [
        (1, 0.01, 0.02, findings.CONFIRMED),
        (1, -0.02, -0.01, findings.REFUTED),
        (-1, -0.02, -0.01, findings.CONFIRMED),
        (-1, 0.01, 0.02, findings.REFUTED),
        (1, -0.01, 0.02, findings.UNDECIDED),
        (-1, -0.02, 0.01, findings.UNDECIDED),
        (1, 0.0, 0.02, findings.UNDECIDED),
    ],
)
def test_verdicts(sign, low, high, verdict):
    claim = Claim(text="this", row="gs", reference="gse", metric="sst", sign=sign)
    found = findings.judge(claim, findings.Difference((low + high) / 2, low, high, 3), finished=True)
    assert found.verdict == verdict
    table = findings.markdown([found])
    assert verdict in table
    assert f"{low:+.3f} to {high:+.3f}" in table


# The command


@pytest.fixture
def small(small_weights):
    return replace(
        SETTINGS,
        weights=str(small_weights),
        epochs=1,
        iterations=1,
        batch_size=2,
        train_eval_size=4,
        device="cpu",
    )


@pytest.fixture
def run(small, small_data, tmp_path):
    def call(*, seeds=(1, 2), rows=("multitask", "gs", "gse"), processes=1):
        found, _ = reproduction.reproduce(
            select(list(rows)),
            DataSource("small", small_data),
            runs=tmp_path / "runs",
            kept=tmp_path / "kept",
            seeds=seeds,
            settings=small,
            processes=processes,
        )
        return found

    return call


def test_one_command_runs_all_keeps_records_and_judges(run, tmp_path, small_inputs):
    found = run()
    assert {record.folder.name for record in found} == {
        f"{row}-{seed}" for row in ("multitask", "gs", "gse") for seed in (1, 2)
    }
    for record in found:
        assert {path.name for path in record.folder.iterdir()} == {
            "result.json",
            "dev.npz",
            "test.npz",
            "log.txt",
        }
        log = (record.folder / "log.txt").read_text()
        assert re.search(r"begun: \S+, seed \d; python 3", log)
        assert "epoch 0: 1 iterations, train loss sst " in log
        dev = record.predictions("dev", small_inputs.dataset)
        for task, metric in (("sst", "sst"), ("qqp", "qqp")):
            right = np.mean(dev[task].predicted == dev[task].gold)
            assert right == pytest.approx(record.result.dev[metric].value)
    judged = json.loads((tmp_path / "kept" / "findings.json").read_text())
    assert [each["claim"]["text"] for each in judged] == ["GSE beats gradient surgery"]
    assert judged[0]["difference"]["seeds"] == 2


def test_beside_the_records_lie_the_test_predictions_of_the_best_runs_and_of_no_others(run, tmp_path):
    results = [record.result for record in run()]
    chosen = {f"{best.row}-{best.seed}" for best in best_runs(results)}
    assert len(chosen) == 3
    folder = tmp_path / "kept" / "predictions"
    others = {f"{result.row}-{result.seed}" for result in results} - chosen
    for name in {"somebody's", *others}:
        (folder / name).mkdir()
    kept, emptied, *_ = sorted(others)
    for file in ("sst-test-output.csv", "sst-dev-output.csv"):
        (folder / kept / file).write_text("somebody's")
    (folder / emptied / "sts-test-output.csv").write_text("of a run that was the best")
    run()
    assert {path.name for path in folder.iterdir()} == {"somebody's", kept, *chosen}
    assert [path.name for path in (folder / kept).iterdir()] == ["sst-dev-output.csv"]
    for name in chosen:
        theirs = (tmp_path / "runs" / name / "predictions").glob("*-test-*")
        written = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        assert len(written) == 3
        assert written == {path.name: path.read_bytes() for path in theirs}


def test_what_has_a_record_is_not_run_again_even_if_its_run_is_gone(run, tmp_path, monkeypatch):
    run(seeds=(1,))
    for path in sorted((tmp_path / "runs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    begun = []
    really = parallel.run

    def noted(job, *rest):
        begun.append(job.folder.name)
        return really(job, *rest)

    monkeypatch.setattr(parallel, "run", noted)
    run(seeds=(1, 2), rows=("gs", "multitask"))
    assert begun == ["gs-2", "multitask-2"]  # in the order asked for


def test_a_killed_reproduction_keeps_what_had_ended(run, tmp_path, monkeypatch):
    really = parallel.run

    def fail_at_the_third(job, *rest):
        if job.folder.name == "gse-1":
            raise OSError("the disk is full")
        return really(job, *rest)

    monkeypatch.setattr(parallel, "run", fail_at_the_third)
    with pytest.raises(OSError, match="the disk is full"):
        run()
    kept = {record.folder.name for record in records.load(tmp_path / "kept")}
    assert kept == {"multitask-1", "gs-1"}
    monkeypatch.undo()
    assert len(run()) == 6


def test_records_that_were_made_otherwise_are_refused_before_the_first_run(
    run, small, small_data, tmp_path, monkeypatch
):
    (record,) = run(seeds=(1,), rows=("gs",))
    monkeypatch.setattr(parallel, "run", lambda *_: pytest.fail("a row was run"))
    with pytest.raises(
        ValueError, match=r"gs-1 is a record with lr 0\.0001, got 0\.5; choose another --records"
    ):
        reproduction.reproduce(
            select(["gse"]),
            DataSource("small", small_data),
            runs=tmp_path / "runs",
            kept=tmp_path / "kept",
            settings=replace(small, lr=0.5),
        )
    with pytest.raises(ValueError, match="records must have a folder of their own"):
        reproduction.reproduce(
            select(["gse"]),
            DataSource("small", small_data),
            runs=tmp_path / "kept",
            kept=tmp_path / "kept",
            settings=small,
        )
    other = replace(record.result, config={**record.result.config, "lr": 0.5})
    other.save(record.folder / "result.json")
    with pytest.raises(ValueError, match=r"gs-1 is a record with lr 0\.5, got 0\.0001"):
        run(seeds=(1,), rows=("gs",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"definition": {**r.definition, "pooling": "mean"}}, "row's pooling mean, got cls"),
        (lambda r: {"definition": {**r.definition, "gone": 3}}, "row's gone 3, got None"),
        (
            lambda r: {"definition": {}, "epochs": tuple(replace(e, iterations=9) for e in r.epochs)},
            "iterations in an epoch 9, got ",
        ),
        (lambda r: {"weights": replace(r.weights, fingerprint="0a")}, "weights' fingerprint 0a, got "),
        (lambda r: {"definition": {}, "weights": replace(r.weights, fingerprint="")}, None),
    ],
)
def test_records_of_another_row_of_the_name_or_other_weights_are_refused(run, change, message):
    """Records from before these were kept are taken for what their iterations say."""
    (record,) = run(seeds=(1,), rows=("gs",))
    replace(record.result, **change(record.result)).save(record.folder / "result.json")
    if message is None:
        assert len(run(seeds=(1,), rows=("gs", "multitask"))) == 2
        return
    with pytest.raises(ValueError, match=re.escape(f"gs-1 is a record with {message}")):
        run(seeds=(1,), rows=("gs",))


def test_records_of_two_definitions_of_a_row_are_not_judged_together(run, tmp_path, small_inputs):
    *_, last = run(seeds=(1, 2), rows=("gs",))
    other = replace(last.result, definition={**last.result.definition, "pooling": "max"})
    other.save(last.folder / "result.json")
    with pytest.raises(ValueError, match="and definition of each row, got others in gs-2"):
        reproduction.conclude(tmp_path / "kept", small_inputs.dataset)


def test_records_of_two_schedules_are_not_judged_together(run, tmp_path, small_inputs):
    first, _ = run(seeds=(1,), rows=("gs", "gse"))
    other = replace(first.result, config={**first.result.config, "lr": 0.5})
    other.save(first.folder / "result.json")
    with pytest.raises(
        ValueError, match="must hold records of one data set, schedule, weights and definition of each row"
    ):
        reproduction.conclude(tmp_path / "kept", small_inputs.dataset)


def test_data_is_known_by_its_contents_whatever_its_folder_is_called(run, small, small_data, tmp_path):
    run(seeds=(1,), rows=("gs",))
    elsewhere = tmp_path / "course"
    shutil.copytree(small_data, elsewhere)
    found, _ = reproduction.reproduce(
        select(["gs", "gse"]),
        DataSource("course", elsewhere),
        runs=tmp_path / "runs",
        kept=tmp_path / "kept",
        seeds=(1,),
        settings=small,
    )
    assert {record.result.data.name for record in found} == {"small", "course"}


def test_a_seed_asked_for_twice_is_run_once(run):
    assert [record.result.seed for record in run(seeds=(5, 5), rows=("gs",), processes=2)] == [5]


def test_runs_of_one_name_do_not_overwrite_each_others_predictions(run, tmp_path, small_data, capsys):
    (record,) = run(seeds=(1,), rows=("gs",))
    command = ["predict", *[str(record.folder)] * 2, "--data", str(small_data), "--out", str(tmp_path / "p")]
    assert cli.main(command) == 2
    assert "runs must differ in name for one --out, got gs-1 twice" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_a_record_is_evaluated_and_predicted_as_its_run_was(run, tmp_path, small_data, capsys):
    (record,) = run(seeds=(1,), rows=("multitask",))
    (tmp_path / "again").mkdir()
    command = ["predict", str(record.folder), "--data", str(small_data), "--out", str(tmp_path / "again")]
    assert cli.main(command) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    theirs = tmp_path / "runs" / record.folder.name / "predictions"
    assert written == {path.name: path.read_bytes() for path in theirs.iterdir()}
    assert len(written) == 6
    assert cli.main([*command[:-1], str(tmp_path / "test"), "--splits", "test"]) == 0
    tested = {path.name: path.read_bytes() for path in (tmp_path / "test").iterdir()}
    assert tested == {name: content for name, content in written.items() if "-test-" in name}
    assert len(tested) == 3
    capsys.readouterr()
    assert cli.main(["evaluate", str(record.folder), "--data", str(small_data)]) == 0
    assert f"overall  mean      {record.result.dev.overall.value:6.3f}" in capsys.readouterr().out
    assert cli.main(["evaluate", str(record.folder)]) == 2
    assert "is a record, which does not name its data; give --data" in capsys.readouterr().err


class Hostile:
    """What a pickle would run."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def test_records_of_other_data_and_broken_ones_are_refused(run, tmp_path, small_inputs):
    (record,) = run(seeds=(1,), rows=("gs",))
    other = replace(record.result, data=replace(record.result.data, fingerprint="0000"))
    with pytest.raises(ValueError, match="is of data with fingerprint 0000, got"):
        Record(record.folder, other).predictions("dev", small_inputs.dataset)
    path = record.folder / "dev.npz"
    whole = path.read_bytes()
    np.savez(path, sst=np.array([Hostile()] * 12, dtype=object))
    hostile = path.read_bytes()
    flipped = bytes(255 - byte if at % 3 else byte for at, byte in enumerate(whole))
    for content in (b"PK", b"", hostile, whole[: len(whole) // 2], whole[:-5], flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"dev\.npz is damaged .* delete it and reproduce the row again"):
            record.predictions("dev", small_inputs.dataset)
    path.unlink()
    with pytest.raises(ValueError, match=r"gs-1 lacks a file of the record; reproduce the row again$"):
        records.load(tmp_path / "kept")
    assert [again.folder for again in run(seeds=(1,), rows=("gs",))] == [record.folder]
    assert path.read_bytes() == whole
    with pytest.raises(ValueError, match="holds no record of a run"):
        records.load(tmp_path / "nothing")


# What is committed

COMMITTED = Path(minbert_multitask.__file__).parent / "results" / "reproduction"


def test_the_committed_findings_are_those_of_the_committed_records(real_data):
    found = findings.findings(records.load(COMMITTED), load(real_data))
    committed = findings.load(COMMITTED / "findings.json")
    assert [(each.claim, each.verdict) for each in found] == [
        (each.claim, each.verdict) for each in committed
    ]
    assert findings.markdown(found) == findings.markdown(committed)


def test_the_committed_predictions_are_of_the_best_runs(real_data, tmp_path):
    kept = {record.folder.name: record for record in records.load(COMMITTED)}
    best = best_runs([record.result for record in kept.values()])
    chosen = {f"{run.row}-{run.seed}" for run in best}
    assert {path.name for path in (COMMITTED / "predictions").iterdir()} == chosen
    dataset = load(real_data)
    for name in chosen:
        paths = write_predictions(kept[name].predictions("test", dataset), "test", tmp_path)
        committed = COMMITTED / "predictions" / name
        assert {path.name for path in committed.iterdir()} == {path.name for path in paths}
        assert all((committed / path.name).read_bytes() == path.read_bytes() for path in paths)


def test_two_rows_of_a_seed_err_in_part_on_the_same_sentences(real_data):
    """Their correlation is what the page of results says of the noise between two rows."""
    dataset, right = load(real_data), {seed: [] for seed in SEEDS}
    for record in records.load(COMMITTED):
        if record.result.epochs:
            found = record.predictions("dev", dataset)["sst"]
            right[record.result.seed].append(found.predicted == found.gold)
    found = [np.corrcoef(a, b)[0, 1] for rows in right.values() for a, b in combinations(rows, 2)]
    assert round(statistics.median(found), 1) == 0.5
