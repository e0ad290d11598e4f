"""Several rows at once: one process a row, the longest first, one stream of progress."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from . import ranks
from .inputs import Inputs
from .progress import Bars, Event
from .results import RunResult
from .run import run
from .run_folder import Job

_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
"""For glibc: what an iteration frees is kept for the next one, and not mapped anew by pages."""


def run_all(
    jobs: list[Job],
    inputs: Inputs,
    *,
    processes: int,
    in_order: bool = False,
    ended: Callable[[Job, RunResult], None] = lambda job, result: None,
) -> list[RunResult]:
    """Runs every job and returns their results in the jobs' order.

    Args:
        jobs: The jobs; each has a folder of its own.
        inputs: The data and the weights, which all jobs share.
        processes: How many jobs run at a time; one job at a time runs in this process.
        in_order: Begin them in their order, and not the longest first, which ends sooner.
        ended: Called with each job that has ended, as it ends.

    Raises:
        ValueError: If a job's folder, settings or weights are at fault, or another process trains there.
        OSError: If a job cannot write, or its process was killed, for instance for want of memory.
    """
    with ExitStack() as locks:

        def claim() -> None:
            for job in jobs:
                job.check(inputs)
            for job in jobs:
                locks.enter_context(job.locked())
                job.claim(inputs)

        ranks.on_first(claim)
        if not ranks.is_first():
            return [run(job, inputs, lambda _: None) for job in jobs]
        return _run_claimed(jobs, inputs, processes=processes, in_order=in_order, ended=ended)


def _run_claimed(
    jobs: list[Job],
    inputs: Inputs,
    *,
    processes: int,
    in_order: bool,
    ended: Callable[[Job, RunResult], None],
) -> list[RunResult]:
    with Bars({job.folder.name: job.iterations for job in jobs}) as bars:
        if processes == 1 or len(jobs) == 1:
            results = []
            for job in jobs:
                results.append(run(job, inputs, bars.show))
                ended(job, results[-1])
            return results
        queue = jobs if in_order else sorted(jobs, key=_cost, reverse=True)
        found: dict[Path, RunResult] = {}
        for job, result in _run_in_processes(queue, inputs, bars, processes):
            ended(job, result)
            found[job.folder] = result
        return [found[job.folder] for job in jobs]


def _run_in_processes(
    jobs: list[Job], inputs: Inputs, bars: Bars, processes: int
) -> Iterator[tuple[Job, RunResult]]:
    """Yields the jobs with their results as they end."""
    # A fork would copy torch's threads in the middle of their work.
    context = multiprocessing.get_context("spawn")
    for name, value in _KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    events: Queue[Event | None] = context.Queue()
    threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // processes))
    try:
        with (
            _listening(events, bars),
            ProcessPoolExecutor(processes, context, _prepare_process, (inputs, events, threads)) as pool,
            _ending_on_error(pool),
        ):
            futures = {pool.submit(_run_in_process, job): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that trained a row was killed, perhaps for want of memory; "
            "go on with fewer --jobs, and of `train` with --resume"
        ) from error


@contextmanager
def _ending_on_error(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Ends the processes at once where the body fails, instead of waiting for their jobs."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _cost(job: Job) -> float:
    """Returns how long a job takes, in forwards and backwards; only the order of the jobs depends on it."""
    passes = {"none": 0.0, "gse": 2.2}.get(job.experiment.update, 1.2)
    return job.iterations * passes * (2.6 if job.experiment.smart else 1.0)


_inputs: Inputs
_events: "Queue[Event | None]"


def _prepare_process(inputs: Inputs, events: "Queue[Event | None]", threads: int) -> None:
    """Gives a process of the pool what all its jobs share, which is sent to it once."""
    global _inputs, _events
    _inputs, _events = inputs, events
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is killed: nobody would hear of what it trains on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_process(job: Job) -> RunResult:
    return run(job, _inputs, _events.put)


@contextmanager
def _listening(events: "Queue[Event | None]", bars: Bars) -> Iterator[None]:
    """Shows the events of all processes while the body runs."""

    def listen() -> None:
        while (event := events.get()) is not None:
            bars.show(event)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        events.put(None)
        thread.join(timeout=5)
