"""The ε at which the penalty weighs what it should."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from .divergences import OutputMask, Outputs
from .inputs import Embeddings, Mask
from .losses import Loss
from .measurement import Batch, crossing, scaled

if TYPE_CHECKING:
    from .regularizer import SMART

GRID_POINTS = 13
BISECTIONS = 12


def calibrate(
    self: "SMART",
    forward: Callable[[Embeddings], Outputs],
    embeddings: Embeddings,
    *,
    loss: Loss,
    parameters: Iterable[Tensor],
    weight: float,
    mask: Mask = None,
    output_mask: OutputMask = None,
    target: float = 0.1,
    bracket: tuple[float, float] = (1e-6, 1.0),
) -> "SMART":
    """Returns a regularizer with the smallest ε at which ``λ ‖∇R‖ / ‖∇L‖`` is the target.

    η and σ keep their ratio to ε. Noise and dropout masks are the same at every ε; gradients, buffers and the
    random state are left as they were. The first crossing is looked for on a grid of 13 values of ε, evenly
    spaced in its logarithm, and then bisected.

    Args:
        self: The regularizer, of a preset with a ball: ``"paper"`` or ``"vat"``.
        forward: See :meth:`SMART.penalize`.
        embeddings: See :meth:`SMART.penalize`; cut from their graph, so that parameters below them do not
            count.
        loss: From the outputs to L.
        parameters: The parameters whose gradients are compared; frozen ones are left out.
        weight: λ.
        mask: See :meth:`SMART.penalize`.
        output_mask: See :meth:`SMART.penalize`.
        target: The share that is looked for.
        bracket: The least and the greatest ε.

    Raises:
        ValueError: If no ε in the bracket has this share, the loss depends on none of the parameters, or the
            preset has no ball.
    """
    refuse_without_ball(self, "calibrate")
    low, high = bracket
    if not 0 < low < high < math.inf:
        raise ValueError(f"bracket must be two positive numbers in order, got {bracket!r}: take (1e-6, 1.0)")
    batch = Batch.of(
        forward,
        embeddings,
        loss=loss,
        parameters=parameters,
        weight=weight,
        mask=mask,
        output_mask=output_mask,
        generator=self.generator,
    )
    with batch.untouched():
        epsilon, seen = crossing(
            lambda epsilon: batch.share(scaled(self, epsilon)),
            target,
            bracket,
            points=GRID_POINTS,
            halvings=BISECTIONS,
        )
    if epsilon is None or len(seen) == 1:
        reason = (
            f"the greatest share in it is {max(seen):.3g}: take a greater weight, or a smaller target"
            if epsilon is None
            else f"the least epsilon gives {seen[0]:.3g}: take dropout='shared', or a smaller weight"
        )
        raise ValueError(f"target must be reached in bracket={bracket}, got {target:g}, but {reason}")
    return scaled(self, epsilon)


def refuse_without_ball(smart: "SMART", name: str) -> None:
    """Refuses a regularizer whose ε is no radius that could be another.

    Raises:
        ValueError: If it is one.
    """
    if not smart.perturbation.has_ball:
        raise ValueError(
            f"{name}() needs a ball, got a regularizer without one, whose epsilon is no radius: take"
            " preset='paper' or 'vat'"
        )
