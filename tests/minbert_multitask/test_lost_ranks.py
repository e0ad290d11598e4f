"""A rank that ends in mid-work: each of the others says in one line which it was, within the timeout."""

import os
import socket
import subprocess
import sys

import pytest
from minbert_multitask import cli, ranks

from tests.minbert_multitask import lost_ranks


def _without_slow_names(log):
    """What a rank says, without torch's warning that a busy machine looked up no host name while joining."""
    lines = log.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "The hostname of the client socket cannot" not in line)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """By scenario, what each rank says."""
    folder = tmp_path_factory.mktemp("said")
    command = [sys.executable, lost_ranks.__file__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True, check=False)
    logs = {
        name: [_without_slow_names(folder / f"{name}-{rank}") for rank in range(lost_ranks.WORLD)]
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
        (
            "full-disk-of-the-first",
            0,
            "OSError [Errno 28]",
            "rank 0 stopped: [Errno 28] No space left on device",
        ),
        ("full-disk-and-a-late-first", 2, "OSError [Errno 28]", "rank 2 stopped: [Errno 28] No space left"),
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


def test_what_the_first_rank_refuses_is_said_by_it_alone_and_at_once(said):
    assert said["refused-by-the-first"] == [
        "ValueError the folder holds a run\n",
        "SystemExit 2\n",
        "SystemExit 2\n",
    ]


@pytest.mark.parametrize(
    ("rank", "why"),
    [("0", "not every rank has joined (Timed out"), ("1", "rank 0 was killed or does not answer (")],
)
def test_ranks_that_never_come_are_not_looked_for_elsewhere(monkeypatch, rank, why):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    for name, value in {**environment, "RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConnectionError) as caught, ranks.group(timeout=1):
        pass
    assert str(caught.value).startswith(f"rank {rank} of 2 stops, for {why}")


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
