"""The loss L as it is passed: a function of the outputs."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from .divergences import tensors
from .unchanged import unchanged

Loss: TypeAlias = Callable[[Any], Tensor]
"""From the outputs to L, 0-d; it closes over the labels."""
WRITTEN = (
    "loss must leave the outputs as they are, got them changed in place: let it begin with"
    " outputs = outputs.clone()"
)


def check_loss(loss: object) -> None:
    """Refuses what cannot be called.

    Raises:
        TypeError: If it is no function, but for instance the value that one has returned.
    """
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of the outputs, got {type(loss).__name__}: pass for instance"
            " lambda outputs: cross_entropy(outputs, labels)"
        )


def evaluate(loss: Loss, outputs: Any) -> Tensor:
    """Returns L, one number with a graph.

    Raises:
        RuntimeError: If the loss writes to the outputs.
        TypeError: If it returns no tensor.
        ValueError: If it returns several numbers, or one that depends on nothing that is trained.
    """
    with unchanged(tensors(outputs), WRITTEN):
        value = loss(outputs)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"loss must return a tensor, got {type(value).__name__}: let it end in return"
            " cross_entropy(outputs, labels)"
        )
    if value.numel() != 1 or not value.requires_grad:
        got = f"shape {tuple(value.shape)}" if value.numel() != 1 else "one without a graph"
        raise ValueError(
            f"loss must return one number with a graph, got {got}: take its mean, and compute it from outputs"
            " of parameters that require gradients"
        )
    return value
