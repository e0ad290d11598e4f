"""A training run and the writing of a file, killed at random moments: what is left is whole, and goes on.

Usage: python -m tests.minbert_multitask.kills [--kills 20] [--seed 0]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.minbert_multitask import places
from tests.minbert_multitask.test_kill import start, what_was_made

OPTIONS = "--epochs 3 --iterations 150 --batch-size 4 --probe-every 20 --checkpoint-every 5"
WRITER = """
import sys, itertools
from pathlib import Path
from minbert_multitask.files import write_atomically
print("ready", flush=True)
for k in itertools.count():
    write_atomically(Path(sys.argv[1]), bytes([k % 256]) * 3_000_000)
"""


def train(place: Path, out: str, *more: str) -> "subprocess.Popen[str]":
    """Starts a run in a process of its own."""
    data, weights = place / "data", place / "weights"
    words = [
        "train",
        "gse",
        *OPTIONS.split(),
        "--data",
        data,
        "--weights",
        weights,
        "--out",
        place / out,
        *more,
    ]
    return start([sys.executable, "-m", "minbert_multitask", *map(str, words)])


def killed_runs(place: Path, kills: int, draw: random.Random) -> int:
    """Kills a run at random moments, lets it end, and compares it with one that was left alone.

    A moment is drawn after the run has begun to write: while it starts, nothing can be lost. Returns how many
    kills met a run at work.
    """
    whole = train(place, "whole")
    assert whole.wait(timeout=600) == 0, whole.stderr.read()
    at_work = 0
    for _ in range(kills):
        process = train(place, "killed", "--resume")
        request = place / "killed" / "gse-11711" / "run.json"
        before = request.stat().st_mtime_ns if request.exists() else 0
        while process.poll() is None and (not request.exists() or request.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        at_work += process.wait(timeout=60) == -signal.SIGKILL
    last = train(place, "killed", "--resume")
    assert last.wait(timeout=600) == 0, last.stderr.read()
    left_alone, resumed = (what_was_made(place / out / "gse-11711") for out in ("whole", "killed"))
    assert left_alone.keys() == resumed.keys()
    for path, content in left_alone.items():
        assert resumed[path] == content, path
    return at_work


def killed_writes(place: Path, kills: int, draw: random.Random) -> int:
    """Kills a process that writes one file over and over; the file is of one write each time."""
    path = place / "written"
    seen = set()
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env={**os.environ}
        )
        process.stdout.readline()
        time.sleep(draw.uniform(0.02, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 3_000_000
            assert content == content[:1] * len(content), "parts of two writes"
            seen.add(content[0])
    return len(seen)


def main() -> None:
    """Kills as often as asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.minbert_multitask.kills")
    parser.add_argument("--kills", type=int, default=20, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        places.make(place)
        writes = killed_writes(place, options.kills, draw)
        print(f"{options.kills} kills of writes: the file was whole each time, {writes} contents", flush=True)
        runs = killed_runs(place, options.kills, draw)
        print(f"{options.kills} kills of a run, {runs} at work: it ended bit-equal")


if __name__ == "__main__":
    main()
