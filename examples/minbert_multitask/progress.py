"""What a run says of itself while it goes on, and the bars that show it."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Event:
    """How far a run is.

    Attributes:
        run: The run's name.
        done: Iterations done.
        total: Iterations in all.
        note: What to show beside the bar, for instance the last score on dev.
        finished: Whether the run has ended and its result is written.
    """

    run: str
    done: int
    total: int
    note: str = ""
    finished: bool = False


Report = Callable[[Event], None]


class Bars:
    """A bar for each run at work and one for all; where there is no terminal, one line a finished run.

    Args:
        expected: The total iterations of each run, by its name.
    """

    def __init__(self, expected: dict[str, int]) -> None:
        self._console = Console(file=sys.stderr)
        self._runs = len(expected)
        self._finished = 0
        self._done = dict.fromkeys(expected, 0)
        self._tasks: dict[str, TaskID] = {}
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description:<23}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task("all rows", total=sum(expected.values()), note="")

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Draws an event."""
        if event.run not in self._tasks:
            self._tasks[event.run] = self._progress.add_task(event.run, total=event.total, note="")
        self._done[event.run] = event.done
        self._progress.update(self._tasks[event.run], completed=event.done, note=event.note)
        self._progress.update(self._all, completed=sum(self._done.values()))
        if event.finished:
            self._progress.update(self._tasks[event.run], visible=False)
            self._finished += 1
            self._console.print(
                f"[{self._finished}/{self._runs}] {event.run:<23} {event.note} "
                f"({time.monotonic() - self._started:.0f} s since the start)",
                highlight=False,
                markup=False,
            )
