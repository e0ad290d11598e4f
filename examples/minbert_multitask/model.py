"""The encoder with its three heads."""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import Batch
from .bert import BertModel
from .experiments import Experiment, Pooling
from .heads import PARAPHRASE_HEADS, SIMILARITY_HEADS, Head, SentimentHead

Embeddings: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Of a batch of sentences ``(B, L, D)``, or of sentence pairs: two such tensors of one length L."""
Masks: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Which positions are real, shaped like the embeddings without D."""


class MultitaskModel(nn.Module):
    """One encoder, a head a task.

    The forward has two halves, between which SMART perturbs: :meth:`embed` up to the embedding block's
    output, :meth:`outputs` from there on.

    Args:
        encoder: The encoder that all tasks share.
        experiment: The row, which chooses the heads of pairs and the pooling.
    """

    def __init__(self, encoder: BertModel, experiment: Experiment) -> None:
        super().__init__()
        hidden_size = encoder.config.hidden_size
        self.encoder = encoder
        self.pooling: Pooling = experiment.pooling
        self.heads = nn.ModuleDict(
            {
                "sst": SentimentHead(hidden_size),
                "qqp": PARAPHRASE_HEADS[experiment.paraphrase](hidden_size),
                "sts": SIMILARITY_HEADS[experiment.similarity](hidden_size),
            }
        )

    def head(self, task: str) -> Head:
        """Returns the head of a task."""
        head = self.heads[task]
        assert isinstance(head, Head)
        return head

    def embed(self, task: str, batch: Batch) -> tuple[Embeddings, Masks]:
        """Returns the embedding block's outputs of a task's batch, and their masks.

        A pair's two sides are padded to one length, so that the encoder takes them as a batch of 2B rows,
        unless the task's head wants them in one row.
        """
        if self.head(task).joint:
            batch, types = batch.joined(
                padding=self.encoder.config.pad_token_id, longest=self.encoder.config.max_position_embeddings
            )
            return self.encoder.embed(batch.input_ids, types), batch.attention_mask
        if batch.input_ids2 is None or batch.attention_mask2 is None:
            return self.encoder.embed(batch.input_ids), batch.attention_mask
        length = max(batch.input_ids.shape[1], batch.input_ids2.shape[1])
        padding = self.encoder.config.pad_token_id
        first, second = (
            F.pad(ids, (0, length - ids.shape[1]), value=padding)
            for ids in (batch.input_ids, batch.input_ids2)
        )
        masks = tuple(
            F.pad(mask, (0, length - mask.shape[1])) for mask in (batch.attention_mask, batch.attention_mask2)
        )
        a, b = self.encoder.embed(torch.cat([first, second])).chunk(2)  # (B, L, D) each
        return (a, b), (masks[0], masks[1])

    def outputs(self, task: str, embeddings: Embeddings, masks: Masks) -> Tensor:
        """Returns a task's outputs, ``(B,)`` or ``(B, classes)``, from the embedding block's outputs on."""
        outputs: Tensor = self.heads[task](*self._encode(embeddings, masks))
        return outputs

    def sentences(self, task: str, batch: Batch) -> tuple[Tensor, ...]:
        """Returns the sentence embeddings of a task's batch, ``(B, D)`` for each side."""
        return self._encode(*self.embed(task, batch))

    def forward(self, task: str, batch: Batch) -> Tensor:
        """Returns a task's outputs for a batch."""
        embeddings, masks = self.embed(task, batch)
        return self.outputs(task, embeddings, masks)

    def _encode(self, embeddings: Embeddings, masks: Masks) -> tuple[Tensor, ...]:
        if isinstance(embeddings, tuple):
            both = self._pool(torch.cat(embeddings), torch.cat(tuple(masks)))  # of (2B, L, D), (2B, L)
            return both.chunk(2)
        assert isinstance(masks, Tensor)
        return (self._pool(embeddings, masks),)

    def _pool(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder.encode(embeddings, mask).last_hidden_state  # (B, L, D)
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "max":
            return hidden.masked_fill(~mask.unsqueeze(-1).bool(), -torch.inf).amax(dim=1)
        weight = mask.unsqueeze(-1).to(hidden.dtype)  # (B, L, 1)
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1)
