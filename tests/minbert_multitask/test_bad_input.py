"""Whatever a user can do wrong: one line, exit status 2, and nothing that was there is lost."""

import errno
import json
import os
import shutil
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from minbert_multitask import __main__, cli, files, parallel
from minbert_multitask.experiments import EXPERIMENTS

SCHEDULE = ("--epochs", "2", "--iterations", "2", "--batch-size", "4", "--lr", "1e-3", "--probe-every", "0")


@pytest.fixture
def place(tmp_path, small_data, small_weights):
    """A folder with copies of the small data and weights, to be damaged."""
    shutil.copytree(small_data, tmp_path / "data")
    shutil.copytree(small_weights, tmp_path / "weights")
    return tmp_path


@pytest.fixture
def train(place, capsys):
    def train(*arguments, row="multitask"):
        options = ("--data", place / "data", "--weights", place / "weights", "--out", place / "runs")
        return call(capsys, "train", row, *SCHEDULE, *options, *arguments)

    return train


def call(capsys, *arguments):
    """Returns the exit status and what was printed to standard error."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().err


def assert_refused(result, *parts):
    status, error = result
    assert status == 2
    lines = error.splitlines()
    assert lines[-1].startswith("minbert: error: ")
    assert len([line for line in lines if not line.startswith("minbert: warning: ")]) == 1, error
    for part in parts:
        assert str(part) in lines[-1]


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Data


def edit(path, change):
    path.write_bytes(change(path.read_bytes()))


def set_last_label(text):
    return lambda content: content[: content.rstrip().rindex(b"\t") + 1] + text + b"\n"


DATA = {
    "a missing file": ("sts-dev.csv", None, "missing"),
    "an empty file": ("sts-dev.csv", lambda content: b"", "may be truncated"),
    "a header alone": ("ids-sst-train.csv", lambda content: content[: content.index(b"\n") + 1], "no rows"),
    "a truncated file": ("quora-train.csv", lambda content: content[:-9], "truncated"),
    "a wrong header": (
        "ids-sst-dev.csv",
        lambda content: content.replace(b"sentiment", b"mood", 1),
        ":1:",
        "sentiment",
    ),
    "commas for tabs": ("ids-sst-dev.csv", lambda content: content.replace(b"\t", b","), ":1:", "tabs"),
    "an empty label": (
        "ids-sst-train.csv",
        set_last_label(b""),
        "sentiment must be a whole number from 0 to 4, got ''",
    ),
    "an impossible sentiment": ("ids-sst-train.csv", set_last_label(b"5"), "from 0 to 4, got '5'"),
    "half a sentiment": ("ids-sst-train.csv", set_last_label(b"1.5"), "from 0 to 4, got '1.5'"),
    "an impossible similarity": ("sts-train.csv", set_last_label(b"-0.1"), "from 0 to 5, got '-0.1'"),
    "a label in words": ("quora-dev.csv", set_last_label(b"yes"), "is_duplicate", "got 'yes'"),
    "no UTF-8": (
        "sts-train.csv",
        lambda content: content.replace(b"the", b"th\xff", 1),
        "not UTF-8",
        "save the file",
    ),
    "a field too few": ("sts-dev.csv", lambda content: content + b"9\tabc\n", "fields, got 2"),
    "a quote without end": ("quora-dev.csv", lambda content: content + b'9\tabc\t"Why\t?\t1\n', "quote"),
    "an id twice": ("sts-dev.csv", lambda content: content + content.splitlines(keepends=True)[-1], "unique"),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case, place, train):
    file, change, *parts = DATA[case]
    path = place / "data" / file
    if change is None:
        path.unlink()
    else:
        edit(path, change)
    assert_refused(train(), path, *parts)
    assert not (place / "runs").exists()


def test_a_missing_data_folder(place, train):
    assert_refused(train("--data", place / "nowhere"), "nowhere", "is no folder")


def test_two_empty_paraphrase_labels_are_dropped_with_a_warning_that_counts_them(place, train):
    lines = b"97\tx1\tWhy?\tWho?\t\n98\tx2\tWhat?\tWhen?\t\n"
    edit(place / "data" / "quora-train.csv", lambda content: content + lines)
    status, error = train()
    assert status == 0
    (warning,) = (line for line in error.splitlines() if "warning" in line)
    assert "quora-train.csv: dropped 2 rows with an empty label" in warning


def test_a_sentence_of_more_than_512_pieces_is_cut_with_a_warning(place, train):
    edit(
        place / "data" / "ids-sst-test-student.csv",
        lambda content: content + b"9\tlong\t" + b"fine " * 600 + b"\n",
    )
    status, error = train()
    assert status == 0
    (warning,) = (line for line in error.splitlines() if "warning" in line)
    assert "1 of 7 rows exceed 512 tokens" in warning


# Weights


def change_config(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def drop_a_parameter(folder):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    safetensors.torch.save_file(state, folder / "model.safetensors")


WEIGHTS = {
    "another architecture": (change_config(model_type="roberta"), "config.json has model_type 'roberta'"),
    "another activation": (change_config(hidden_act="relu"), "hidden_act 'relu'"),
    "other sizes": (change_config(intermediate_size=16), "shape"),
    "impossible sizes": (change_config(num_attention_heads=3), "num_attention_heads"),
    "a missing key": (drop_a_parameter, "lacks the parameter encoder.layer.1.output.dense.bias"),
    "a truncated file": (
        lambda folder: edit(folder / "model.safetensors", lambda content: content[:-100]),
        "damaged or truncated",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds neither"),
    "no vocabulary": (lambda folder: (folder / "vocab.txt").unlink(), "vocab.txt is missing"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "broken JSON": (lambda folder: edit(folder / "config.json", lambda content: content[:-4]), "is no JSON"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case, place, train):
    change, *parts = WEIGHTS[case]
    change(place / "weights")
    assert_refused(train(), place / "weights", *parts)


def test_weights_that_are_nowhere(place, train):
    assert_refused(train("--weights", place / "nowhere"), "nowhere", "is no folder")


# The command line

OPTIONS = {
    "an unknown row": (("--row", "gsee"), "'gsee'", "choose from"),
    "an unknown device": (("--device", "tpu"), "tpu", "cuda"),
    "an unknown precision": (("--precision", "fp8"), "fp8", "bf16"),
    "no epochs": (("--epochs", 0), "epochs", "got 0"),
    "words for a number": (("--iterations", "many"), "--iterations", "many"),
    "a batch of none": (("--batch-size", -1), "batch_size", "got -1"),
    "a learning rate of 0": (("--lr", 0), "lr must be a positive number", "got 0"),
    "a learning rate that is no number": (("--lr", "nan"), "lr must be a positive number", "got nan"),
    "a learning rate that diverges": (("--lr", 1e30), "training loss", "lower --lr"),
    "more layers than there are": (("--layers", 7), "num_layers (--layers) must be from 1 to 2", "got 7"),
    "no jobs": (("--jobs", 0), "jobs must be at least 1", "got 0"),
    "an unknown option": (("--momentum", 0.9), "--momentum", "--help"),
    "an option cut short": (("--epoch", 3), "--epoch", "--help"),
}


def test_too_many_layers_take_no_folder(place, train):
    assert train("--layers", 7)[0] == 2
    assert not (place / "runs").exists()


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case, train):
    arguments, *parts = OPTIONS[case]
    if arguments[0] == "--row":
        assert_refused(train(row=arguments[1]), *parts)
    else:
        assert_refused(train(*arguments), *parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(train):
    assert_refused(train("--device", "cuda"), "device 'cuda'", "choose 'cpu' or 'auto'")


def test_no_command_and_an_unknown_one(capsys):
    assert_refused(call(capsys), "COMMAND")
    assert_refused(call(capsys, "fly"), "fly")


# Folders that hold something already


def test_a_folder_that_holds_a_run(place, train):
    assert train()[0] == 0
    former = snapshot(place / "runs")
    assert_refused(train(), place / "runs" / "multitask-11711", "--resume")
    assert snapshot(place / "runs") == former


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--lr", 0.1, "lr 0.001, got 0.1"),
        ("--epochs", 3, "epochs 2, got 3"),
        ("--layers", 1, "layers None, got 1"),
    ],
)
def test_resume_with_other_settings(place, train, option, value, part):
    assert train()[0] == 0
    former = snapshot(place / "runs")
    assert_refused(train("--resume", option, value), part)
    assert snapshot(place / "runs") == former


def test_resume_with_the_same_data_and_weights_under_another_name(place, train, capsys):
    """A slash at the end, another folder with the same files."""
    assert train()[0] == 0
    (place / "data").rename(place / "course")
    request = place / "runs" / "multitask-11711" / "run.json"
    edit(request, lambda content: content.replace(b'"data": "', b'"data": "data '))  # as it was written once
    options = (
        "--data",
        place / "course",
        "--weights",
        f"{place / 'weights'}/",
        "--out",
        f"{place / 'runs'}/",
    )
    assert call(capsys, "train", "multitask", "gs", *SCHEDULE, *options, "--resume")[0] == 0
    assert len(list((place / "runs" / "figures").glob("scores*.png"))) == 1


def test_a_folder_of_weights_that_is_missing_is_not_looked_for_elsewhere(place, capsys):
    options = ("--data", place / "data", "--weights", "./nowhere/", "--out", place / "runs")
    assert_refused(call(capsys, "train", "gs", *SCHEDULE, *options), "./nowhere", "no folder")


def test_resume_with_other_data(place, train):
    assert train()[0] == 0
    edit(place / "data" / "sts-test-student.csv", lambda content: content.replace(b" the ", b" a ", 1))
    former = snapshot(place / "runs")
    assert_refused(train("--resume"), "data", "choose another --out")
    assert snapshot(place / "runs") == former


def test_resume_of_a_run_from_before_rows_and_weights_were_kept_in_its_request(place, train):
    assert train()[0] == 0
    request = place / "runs" / "multitask-11711" / "run.json"
    content = json.loads(request.read_bytes())
    for name in ("definition", "weights' fingerprint"):
        del content[name]
    request.write_text(json.dumps(content))
    assert train("--resume")[0] == 0


def test_resume_of_a_row_that_was_another(place, train, monkeypatch, capsys):
    assert train()[0] == 0
    former = snapshot(place / "runs")
    monkeypatch.setitem(EXPERIMENTS, "multitask", replace(EXPERIMENTS["multitask"], what="said otherwise"))
    assert train("--resume")[0] == 0
    monkeypatch.setitem(EXPERIMENTS, "multitask", replace(EXPERIMENTS["multitask"], pooling="mean"))
    assert_refused(train("--resume"), "row's pooling cls, got mean", "choose another --out")
    run = place / "runs" / "multitask-11711"
    assert_refused(call(capsys, "evaluate", run), run, "row's pooling was cls, got mean", "train it again")
    assert (
        snapshot(place / "runs").items() >= {p: c for p, c in former.items() if "multitask" in p.name}.items()
    )


def test_resume_with_other_weights_of_the_same_name(place, train, capsys):
    assert train()[0] == 0
    assert train(row="zero-shot")[0] == 0
    former = snapshot(place / "runs")
    path = place / "weights" / "model.safetensors"
    state = {name: 2 * value for name, value in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(state, path)
    assert_refused(train("--resume"), "weights' fingerprint", "choose another --out")
    run = place / "runs" / "zero-shot-11711"
    assert_refused(call(capsys, "evaluate", run), run, "fingerprint", "put the former weights back")
    assert call(capsys, "evaluate", place / "runs" / "multitask-11711")[0] == 0  # whose model is its own
    assert snapshot(place / "runs") == former


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}q\x00.", torch.zeros(3).numpy().tobytes()], ids=["empty", "a pickle", "noise"]
)
def test_resume_from_a_damaged_checkpoint(place, train, content):
    run = place / "runs" / "multitask-11711"
    assert train()[0] == 0
    (run / "result.json").unlink()
    (run / "checkpoint.pt").write_bytes(content)
    assert_refused(train("--resume"), run / "checkpoint.pt", "delete it")
    assert (run / "checkpoint.pt").read_bytes() == content


def test_a_folder_whose_request_is_damaged(place, train, capsys):
    assert train()[0] == 0
    path = place / "runs" / "multitask-11711" / "run.json"
    edit(path, lambda content: content[:-5])
    assert_refused(train("--resume"), path, "is no JSON", "choose another --out")
    assert_refused(call(capsys, "evaluate", path.parent), path, "is no JSON", "train the row again")


def test_what_a_killed_run_left_half_written_goes_when_it_is_resumed(place, train):
    assert train()[0] == 0
    run = place / "runs" / "multitask-11711"
    before = snapshot(run).keys()
    for name in ("checkpoint.pt", "result.json", "run.json", "model/model.safetensors", "predictions/a.csv"):
        path = run / name
        for dead in (2**22 + 1, os.getpid(), 10**30):  # beyond all process numbers, and one used again
            path.with_name(f".{path.name}.{dead}").write_bytes(b"half")
    assert train("--resume")[0] == 0
    assert snapshot(run).keys() == before


def test_what_another_process_may_be_writing_stays(place, train):
    assert train()[0] == 0
    path = place / "runs" / "multitask-11711" / f".checkpoint.pt.{os.getppid()}"
    path.write_bytes(b"half")
    assert train("--resume")[0] == 0
    assert path.read_bytes() == b"half"


def test_a_file_where_the_folder_should_be(place, train):
    (place / "runs").write_text("mine")
    assert_refused(train(), place / "runs")
    assert (place / "runs").read_text() == "mine"


class FullDisk:
    """Lets writes of one file succeed a number of times, then raises what a disk raises."""

    def __init__(self, monkeypatch, name, code, after):
        self.left = after

        def fsync(descriptor, original=os.fsync):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if name in path:
                self.left -= 1
                if self.left < 0:
                    raise OSError(code, os.strerror(code))
            original(descriptor)

        monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
@pytest.mark.parametrize(
    "name", ["run.json", "checkpoint.pt", "output.csv", "model.safetensors", "result.json"]
)
def test_a_disk_that_takes_no_more(place, train, monkeypatch, name, code):
    with monkeypatch.context() as patch:
        FullDisk(patch, name, code, after=1 if name == "checkpoint.pt" else 0)
        assert_refused(train(), os.strerror(code))
    left = {path.name for path in (place / "runs").rglob(".*")}
    assert left <= {".lock"}, "no half-written file stays"
    if name == "checkpoint.pt":
        assert (place / "runs" / "multitask-11711" / "checkpoint.pt").exists()
    if name != "run.json":
        assert train("--resume")[0] == 0


def test_a_second_command_in_a_folder_where_one_trains(place, train, capsys, monkeypatch):
    """Whether it would begin a run there or go on with one; the first goes on undisturbed."""
    run, seconds = parallel.run, []

    def begin_another_and_run(*arguments):
        seconds.extend([train("--resume"), train()])
        return run(*arguments)

    monkeypatch.setattr(parallel, "run", begin_another_and_run)
    assert train()[0] == 0
    resumed, begun = seconds
    assert_refused(resumed, place / "runs" / "multitask-11711", "another process trains", "--out")
    assert_refused(begun, place / "runs" / "multitask-11711", "--out")
    monkeypatch.setattr(parallel, "run", run)
    assert train("--resume")[0] == 0


def test_an_interrupt_while_the_program_is_imported(monkeypatch, capsys):
    class Interrupted:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "minbert_multitask.cli", Interrupted())
    assert __main__.main() == 130
    assert capsys.readouterr().err == "minbert: interrupted\n"


# Runs and results that are not what they should be


def test_evaluate_without_a_run(place, capsys):
    assert_refused(call(capsys, "evaluate", place), place, "no finished run")


def test_evaluate_without_its_model(place, train, capsys):
    assert train("--discard-model")[0] == 0
    run = place / "runs" / "multitask-11711"
    assert_refused(call(capsys, "evaluate", run), run, "--discard-model")


def test_evaluate_with_a_damaged_model(place, train, capsys):
    assert train()[0] == 0
    run = place / "runs" / "multitask-11711"
    edit(run / "model" / "heads.safetensors", lambda content: content[:-7])
    assert_refused(call(capsys, "predict", run), "heads.safetensors", "damaged")


def test_evaluate_predictions_of_other_data(place, train, capsys):
    assert train()[0] == 0
    predictions = place / "runs" / "multitask-11711" / "predictions"
    edit(place / "data" / "sts-dev.csv", lambda content: content + b"99\tnew\tRain.\tSun.\t1.0\n")
    assert_refused(call(capsys, "evaluate", predictions, "--data", place / "data"), "lacks new")


@pytest.mark.parametrize(("command", "changed"), [("evaluate", "sts-dev.csv"), ("predict", "sts-train.csv")])
def test_a_run_whose_data_was_changed(place, train, capsys, command, changed):
    assert train()[0] == 0
    run = place / "runs" / "multitask-11711"
    edit(place / "data" / changed, lambda content: content + b"99\tnew\tRain.\tSun.\t1.0\n")
    assert_refused(call(capsys, command, run), run, "trained on data", place / "data", "--data")
    assert call(capsys, command, run, "--data", place / "data")[0] == 0


def test_predict_when_the_data_is_gone(place, train, capsys):
    assert train()[0] == 0
    shutil.rmtree(place / "data")
    assert_refused(call(capsys, "predict", place / "runs" / "multitask-11711"), "is missing")


@pytest.mark.parametrize("command", ["table", "figures"])
def test_no_results(place, capsys, command):
    assert_refused(call(capsys, command, place), place, "no finished run")
    assert_refused(call(capsys, command, place / "nowhere"), "nowhere")


def test_a_table_of_what_is_no_json(place, train, capsys):
    assert train()[0] == 0
    path = place / "runs" / "results.csv"
    assert_refused(call(capsys, "table", path), path, "give a folder of runs")


def test_a_damaged_result(place, train, capsys):
    assert train()[0] == 0
    path = place / "runs" / "multitask-11711" / "result.json"
    edit(path, lambda content: content[:-10])
    assert_refused(call(capsys, "table", place / "runs"), path, "truncated")


def no_memory_on_the_cpu(*_, **__):
    torch.empty(1 << 60)


def no_memory_of_python(*_, **__):
    raise MemoryError


@pytest.mark.parametrize("fail", [no_memory_on_the_cpu, no_memory_of_python])
def test_without_memory(train, monkeypatch, fail):
    monkeypatch.setattr(parallel, "run", fail)
    assert_refused(train(), "out of memory; choose a smaller --batch-size or fewer --layers or fewer --jobs")


def test_an_error_of_the_program_itself_is_not_taken_for_one_of_the_user(train, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(parallel, "run", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        train()
