"""Several rows at a time: the failures of processes."""

import os
import signal
import time

import pytest
from minbert_multitask import parallel
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.inputs import DataSource
from minbert_multitask.run_folder import Job
from minbert_multitask.settings import Settings

from .test_kill import command, start


@pytest.fixture
def jobs(small_data, small_weights, tmp_path):
    settings = Settings(weights=str(small_weights), epochs=1, iterations=1, batch_size=2, device="cpu")
    return [
        Job(
            experiment=EXPERIMENTS[row],
            settings=settings,
            source=DataSource("small", small_data),
            folder=tmp_path / row,
        )
        for row in ("multitask", "gs", "gse")
    ]


def die(inputs, events, threads):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_sentence_with_the_remedy(jobs, small_inputs, monkeypatch):
    monkeypatch.setattr(parallel, "_prepare_process", die)
    with pytest.raises(
        ChildProcessError, match=r"was killed.*go on with fewer --jobs, and of `train` with --resume"
    ):
        parallel.run_all(jobs, small_inputs, processes=2)


def test_no_job_begins_where_one_folder_is_taken(jobs, small_inputs):
    jobs[2].claim(small_inputs)
    with pytest.raises(ValueError, match="holds a run already"):
        parallel.run_all(jobs, small_inputs, processes=2)
    assert not jobs[0].folder.exists()


def test_a_result_that_is_there_is_not_taken_for_the_run_that_is_asked_for(jobs, small_inputs):
    jobs[2].folder.mkdir(parents=True)
    (jobs[2].folder / "result.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a result without its run\.json; choose another --out"):
        parallel.run_all(jobs, small_inputs, processes=2)
    assert not jobs[0].folder.exists()


def children(process):
    path = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(path, encoding="utf-8") as file:
        return [int(child) for child in file.read().split()]


def is_training(pid):
    """Returns whether a process of this number exists and has not ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads Linux's list of children")
def test_killing_the_command_ends_its_processes(small_data, small_weights, tmp_path):
    process = start(command(small_data, small_weights, tmp_path, "--jobs", 2, "--iterations", 100_000))
    checkpoints = [tmp_path / row / "checkpoint.pt" for row in ("gse-11711", "smart-11711")]
    for _ in range(12_000):
        if all(path.exists() for path in checkpoints):
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    started = children(process)
    assert len(started) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    for _ in range(6000):
        if not any(map(is_training, started)):
            return
        time.sleep(0.01)
    pytest.fail(f"processes {[pid for pid in started if is_training(pid)]} go on training")
