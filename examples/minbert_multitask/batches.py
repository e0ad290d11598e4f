"""Batches of tokenised examples: endless and reproducible for training, sorted by length for evaluation."""

import hashlib
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from . import ranks
from .data import Example
from .tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B examples as tensors, each side of a pair padded to its own longest row.

    Attributes:
        ids: The examples' ids.
        labels: ``(B,)`` fp32; NaN where an example has none.
        input_ids: Token ids of the sentence, or of a pair's first, ``(B, L)``.
        attention_mask: 1 at tokens, 0 at padding, ``(B, L)``.
        input_ids2: Those of a pair's second sentence, ``(B, L2)``.
        attention_mask2: ``(B, L2)``.
        share: The part of a batch that several ranks share that these examples are.
        least_length: Of a share of pairs: tokens of the batch's longest pair as one row.
    """

    ids: tuple[str, ...]
    labels: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    input_ids2: Tensor | None = None
    attention_mask2: Tensor | None = None
    share: float = 1.0
    least_length: int = 0

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch with its tensors on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def part(self, rows: range) -> "Batch":
        """Returns neighbouring rows, padded as they are here, as a share of this batch."""
        part = self._map(lambda tensor: tensor[rows.start : rows.stop])
        longest = 0
        if self.attention_mask2 is not None:
            longest = int((self.attention_mask.sum(1) + self.attention_mask2.sum(1) - 1).max())
        ids = self.ids[rows.start : rows.stop]
        return replace(part, ids=ids, share=len(rows) / len(self.ids), least_length=longest)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: function(tensor) for name, tensor in tensors.items()})  # type: ignore[arg-type]

    def joined(self, *, padding: int, longest: int) -> tuple["Batch", Tensor]:
        """Returns the pairs as one row each, ``[CLS] a [SEP] b [SEP]``, and the rows' token types ``(B, L)``.

        Args:
            padding: The token id that fills a row up.
            longest: Tokens a row; what a pair has beyond is cut off at its end, which a warning tells.
        """
        assert self.input_ids2 is not None
        assert self.attention_mask2 is not None
        firsts = [row[real.bool()] for row, real in zip(self.input_ids, self.attention_mask, strict=True)]
        seconds = [row[real.bool()] for row, real in zip(self.input_ids2, self.attention_mask2, strict=True)]
        rows = [torch.cat([a, b[1:]]) for a, b in zip(firsts, seconds, strict=True)]
        if truncated := sum(len(row) > longest for row in rows):
            warnings.warn(
                f"{truncated} of {len(rows)} pairs exceed {longest} tokens in one row and were truncated",
                stacklevel=2,
            )
        rows = [row[:longest] for row in rows]
        types = [torch.arange(len(row)) >= len(a) for row, a in zip(rows, firsts, strict=True)]
        length = max(*map(len, rows), min(self.least_length, longest))

        def filled(rows: list[Tensor], padding: int = 0) -> Tensor:
            padded = pad_sequence(rows, batch_first=True, padding_value=padding)
            return F.pad(padded, (0, length - padded.shape[1]), value=padding)  # (B, L)

        input_ids, mask = filled(rows, padding), filled([torch.ones_like(row) for row in rows])
        joined = replace(
            self, input_ids=input_ids, attention_mask=mask, input_ids2=None, attention_mask2=None
        )
        return joined, filled(types).long().to(input_ids.device)


class TokenizedExamples:
    """Examples tokenised once and kept in memory.

    Args:
        examples: Examples of one task, so all or none of them pairs.
        tokenizer: Warns with a count if sentences are too long for it.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: Tokenizer) -> None:
        sides = [[example.sentence1 for example in examples]]
        if examples and examples[0].sentence2 is not None:
            sides.append([example.sentence2 or "" for example in examples])
        self.examples = examples
        self._tokenizer = tokenizer
        # Arrays, because lists of Python numbers would take nine times the memory.
        self._sides = [[array("i", ids) for ids in tokenizer.encode(side)] for side in sides]

    def __len__(self) -> int:
        return len(self.examples)

    def part(self, indices: Sequence[int]) -> "TokenizedExamples":
        """Returns the examples at these places."""
        part = copy(self)
        part.examples = [self.examples[index] for index in indices]
        part._sides = [[side[index] for index in indices] for side in self._sides]
        return part

    def spread(self, size: int) -> "TokenizedExamples":
        """Returns examples spread evenly, for files may be sorted; all where there are fewer."""
        count = len(self)
        return self if size >= count else self.part([k * count // size for k in range(size)])

    def collate(self, indices: Sequence[int]) -> Batch:
        """Returns the examples at these places as a batch."""
        chosen = [self.examples[index] for index in indices]
        padded = [self._tokenizer.pad([side[index] for index in indices]) for side in self._sides]
        labels = [float("nan") if example.label is None else example.label for example in chosen]
        return Batch(
            ids=tuple(example.id for example in chosen),
            labels=torch.tensor(labels, dtype=torch.float32),
            input_ids=padded[0][0],
            attention_mask=padded[0][1],
            input_ids2=padded[1][0] if padded[1:] else None,
            attention_mask2=padded[1][1] if padded[1:] else None,
        )

    def map(self, function: Callable[[Batch], Tensor], *, batch_size: int) -> Tensor:
        """Applies a function to all examples, in batches of similar length, which wastes little on padding.

        Of several ranks each computes its part of the batches, and all return the whole.

        Args:
            function: From a batch to a tensor whose first dimension is the batch's.
            batch_size: Examples a batch; the last may have fewer.

        Returns:
            The results in the examples' order, ``(N, …)``, on the CPU.
        """
        lengths = [sum(map(len, sides)) for sides in zip(*self._sides, strict=True)]
        # The longest first: what does not fit into memory fails at once.
        order = sorted(range(len(self)), key=lengths.__getitem__, reverse=True)
        starts = range(0, len(order), batch_size)
        mine = [
            function(self.collate(order[start : start + batch_size])).cpu()
            for start in starts[ranks.rank() :: ranks.world()]
        ]
        results = ranks.interleaved(mine)
        return torch.cat(results)[torch.tensor(order).argsort()]


class Batches:
    """The training batches of one task: in each epoch pass after pass, each pass in a new random order.

    What a batch holds follows from the seed, the task, the epoch and the iteration alone, so a run that was
    stopped goes on with the very batches it would have seen.

    Args:
        examples: The task's training examples.
        task: The task's name: tasks of one size get different orders.
        batch_size: Examples a batch; the last of a pass has what is left.
        seed: Seed of the orders. No other generator is used or moved.
    """

    def __init__(self, examples: TokenizedExamples, *, task: str, batch_size: int, seed: int) -> None:
        self.examples = examples
        self.task = task
        self.batch_size = batch_size
        self.seed = seed
        self._order = lru_cache(maxsize=1)(self._shuffle)

    def at(self, epoch: int, iteration: int) -> Batch:
        """Returns the batch of an iteration, both counted from 0."""
        a_pass, place = divmod(iteration, -(-len(self.examples) // self.batch_size))
        start = place * self.batch_size
        return self.examples.collate(self._order(epoch, a_pass)[start : start + self.batch_size])

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch without end, from an iteration on."""
        return (self.at(epoch, iteration) for iteration in count(start))

    def _shuffle(self, epoch: int, a_pass: int) -> list[int]:
        name = f"{self.seed} {self.task} {epoch} {a_pass}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(seed)
        order: list[int] = torch.randperm(len(self.examples), generator=generator).tolist()
        return order
