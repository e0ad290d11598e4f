"""The gradients of ``L + λ R`` with one forward's activations alive at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .divergences import OutputMask, Outputs, detach, tensors, without_graph
from .forward import Forward
from .graphless import as_with_a_graph, graphless
from .inputs import Embeddings, Mask
from .losses import Loss, check_loss, evaluate
from .parallel import no_sync
from .rng import RNGState

if TYPE_CHECKING:
    from .regularizer import SMART

Scale: TypeAlias = Callable[[Tensor], Tensor] | float
"""What the back-propagated scalars pass through: ``scaler.scale``, or a factor such as ``1 / k``."""


@dataclass(frozen=True)
class SmartTerms:
    """The terms of a loss whose gradients have been accumulated.

    Attributes:
        loss: L, 0-d, detached and without ``scale``.
        penalty: R, 0-d, detached, without λ and ``scale``.
        outputs: The outputs at the embeddings, of the type that ``forward`` returns, their tensors detached.
    """

    loss: Tensor
    penalty: Tensor
    outputs: Any


@as_with_a_graph()
def backward(
    self: "SMART",
    forward: Callable[[Embeddings], Outputs],
    embeddings: Embeddings,
    loss: Loss,
    *,
    weight: float,
    mask: Mask = None,
    output_mask: OutputMask = None,
    scale: Scale | None = None,
) -> SmartTerms:
    """Adds the gradients of ``L + λ R`` to ``.grad``, with one forward's activations alive at a time.

    They equal those of ``outputs, R = smart.penalize(...)`` and ``(loss(outputs) + λ R).backward()``, which
    holds two forwards' activations. The price is one forward more, and none with ``detach_clean``.

    R depends on the parameters through ``f(x + δ)`` and through ``f(x)``. The first phase stops at
    ``f(x) = o``, a leaf, and leaves ``∂λR/∂o`` there; the second computes ``f(x)`` once more, with the same
    random numbers, and carries ``∂L/∂o + ∂λR/∂o`` on.

    Args:
        self: The regularizer.
        forward: See :meth:`SMART.penalize`.
        embeddings: See :meth:`SMART.penalize`. Attached ones receive one backward, at the end.
        loss: From the outputs to L, 0-d; it closes over the labels and may add terms of its own. With
            ``detach_clean`` these must not reach what attached embeddings were made of.
        weight: λ.
        mask: See :meth:`SMART.penalize`.
        output_mask: See :meth:`SMART.penalize`.
        scale: What both back-propagated scalars pass through: ``scaler.scale``, or a factor such as 1/k.

    Raises:
        TypeError: See :meth:`SMART.penalize`; and if ``loss`` is no function, or returns no tensor.
        ValueError: See :meth:`SMART.penalize`; and if ``loss`` returns anything but one number with a graph.
        RuntimeError: If gradients are disabled, if ``forward`` cannot be repeated, or if ``loss`` writes to
            the outputs. Without ``detach_clean``, R's gradient for ``f(x + δ)`` is in ``.grad`` by the time
            that the last call of ``forward``, or ``loss``, raises an error.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "backward() computes gradients, but they are disabled: call it outside torch.no_grad()"
        )
    check_loss(loss)
    inputs = self._check(forward, embeddings, mask)
    RNGState.check_device(inputs.device)
    leaves = inputs.leaves()
    before = RNGState.capture()
    rng = before if self.dropout == "shared" else None
    repeated = Forward(forward)

    def penalty_backward(clean: Outputs) -> Tensor:
        with self._precision(inputs):
            penalty = self._penalty(repeated, leaves, clean, rng, output_mask)
        if penalty.requires_grad:
            accumulate((_scaled(weight * penalty, scale), None))
        return penalty.detach()

    def accumulate(*pairs: tuple[Tensor, Tensor | None]) -> None:
        roots, gradients = zip(*pairs, strict=True)
        with inputs.full_precision():  # an autocast around this call is meant for the forwards
            torch.autograd.backward(roots, gradients)

    def arrived() -> list[tuple[Tensor, Tensor]]:
        """Returns the attached embeddings with the gradients that their leaves have gathered."""
        pairs = zip(inputs.tensors, leaves.tensors, strict=True)
        return [(x, leaf.grad) for x, leaf in pairs if leaf.grad is not None]

    if self.detach_clean:
        with no_sync(forward):
            with self._precision(inputs), leaves.unchanged():
                outputs = repeated(leaves.pack())
            value = evaluate(loss, outputs)
            accumulate((_scaled(value, scale), None))
        penalty = penalty_backward(outputs)
        if attached := arrived():
            accumulate(*attached)
    else:
        with no_sync(forward):
            with graphless(), self._precision(inputs), leaves.unchanged():
                first = detach(repeated.again(leaves.pack()), requires_grad=True)
            penalty = penalty_backward(first)
        with before.replay(), self._precision(inputs):
            outputs = forward(inputs.pack())
        value = evaluate(loss, outputs)
        pairs = list(zip(tensors(outputs), tensors(first), strict=True))
        _check_repeated(pairs)
        carried = [(o, leaf.grad) for o, leaf in pairs if leaf.grad is not None and o.requires_grad]
        accumulate((_scaled(value, scale), None), *carried, *arrived())
    return SmartTerms(value.detach(), penalty, without_graph(outputs))


def _scaled(value: Tensor, scale: Scale | None) -> Tensor:
    if scale is None:
        return value
    return scale(value) if callable(scale) else scale * value


def _check_repeated(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Refuses outputs that are not those of the first phase, up to what another kernel may round."""
    for output, first in pairs:
        if not first.is_floating_point() or not first.numel():
            continue
        error, sizes = (output - first).detach().abs(), first.detach().abs()
        # What masks fill, however large, is equal in both and says nothing of the others.
        size = torch.where((error > 0) & sizes.isfinite(), sizes, 0.0).max()
        if bool((error > torch.finfo(first.dtype).eps ** 0.5 * size).any()):
            raise RuntimeError(
                "forward must return the same outputs when it is called again with the same random state, got"
                " others: draw its random numbers from torch's default generators, or take detach_clean=True"
            )
