"""A rank that ends in mid-work: each of the others says in one line which it was, within the timeout."""

import os
import subprocess
import sys

import pytest
from minbert_multitask import cli

from tests.minbert_multitask import lost_ranks


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """By scenario, what each rank says."""
    folder = tmp_path_factory.mktemp("said")
    command = [sys.executable, lost_ranks.__file__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True, check=False)
    logs = {
        name: [(folder / f"{name}-{rank}").read_text() for rank in range(lost_ranks.WORLD)]
        for name in lost_ranks.SCENARIOS
    }
    assert done.returncode == 0, (done.stderr, logs)
    return logs


@pytest.mark.parametrize(
    ("scenario", "ending", "own", "why"),
    [
        ("killed", 1, "", "rank 1 was killed or does not answer"),
        ("killed-in-a-chain", 1, "", "rank 1 was killed or does not answer"),
        ("first-killed", 0, "", "rank 0 was killed or does not answer"),
        ("hanging", 2, "", "rank 2 was killed or does not answer (Timed out"),
        ("first-hanging", 0, "", "rank 0 was killed or does not answer (Timed out"),
        ("told-to-stop", 1, "for it was told to stop by SIGTERM;", "rank 1 stopped: was told to stop"),
        ("full-disk", 2, "OSError [Errno 28]", "rank 2 stopped: [Errno 28] No space left on device"),
    ],
)
def test_the_others_name_the_rank_that_has_ended(said, scenario, ending, own, why):
    for rank, text in enumerate(said[scenario]):
        if rank == ending:
            assert own in text
            assert len(text.splitlines()) == bool(own)
            continue
        assert text.startswith(f"ConnectionError rank {rank} of 3 stops, for {why}"), text
        assert "the same command with --resume goes on" in text
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table"], "only `train` runs on several ranks, got 2; start this without torchrun"),
        (["train", "gse", "--jobs", "2"], "jobs must be 1 where 2 ranks train a row, got 2"),
        (["train", "gse", "--packed"], "packed must be left out where 2 ranks share the dropout masks"),
        (["train", "gse", "--rank-timeout", "0"], "rank-timeout must be a positive number of seconds, got 0"),
        (["train", "gse", "--epochs", "x"], "invalid int value: 'x'"),
    ],
)
def test_what_every_rank_refuses_is_said_once(monkeypatch, capsys, rank, arguments, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert (message in error and error.count("\n") == 1) if rank == "0" else error == ""
