"""A process that is killed at any moment goes on with --resume and ends as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from minbert_multitask.run_folder import LOG

ROOT = Path(__file__).parents[2]
UNDECISIVE = ("seconds", "peak_memory_bytes")


def command(data, weights, out, *more):
    options = ("--data", data, "--weights", weights, "--out", out, "--checkpoint-every", 2, "--batch-size", 4)
    schedule = ("--epochs", 2, "--iterations", 40, "--lr", 1e-3, "--probe-every", 7, "--train-eval-size", 6)
    arguments = ("-m", "minbert_multitask", "train", "gse", "smart", *options, *schedule, *more)
    return [sys.executable, *map(str, arguments)]


def start(arguments):
    # Installed or not, the packages are found; one thread, so that sums have one order.
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    return subprocess.Popen(
        arguments,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in UNDECISIVE}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def what_was_made(folder):
    """Returns every file but the log by its path below the folder, JSON parsed and without its times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOG]
    return {
        path.relative_to(folder): without_times(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in files
    }


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(small_data, small_weights, tmp_path):
    whole = start(command(small_data, small_weights, tmp_path / "whole"))
    assert whole.wait(timeout=300) == 0, whole.stderr.read()

    def checkpoint_changes(folder, killed):
        """Waits until a checkpoint was written anew: then the process is in the middle of something."""
        paths = [folder / name / "checkpoint.pt" for name in ("gse-11711", "smart-11711")]
        former = {path: path.stat().st_mtime_ns for path in paths if path.exists()}
        for _ in range(6000):
            if any(path.exists() and path.stat().st_mtime_ns != former.get(path) for path in paths):
                return
            assert killed.poll() is None, killed.stderr.read()
            time.sleep(0.01)
        pytest.fail("no checkpoint was written within a minute")

    for delay in (0.0, 0.07, 0.2):
        process = start(command(small_data, small_weights, tmp_path / "killed", "--resume"))
        checkpoint_changes(tmp_path / "killed", process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL

    resumed = start(command(small_data, small_weights, tmp_path / "killed", "--resume"))
    assert resumed.wait(timeout=300) == 0, resumed.stderr.read()
    for row in ("gse-11711", "smart-11711"):
        whole_run, resumed_run = (
            what_was_made(tmp_path / "whole" / row),
            what_was_made(tmp_path / "killed" / row),
        )
        assert whole_run.keys() == resumed_run.keys()
        for path in whole_run:
            assert whole_run[path] == resumed_run[path], path
