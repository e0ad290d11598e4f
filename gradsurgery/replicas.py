"""The replicas of one optimizer on several ranks: mean rows, one random order, equal parameters."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import distributed
from .gradients import Row, flat
from .sharding import is_sharded, local
from .tasks import is_finite

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Replicas:
    """What the ranks know of each other from one backward to the next; all begin anew together.

    Args:
        group: The ranks.
        check_every: After how many backwards they compare their parameters; 0 is never.
    """

    def __init__(self, group: "ProcessGroup | None", check_every: int) -> None:
        self._group = group
        self._check_every = check_every
        self.forget()

    def forget(self) -> None:
        """Begins anew, which all ranks do."""
        self._backwards = 0
        self._reach: dict[str, list[bool]] = {}

    def finite(self, loss: Tensor) -> bool:
        """Waits for a loss, and returns whether it is finite on every rank: none goes on alone."""
        own = is_finite(loss)
        if distributed.ranks(self._group) == 1:
            return own
        (somewhere_not,) = distributed.anywhere([not own], loss.device, self._group)
        return not somewhere_not

    def begin(
        self, tasks: Sequence[str], parameters: Sequence[Tensor], generator: torch.Generator
    ) -> "RowMeans | None":
        """Begins a backward, after which every rank shall hold the same.

        A message tells whether they begin the same. It is sent now and waited for with the first row; on the
        first backward, on each that compares parameters, and where all parameters are sharded, now: there
        the rows of other tasks would be added up on the way.

        Args:
            tasks: The rows' names, in their order, also twice.
            parameters: All parameters of the optimizer.
            generator: The source of the random order; the first rank's is given to the others.

        Returns:
            What averages the rows of replicated parameters; None if there are none, or one rank.

        Raises:
            ValueError: If the ranks do not begin the same.
        """
        if distributed.ranks(self._group) == 1:
            return None
        tasks = list(dict.fromkeys(tasks))
        replicated = [p for p in parameters if not is_sharded(p)]
        is_first = self._backwards == 0
        is_due = is_first or (self._check_every > 0 and self._backwards % self._check_every == 0)
        rank = torch.distributed.get_rank(self._group)
        values = {
            "backward(losses) must be called alike on every rank, got one more or less, or since"
            f" load_state_dict(), on rank {rank}: call both on all ranks": self._backwards,
            f"losses must name the same tasks in the same order on every rank, got {tasks} on rank"
            f" {rank}: build the mapping alike on all ranks": tasks,
            f"optimizer must hold the same parameters on every rank, got {len(parameters)} on rank {rank}"
            " and not the same elsewhere: for ranks with other parts of a model, pass process_group=, the"
            " ranks that hold replicas": [tuple(p.shape) for p in parameters] if is_due else len(parameters),
            f"generator must be in the same state on every rank, got another on rank {rank}: draw from it"
            " nowhere else": None if is_first else bytes(generator.get_state().tolist()),
            f"optimizer must hold the same parameters on every rank, got other values on rank {rank} at"
            f" backward {self._backwards}: build the model in DistributedDataParallel, which makes them"
            " alike, or pass process_group=, the ranks that hold replicas": (
                distributed.checksum(replicated) if is_due and self._check_every else None
            ),
        }
        agreement = _Agreement(values, local(parameters[0]).device, self._group)
        if is_due or not replicated:
            agreement.check()
        if is_first:
            distributed.share_generator(generator, self._group)
        self._backwards += 1
        return RowMeans(replicated, self._group, self._reach, agreement) if replicated else None


def average(rows: Mapping[str, Row], parameters: Sequence[Tensor], group: "ProcessGroup | None") -> None:
    """Replaces the rows of the replicated among the parameters by their means over the ranks."""
    replicated = [p for p in parameters if not is_sharded(p)]
    if replicated:
        RowMeans(replicated, group).finish(rows)


class _Agreement:
    """A message that tells whether values are the same on every rank.

    Args:
        values: By the error that another value is.
        device: Where the group sends from.
        group: The ranks.
    """

    def __init__(
        self, values: Mapping[str, object], device: torch.device, group: "ProcessGroup | None"
    ) -> None:
        self._errors = list(values)
        digests = [distributed.digest(value) for value in values.values()]
        self._message = distributed.Comparison(digests, device, group)

    def check(self) -> None:
        """Waits, and raises a ValueError on every rank if a value differs; the second time, nothing."""
        errors, self._errors = self._errors, []
        if errors:
            for error, same in zip(errors, self._message.same(), strict=True):
                if not same:
                    raise ValueError(error)


class RowMeans:
    """The rows of replicated parameters on their way to their means over the ranks.

    A row is sent while the next task is differentiated, in what it was found to reach the last time, so that
    the ranks send alike; what it reaches anew follows at the end. A task that reaches a parameter on some
    ranks only has a zero gradient on the others.

    Args:
        parameters: The replicated ones.
        group: The ranks.
        reach: By task, for each parameter whether it was reached on any rank the last time. It is kept.
        agreement: What is waited for before a row is sent.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        group: "ProcessGroup | None",
        reach: dict[str, list[bool]] | None = None,
        agreement: _Agreement | None = None,
    ) -> None:
        self._parameters = parameters
        self._group = group
        self._reach = {} if reach is None else reach
        self._agreement = agreement
        self._own: dict[str, list[bool]] = {}
        self._sent: dict[str, list[bool]] = {}
        self._means = distributed.Means(group)

    def begin(self, task: str, row: Row) -> None:
        """Sends what the row is known to reach."""
        if self._agreement is not None:
            self._agreement.check()
        known = self._reach.get(task, [])
        if len(known) == len(self._parameters):
            self._own[task] = [p in row for p in self._parameters]
            self._sent[task] = known
            self._send(row, known)

    def finish(self, rows: Mapping[str, Row]) -> None:
        """Sends the rest, waits, and leaves each row with its means."""
        none = [False] * len(self._parameters)
        own = [self._own.get(task) or [p in row for p in self._parameters] for task, row in rows.items()]
        device = self._parameters[0].device
        reached = distributed.anywhere(list(chain.from_iterable(own)), device, self._group)
        for k, (task, row) in enumerate(rows.items()):
            self._reach[task] = reached[k * len(none) : (k + 1) * len(none)]
            sent = self._sent.get(task, none)
            self._send(row, [r and not s for r, s in zip(self._reach[task], sent, strict=True)])
            for parameter, is_reached in zip(self._parameters, self._reach[task], strict=True):
                if not is_reached:
                    row.pop(parameter, None)  # the zeros sent for what is reached no more
        self._means.finish()

    def _send(self, row: Row, chosen: Sequence[bool]) -> None:
        members = [p for p, is_chosen in zip(self._parameters, chosen, strict=True) if is_chosen]
        self._means.begin([flat(row.setdefault(p, torch.zeros_like(p))) for p in members])
