"""What surgery and updates add to a step's T backwards, with the gradients given.

Whole steps (``end_to_end.py``) differ from round to round by more than is added. Here the gradients are made
once and put back before each call, so that nothing else is timed but the T backwards, which stand for 1.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from minbert_multitask.files import write_atomically
from torch import Tensor, nn

from gradsurgery import GSE, PCGrad

from . import measure
from .end_to_end import BACKWARDS, COMPILED, SURGERY, UPDATE, Encoder, encoder_of, parser_of
from .peers import Loss, compiled_kernels
from .projection import LIMIT, limit

REUSE = "GSE, reuse, less its updates"


class GivenGradients:
    """The gradients of T tasks, made once and handed over as often as they are asked for.

    Args:
        parameters: What the gradients are of.
        losses: One a task; each is back-propagated here.

    Attributes:
        callables: One a task, which fills ``.grad``.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], losses: Sequence[Callable[[], Tensor]]) -> None:
        self.callables: list[Callable[[], None]] = []
        self._gradients: list[Tensor] = []
        for loss in losses:
            loss().backward()
            reached = [p for p in parameters if p.grad is not None]
            row = [p.grad for p in reached]
            self.callables.append(Loss(reached, row).backward)
            self._gradients += row
            for parameter in reached:
                parameter.grad = None
        self._kept = [gradient.clone() for gradient in self._gradients]

    def restore(self) -> None:
        """Puts the gradients back where surgeries have written their sums."""
        torch._foreach_copy_(self._gradients, self._kept)


class Idle(torch.optim.Optimizer):
    """An optimizer that updates nothing, so that what a step does beside its updates can be timed."""

    def step(self, closure: Any = None) -> None:
        """Does nothing."""


def costs(model: Encoder, tasks: int, rounds: int) -> dict[str, Any]:
    """Returns the times of the T backwards and of what a step adds to them, with the ratios to them."""
    parameters = list(model.parameters())
    losses = [lambda k=k: model.loss(k) for k in range(tasks)]
    given = GivenGradients(parameters, losses)
    adam = torch.optim.AdamW(parameters, lr=1e-6)
    once, twice = (method(Idle(parameters, {})) for method in (PCGrad, partial(GSE, second_update="reuse")))

    def backwards() -> None:
        for loss in losses:
            model.zero_grad()
            loss().backward()

    def operated() -> None:
        once.backward(given.callables)

    def operated_for_two() -> None:
        twice.backward(given.callables)
        twice.step()

    def with_gradients(run: Callable[[], object]) -> Callable[[], object]:
        model.zero_grad()
        given.restore()
        return run

    def with_their_sum(run: Callable[[], object]) -> Callable[[], object]:
        with_gradients(operated)()
        return run

    read_and_written = limit(torch.randn(tasks, sum(p.numel() for p in parameters)))
    entries: dict[str, measure.Preparation] = {
        BACKWARDS: lambda: backwards,
        LIMIT: lambda: read_and_written,
        UPDATE: lambda: with_their_sum(adam.step),
    }
    for name, run in {SURGERY: operated, REUSE: operated_for_two}.items():
        entries[name] = partial(with_gradients, run)
        entries[f"{name}{COMPILED}"] = partial(with_gradients, compiled_kernels()(run))
    return measure.in_rounds(entries, reference=BACKWARDS, device=torch.device("cpu"), rounds=rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser_of("added", __doc__, rounds=20).parse_args(arguments)
    encoder, described = encoder_of(options)
    rows = costs(encoder, options.tasks, options.rounds)
    found = {**described, "rows": rows, "measured_with": measure.facts()}
    write_atomically(options.output / "added.json", json.dumps(found, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{name:48s}{row['cpu_ms']['median']:10.2f} ms {row['ratio']['median']:8.4f}")


if __name__ == "__main__":
    main()
