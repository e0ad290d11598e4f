"""Functions that must leave alone what they are given."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


def version(tensor: Tensor) -> int | None:
    """Returns a number that each write that autograd sees changes; None of an inference tensor."""
    return None if tensor.is_inference() else tensor._version


@contextmanager
def unchanged(tensors: Sequence[Tensor], message: str) -> Iterator[None]:
    """Refuses a block that writes to the tensors, which are needed as they were.

    Raises:
        RuntimeError: After the block, with the message.
    """
    before = list(map(version, tensors))
    yield
    if list(map(version, tensors)) != before:
        raise RuntimeError(message)
