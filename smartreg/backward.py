"""The gradients of ``L + λ R`` with one forward's activations alive at a time."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .buffers import preserved_buffers
from .divergences import OutputMask, Outputs, detach
from .inputs import Embeddings, Inputs, Mask
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
        outputs: The outputs at the embeddings, detached.
    """

    loss: Tensor
    penalty: Tensor
    outputs: Any


def two_phase_backward(
    smart: "SMART",
    forward: Callable[[Embeddings], Outputs],
    embeddings: Embeddings,
    loss: Callable[[Any], Tensor],
    *,
    weight: float,
    mask: Mask,
    output_mask: OutputMask,
    scale: Scale | None,
) -> SmartTerms:
    """Carries out :meth:`SMART.backward`.

    R depends on the parameters through ``f(x + δ)`` and through ``f(x)``. The first phase stops at
    ``f(x) = o``, a leaf, and leaves ``∂λR/∂o`` there; the second computes ``f(x)`` once more, with the same
    random numbers, and carries ``∂L/∂o + ∂λR/∂o`` on.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "backward() computes gradients, but they are disabled: call it outside torch.no_grad()"
        )
    inputs = smart._check(embeddings, mask)
    RNGState.check_device(inputs.device)
    leaves = inputs.leaves()
    before = RNGState.capture()
    rng = before if smart.dropout == "shared" else None

    def clean_forward() -> Outputs:
        with smart._precision(inputs):
            return forward(leaves.pack())

    def penalty_backward(clean: Outputs) -> Tensor:
        with smart._precision(inputs):
            penalty = smart._penalty(forward, leaves, clean, rng, output_mask)
        _scaled(weight * penalty, scale).backward()  # type: ignore[no-untyped-call]
        return penalty.detach()

    if smart.detach_clean:
        with no_sync(forward):
            outputs = clean_forward()
            value = loss(outputs)
            _scaled(value, scale).backward()  # type: ignore[no-untyped-call]
            outputs = detach(outputs)
        penalty = penalty_backward(outputs)
    else:
        with no_sync(forward):
            with torch.no_grad(), preserved_buffers():
                first = detach(clean_forward(), requires_grad=True)
            penalty = penalty_backward(first)
        with before.replay():
            outputs = clean_forward()
        value = loss(outputs)
        _joint_backward(_scaled(value, scale), _pairs(outputs, first))
    _embeddings_backward(inputs, leaves)
    return SmartTerms(value.detach(), penalty, detach(outputs))


def no_sync(forward: Callable[[Embeddings], Outputs]) -> AbstractContextManager[object]:
    """Returns the context that keeps a data-parallel ``forward`` from averaging gradients over its ranks."""
    context: AbstractContextManager[object] = getattr(forward, "no_sync", nullcontext)()
    return context


def _scaled(value: Tensor, scale: Scale | None) -> Tensor:
    if scale is None:
        return value
    return scale(value) if callable(scale) else scale * value


def _pairs(outputs: Outputs, first: Outputs) -> list[tuple[Tensor, Tensor]]:
    """Returns each output of the second phase beside the leaf that stood for it in the first."""
    if isinstance(first, Mapping):
        assert isinstance(outputs, Mapping)
        return [(outputs[name], leaf) for name, leaf in first.items()]
    assert isinstance(outputs, Tensor)
    return [(outputs, first)]


def _joint_backward(value: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    for output, leaf in pairs:
        tolerance = torch.finfo(leaf.dtype).eps ** 0.5 if leaf.is_floating_point() else 0.0
        scale = leaf.detach().abs().max() if leaf.numel() else leaf.detach().sum()
        if not torch.allclose(output, leaf, rtol=0.0, atol=float(tolerance * scale), equal_nan=True):
            raise RuntimeError(
                "forward must return the same outputs when it is called again with the same random state, got"
                " others: draw its random numbers from torch's default generators, or take detach_clean=True"
            )
    met = [(output, leaf.grad) for output, leaf in pairs if leaf.grad is not None]
    torch.autograd.backward([value, *(output for output, _ in met)], [None, *(g for _, g in met)])


def _embeddings_backward(inputs: Inputs, leaves: Inputs) -> None:
    met = [
        (x, leaf.grad)
        for x, leaf in zip(inputs.tensors, leaves.tensors, strict=True)
        if leaf.grad is not None
    ]
    if met:
        torch.autograd.backward([x for x, _ in met], [g for _, g in met])
