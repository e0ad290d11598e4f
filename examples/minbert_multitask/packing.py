"""Rows without their padding: what works token by token need not work on tokens that are none."""

from torch import Tensor


class Packing:
    """Takes the real positions of a batch out of it, and puts them back.

    Args:
        mask: 1 at tokens, 0 at padding, ``(B, L)``; N of its entries are 1.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        self.places = mask.flatten().nonzero().squeeze(-1)  # (N,)

    def pack(self, padded: Tensor) -> Tensor:
        """Returns the real positions ``(N, D)`` of a batch ``(B, L, D)``."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def unpack(self, packed: Tensor) -> Tensor:
        """Returns the batch ``(B, L, D)``, zero at padding, of its real positions ``(N, D)``."""
        empty = packed.new_zeros(self.shape.numel(), packed.shape[-1])
        return empty.index_copy(0, self.places, packed).view(*self.shape, -1)


class NoPacking(Packing):
    """Leaves a batch as it is."""

    def __init__(self) -> None:
        """Needs no mask."""

    def pack(self, padded: Tensor) -> Tensor:
        """Returns the batch."""
        return padded

    def unpack(self, packed: Tensor) -> Tensor:
        """Returns the batch."""
        return packed
