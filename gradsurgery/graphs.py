"""What the graph of a loss holds: functions that hide parameters, or give zeros to those of other tasks."""

import warnings
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, TypeAlias

from torch import Tensor

from . import sharding

_Node: TypeAlias = Any
_CHECKPOINT = "CheckpointFunctionBackward"
_ZEROS = {_CHECKPOINT: "a reentrant checkpoint", "CompiledFunctionBackward": "a compiled forward"}
"""Functions whose backward gives zeros, and not None, to what a loss does not reach through their outputs."""


def refuse_reentrant_checkpoint(name: str, loss: Tensor) -> None:
    """Refuses what ``autograd.grad`` would leave out: what such a checkpoint calls is in its own graph alone.

    Raises:
        ValueError: If there is one.
    """
    if any(node.name() == _CHECKPOINT for node, _ in _edges(loss)):
        raise ValueError(
            f"the loss of task {name!r} must have no reentrant checkpoint in its graph, got one, whose"
            " gradients only a backward into .grad finds: pass use_reentrant=False to checkpoint()"
        )


class SharedOutputs:
    """Warns where tasks use different outputs of one compiled forward, or of one reentrant checkpoint.

    The parameters of the outputs that a task does not use then have zeros as its gradient, by which they look
    as if it reached them. The graphs of one step are looked at.
    """

    def __init__(self) -> None:
        self._used: dict[str, set[tuple[str, tuple[int, ...]]]] = {}
        self.is_done = False

    def look(self, name: str, loss: Tensor) -> None:
        """Notes of which such functions a task's loss uses some outputs, and which."""
        used: dict[_Node, set[int]] = {}
        for node, output in _edges(loss):
            if node.name() in _ZEROS:
                used.setdefault(node, set()).add(output)
        self._used[name] = {
            (node.name(), tuple(sorted(outputs)))
            for node, outputs in used.items()
            if len(outputs) < len(getattr(node, "_input_metadata", ()))  # one for each output
        }

    def conclude(self, rows: Mapping[str, Mapping[Tensor, Tensor]], *, stacklevel: int) -> None:
        """Warns if the tasks of a step have been found to use them so and have such zeros; looks no more.

        Args:
            rows: By task, its gradient by parameter; read, and waited for, if they have been found so.
            stacklevel: As of ``warnings.warn``, seen from here.
        """
        for (first, outputs), (name, found) in combinations(self._used.items(), 2):
            if (different := outputs ^ found) and (count := _zero_filled(rows[first], rows[name])):
                kinds = sorted({_ZEROS[kind] for kind, _ in different})
                warnings.warn(
                    f"tasks {first!r} and {name!r} use different outputs of {' and of '.join(kinds)}, whose"
                    f" backward gives zeros for others' heads, so that {count} parameters take part in the"
                    " surgery as if they were shared: pass scope=trunk.parameters, or call the heads outside",
                    stacklevel=stacklevel,
                )
                break
        self._used, self.is_done = {}, True


def _zero_filled(one: Mapping[Tensor, Tensor], other: Mapping[Tensor, Tensor]) -> int:
    """Returns how many parameters have zeros of one task alone; 0 if none has a gradient of both.

    A task that is zero wherever the other reaches is another case: its head outside may begin at zero.
    """
    found = [[bool(sharding.local(row[p]).any()) for row in (one, other)] for p in one if p in other]
    return sum(map(any, found)) - found.count([True, True]) if [True, True] in found else 0


def _edges(loss: Tensor) -> Iterator[tuple[_Node, int]]:
    """Yields the functions of a loss's graph, once for every use of an output, with the output's index."""
    waiting = [(loss.grad_fn, loss.output_nr)]
    seen = set()
    while waiting:
        node, output = waiting.pop()
        if node is None:
            continue
        yield node, output
        if node not in seen:
            seen.add(node)
            waiting += node.next_functions
