"""Ranks for tests: processes that are started once and run one function after another in a group of gloo.

A test takes the fixture ``ranks`` and calls ``ranks.run(function, world, ...)``. The function stands at the
top of its module, for it is pickled by name; each rank of a process group made for the call runs
``function(rank, world, ...)``. The group's meeting point is a file, so that no port has to be free.
"""

import faulthandler
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, NamedTuple

SECONDS = 60
"""A call's time limit."""
START = 180
"""Seconds in which the processes must have imported torch."""
GRACE = 5
"""Seconds for the other ranks to fail as well, and for a rank to end by itself after the limit."""
LINES = 40
"""Lines of a rank's log that a failure shows."""


class Process(NamedTuple):
    """A rank's process and where it writes what it prints."""

    popen: "subprocess.Popen[bytes]"
    log: Path


class Ranks:
    """As many processes as a call has asked for so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        self.started = self.calls = 0

    def run(
        self, function: Callable[..., Any], world: int, *arguments: Any, seconds: float = SECONDS
    ) -> list[Any]:
        """Returns what the function returned, by rank.

        Args:
            function: Called as ``function(rank, world, *arguments)``.
            world: Number of ranks.
            arguments: What can be pickled, as what is returned must.
            seconds: The time limit.

        Raises:
            AssertionError: If a rank raises, dies or takes too long. It shows the ranks' logs. The processes
                are ended, and the next call starts others.
        """
        self._start(world - len(self.processes))
        self.calls += 1
        chosen = self.processes[:world]
        begins = [process.log.stat().st_size for process in chosen]
        for rank, process in enumerate(chosen):
            meeting = str(self.folder / f"meeting{self.calls}")
            pickle.dump((function, rank, world, arguments, meeting, seconds), process.popen.stdin)
            process.popen.stdin.flush()
        title = f"{function.__module__}.{function.__qualname__}"
        return self._answers(title, chosen, seconds + GRACE, begins)

    def stop(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.popen.kill()
        for process in self.processes:
            process.popen.communicate()
        self.processes = []

    def _start(self, count: int) -> None:
        new = []
        for _ in range(count):
            self.started += 1
            path = self.folder / f"log{self.started}"
            with open(path, "wb") as log:
                popen = subprocess.Popen(
                    [sys.executable, "-m", "tests.ranks"],
                    env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            new.append(Process(popen, path))
        self.processes += new
        self._answers("the start", new, START, [0] * count)

    def _answers(self, title: str, processes: list[Process], seconds: float, begins: list[int]) -> list[Any]:
        """Returns what comes from each process; ``begins`` is where in its log the failure's part begins."""
        waiting = {process.popen.stdout: rank for rank, process in enumerate(processes)}
        answers, failures = {}, {}
        deadline = monotonic() + seconds
        while waiting and (left := deadline - monotonic()) > 0:
            for pipe in wait(list(waiting), left):
                rank = waiting.pop(pipe)
                try:
                    error, answers[rank] = pickle.load(pipe)
                except EOFError:
                    error = f"ended with code {processes[rank].popen.wait()}"
                if error:
                    failures[rank] = error
                    deadline = min(deadline, monotonic() + GRACE)
        failures |= dict.fromkeys(waiting.values(), "has not answered")
        if not failures:
            return [answers[rank] for rank in range(len(processes))]
        self.stop()
        told = [f"{title} failed"]
        told += [f"rank {rank} of {len(processes)} {what}" for rank, what in sorted(failures.items())]
        for rank, (process, begin) in enumerate(zip(processes, begins, strict=True)):
            lines = process.log.read_bytes()[begin:].decode(errors="replace").splitlines()
            told += [f"--- log of rank {rank}", *lines[-LINES:]]
        raise AssertionError("\n".join(told))


def answer(pipe: BinaryIO, error: str, result: object) -> None:
    """Sends what came of a call."""
    pickle.dump((error, result), pipe)
    pipe.flush()


def serve() -> None:
    """Runs what comes through the standard input until it is closed; what is printed goes to the log."""
    import torch.distributed as dist

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answer(answers, "", None)
    while True:
        try:
            function, rank, world, arguments, meeting, seconds = pickle.load(sys.stdin.buffer)
        except EOFError:
            os._exit(0)  # threads of gloo that outlive the interpreter abort it now and then
        faulthandler.dump_traceback_later(seconds, exit=True)
        error, result = "", None
        try:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{meeting}",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=seconds),
            )
            result = function(rank, world, *arguments)
        except Exception:
            error = f"raised\n{traceback.format_exc()}"
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()
        answer(answers, error, result)


if __name__ == "__main__":
    serve()
