"""Groups of three ranks, one of which ends in mid-work. Started by test_lost_ranks, once for all scenarios.

Usage: python lost_ranks.py FOLDER

Each rank writes what it says into FOLDER/SCENARIO-RANK.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from minbert_multitask import ranks

WORLD = 3
TIMEOUT = {"hanging": 8.0, "first-hanging": 8.0}
"""Seconds, where the others have nothing else to notice the rank by; elsewhere 40, which nobody waits for."""


def fail():
    raise OSError(28, "No space left on device", "checkpoint.pt")


def end(number):
    return lambda: os.kill(os.getpid(), number)


def wait_in_a_chain(rank):
    """The last rank waits for the one that ends, and the first for the last alone."""
    dist.recv(torch.empty(4), src={2: 1, 0: 2}[rank])


def read_rarely(seconds):
    """Waits ten times as long as asked before the rank looks again for what the others have left."""
    SLEEP(10 * seconds)


def refuse():
    """As a folder that holds a run is refused; the first looks for the others' notes as long as it takes."""
    ranks._GRACE = 1000.0

    def check():
        raise ValueError("the folder holds a run")

    ranks.on_first(check)


SLEEP = time.sleep
SCENARIOS = {
    "killed": (1, end(signal.SIGKILL)),
    "killed-in-a-chain": (1, end(signal.SIGKILL)),
    "first-killed": (0, end(signal.SIGKILL)),
    "hanging": (2, end(signal.SIGSTOP)),
    "first-hanging": (0, end(signal.SIGSTOP)),
    "told-to-stop": (1, end(signal.SIGTERM)),
    "full-disk": (2, fail),
    "full-disk-of-the-first": (0, fail),
    "full-disk-and-a-late-first": (2, fail),
    "refused-by-the-first": (0, refuse),
}
LATE = {("full-disk-of-the-first", 1), ("full-disk-of-the-first", 2), ("full-disk-and-a-late-first", 0)}
"""Who notices a quarter of a second after the others that a rank has ended."""


def work(scenario, rank, port, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(folder / f"{scenario}-{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    ending, act = SCENARIOS[scenario]
    if (scenario, rank) == ("full-disk-and-a-late-first", 1):
        time.sleep = read_rarely
    try:
        with ranks.group(timeout=TIMEOUT.get(scenario, 40.0)):
            for step in range(1000):
                if step == 3 and (rank == ending or act is refuse):
                    act()
                if (scenario, step) == ("killed-in-a-chain", 3):
                    wait_in_a_chain(rank)
                if (scenario, rank) in LATE and step == 3:
                    SLEEP(0.25)
                ranks.mean(torch.ones(4))
    except (ConnectionError, OSError, ValueError, SystemExit) as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)


def main(folder):
    running = {}
    for scenario in SCENARIOS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(WORLD):
            pid = os.fork()  # torch is imported once, and has not started a thread yet
            if pid == 0:
                work(scenario, rank, port, folder)
            running[pid] = (scenario, rank)
    stopped = [
        pid
        for pid, (scenario, rank) in running.items()
        if scenario in TIMEOUT and SCENARIOS[scenario][0] == rank
    ]
    deadline = time.monotonic() + 60
    left = set(running) - set(stopped)
    while left and time.monotonic() < deadline:
        left -= {pid for pid in left if os.waitpid(pid, os.WNOHANG)[0]}
        time.sleep(0.02)
    for pid in {*left, *stopped}:
        os.kill(pid, signal.SIGKILL)
    assert not left, [running[pid] for pid in left]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
