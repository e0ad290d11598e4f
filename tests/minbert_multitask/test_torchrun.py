"""The example on two ranks: what one process makes, and after a rank is killed the same bits."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from minbert_multitask import cli

from .test_kill import ROOT, what_was_made

ROW = "gse-11711"


def arguments(data, weights, out, *more):
    options = ("--data", data, "--weights", weights, "--out", out, "--checkpoint-every", 2, "--batch-size", 4)
    schedule = ("--epochs", 2, "--iterations", 8, "--lr", 1e-3, "--probe-every", 7, "--train-eval-size", 6)
    return [str(a) for a in ("-m", "minbert_multitask", "train", "gse", *options, *schedule, *more)]


def start(command, log, **environment):
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
            stdout=file,
            stderr=file,
        )


def torchrun(*more):
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *more]


def ended(process, log, code=0):
    try:
        assert process.wait(timeout=120) == code, log.read_text()
    finally:
        process.kill()
    return log.read_text()


def wait_for_a_new_checkpoint(folder, process, log):
    """Waits until a checkpoint is written: then the ranks are in the middle of an epoch."""
    path = folder / ROW / "checkpoint.pt"
    former = path.stat().st_mtime_ns if path.exists() else 0
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_mtime_ns == former:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def last_child(process):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    return int(found.stdout.split()[-1])


@pytest.mark.slow
def test_two_ranks_are_one_process_and_a_killed_rank_leaves_no_trace(small_data, small_weights, tmp_path):
    def command(out, *more):
        return arguments(small_data, small_weights, tmp_path / out, *more)

    logs = [tmp_path / name for name in ("whole.log", "rank0.log", "rank1.log", "resumed.log")]
    whole = start([*torchrun(), *command("whole")], logs[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    first, second = (
        start(command("killed"), log, RANK=str(rank), **place) for rank, log in enumerate(logs[1:3])
    )
    wait_for_a_new_checkpoint(tmp_path / "killed", first, logs[1])
    second.send_signal(signal.SIGKILL)
    ended(second, logs[2], -signal.SIGKILL)
    (line,) = ended(first, logs[1], 2).splitlines()
    assert line.startswith("minbert: error: rank 0 of 2 stops, for rank 1 was killed or does not answer")
    assert not (tmp_path / "killed" / ROW / "result.json").exists()

    resumed = start([*torchrun("--max-restarts=1"), *command("killed", "--resume")], logs[3])
    wait_for_a_new_checkpoint(tmp_path / "killed", resumed, logs[3])
    os.kill(last_child(resumed), signal.SIGKILL)
    assert "rank 1 was killed or does not answer" in ended(resumed, logs[3])

    assert ended(whole, logs[0]).count("schedule: ") == 1  # one table
    made, remade = (what_was_made(tmp_path / name / ROW) for name in ("whole", "killed"))
    assert made.keys() == remade.keys()
    for path in made:
        assert made[path] == remade[path], path

    assert cli.main(command("alone")[2:]) == 0
    (mine,), (right,) = (
        json.loads((tmp_path / name / ROW / "result.json").read_text())["runs"] for name in ("whole", "alone")
    )
    assert mine["versions"]["device"].endswith(", 2 ranks")
    assert made.keys() == what_was_made(tmp_path / "alone" / ROW).keys()
    for a, b in zip(mine["epochs"], right["epochs"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["dev"] == pytest.approx(b["dev"], abs=1e-3)
