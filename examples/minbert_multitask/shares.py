"""A rank's share of a batch, with the random numbers that one process would draw for it.

The joined batch of k ranks is the batch that one process sees. Each rank takes some of its rows, padded as in
the joined batch, and weighs their mean loss so that the mean over the ranks is the joined batch's. It draws
the dropout masks and the noise of the joined batch and keeps those of its rows. So k ranks make the updates
that one process makes, up to rounding, and their random generators stay in step.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .batches import Batch


class Share:
    """A rank's rows of a batch: neighbours, as many as every other rank has or one more or less.

    A rank for which none is left takes the first row, with a weight of 0, so that all ranks reach the same
    parameters.

    Args:
        joined: The batch of all ranks.
        rank: This rank.
        world: Number of ranks.

    Attributes:
        batch: The rank's rows.
    """

    def __init__(self, joined: Batch, *, rank: int, world: int) -> None:
        self._joined, self._size = world > 1, len(joined.ids)
        mine = range(rank * self._size // world, (rank + 1) * self._size // world)
        self._rows = mine or range(1)
        self._weight = len(mine) * world / self._size
        self.batch = joined.part(self._rows) if self._joined else joined
        masks = (joined.attention_mask, joined.attention_mask2)
        self._tokens_before = [int(mask[: self._rows.start].sum()) for mask in masks if mask is not None]

    def loss(self, function: Callable[[Batch], Tensor]) -> Tensor:
        """Returns the loss, 0-d, whose mean over the ranks is the joined batch's.

        Args:
            function: From a batch to its mean loss, 0-d.
        """
        if not self._joined:
            return function(self.batch)
        with _JoinedDraws(self._rows, self._size, self._tokens_before):
            return self._weight * function(self.batch)


class _JoinedDraws(TorchFunctionMode):
    """Draws random numbers for the joined batch and returns those of some rows.

    A tensor may hold the rows more than once, as both sides of sentence pairs one after the other. Attention
    computes the formula: torch's kernels tell nobody which masks they draw.

    Args:
        rows: The rows, of the joined batch.
        size: How many the joined batch has.
        tokens_before: How many real positions the rows before them have, on each side of a pair.
    """

    def __init__(self, rows: range, size: int, tokens_before: Sequence[int]) -> None:
        super().__init__()
        self._rows, self._size = rows, size
        self._tokens_before = cycle(tokens_before)  # noise is drawn for one side after the other

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Takes the calls that draw random numbers and passes on all others."""
        ours: dict[Any, Callable[..., Any]] = {
            F.dropout: self._dropout,
            F.scaled_dot_product_attention: self._attention,
            torch.Tensor.normal_: self._normal_,
        }
        return ours.get(func, func)(*args, **(kwargs or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return input * self._mask(input, p) if training else input

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor, dropout_p: float
    ) -> Tensor:
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, L, L)
        weights = scores.masked_fill(~attn_mask, -math.inf).softmax(dim=-1)
        if dropout_p > 0:
            weights = weights * self._mask(weights, dropout_p)
        return weights @ value

    def _normal_(self, input: Tensor, **options: Any) -> Tensor:
        # SMART gives the numbers, in order, to the real positions of a batch.
        drawn = self._joined_like(input).normal_(**options).flatten(0, 1)  # (B L, D)
        start = next(self._tokens_before)
        return input.copy_(drawn[start : start + input.shape[:2].numel()].view_as(input))

    def _mask(self, input: Tensor, p: float) -> Tensor:
        """Returns what dropout multiplies with: 0 or 1 / (1 - p)."""
        return self._of_rows(F.dropout(torch.ones_like(self._joined_like(input)), p), input)

    def _joined_like(self, tensor: Tensor) -> Tensor:
        sides = len(tensor) // len(self._rows)
        return tensor.new_empty((sides * self._size, *tensor.shape[1:]))

    def _of_rows(self, drawn: Tensor, like: Tensor) -> Tensor:
        sides = drawn.reshape(-1, self._size, *drawn.shape[1:])
        return sides[:, self._rows.start : self._rows.stop].reshape(like.shape)
