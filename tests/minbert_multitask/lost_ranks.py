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

WORLD, TIMEOUT = 3, 3.0


def fail():
    raise OSError(28, "No space left on device", "checkpoint.pt")


def end(number):
    return lambda: os.kill(os.getpid(), number)


def wait_in_a_chain(rank):
    """The last rank waits for the one that ends, and the first for the last alone."""
    dist.recv(torch.empty(4), src={2: 1, 0: 2}[rank])


SCENARIOS = {
    "killed": (1, end(signal.SIGKILL)),
    "killed-in-a-chain": (1, end(signal.SIGKILL)),
    "first-killed": (0, end(signal.SIGKILL)),
    "hanging": (2, end(signal.SIGSTOP)),
    "first-hanging": (0, end(signal.SIGSTOP)),
    "told-to-stop": (1, end(signal.SIGTERM)),
    "full-disk": (2, fail),
}


def work(scenario, rank, port, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(folder / f"{scenario}-{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    ending, act = SCENARIOS[scenario]
    try:
        with ranks.group(timeout=TIMEOUT):
            for step in range(1000):
                if (rank, step) == (ending, 3):
                    act()
                if (scenario, step) == ("killed-in-a-chain", 3):
                    wait_in_a_chain(rank)
                ranks.mean(torch.ones(4))
    except (ConnectionError, OSError) as error:
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
        if "hanging" in scenario and SCENARIOS[scenario][0] == rank
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
