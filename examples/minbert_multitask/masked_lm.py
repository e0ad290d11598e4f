"""In-domain pre-training: masked language modelling on the train sentences of all tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import Batch, Batches, TokenizedExamples
from .bert import BertModel
from .experiments import TASKS
from .inference import autocast
from .settings import Settings
from .tokenizer import SPECIAL_TOKENS, Tokenizer

_CHOSEN, _MASKED, _RANDOM = 0.15, 0.8, 0.1


class MaskedLanguageModel(nn.Module):
    """An encoder with BERT's head for masked tokens (Devlin et al. 2019, arXiv 1810.04805, section 3.1).

    The head's last layer is the word embeddings themselves, and a bias; the rest of it is new.

    Args:
        encoder: The encoder, which is trained along.
    """

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, chosen: Tensor) -> Tensor:
        """Returns the logits ``(M, V)`` at the M chosen positions of rows ``(B, L)``."""
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state[chosen]  # (M, D)
        words = self.encoder.embeddings.word_embeddings.weight  # (V, D)
        return F.linear(self.norm(F.gelu(self.dense(hidden))), words, self.bias)


def mask_tokens(input_ids: Tensor, tokenizer: Tokenizer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hides some tokens, as BERT does it: of those chosen 80 % become [MASK], 10 % a random token, 10 % stay.

    Args:
        input_ids: Token ids ``(B, L)``; special tokens, padding among them, are never chosen.
        tokenizer: Of the ids.
        generator: Source of the choices, on the CPU.

    Returns:
        The ids with some hidden, and which were chosen, both ``(B, L)``: 15 % of the tokens, one at least.
    """
    special = torch.tensor([tokenizer.vocabulary.index(token) for token in SPECIAL_TOKENS])
    candidates = ~torch.isin(input_ids, special)
    draws = torch.rand(input_ids.shape, generator=generator)
    chosen = candidates & (draws < _CHOSEN)
    if not chosen.any():
        chosen.view(-1)[draws.masked_fill(~candidates, 1.0).argmin()] = True
    kind = torch.rand(input_ids.shape, generator=generator)
    others = torch.randint(len(tokenizer.vocabulary), input_ids.shape, generator=generator)
    hidden = input_ids.masked_fill(chosen & (kind < _MASKED), tokenizer.vocabulary.index("[MASK]"))
    return torch.where(chosen & (kind >= 1 - _RANDOM), others, hidden), chosen


@dataclass(frozen=True)
class Pretraining:
    """How it went: the number of iterations, and the mean loss over the first and the last tenth of them."""

    iterations: int
    first_loss: float
    last_loss: float


def pretrain(
    encoder: BertModel,
    tokens: Mapping[tuple[str, str], TokenizedExamples],
    tokenizer: Tokenizer,
    settings: Settings,
) -> Pretraining:
    """Trains an encoder, in place, for as many iterations as a row of the table has.

    An iteration takes a batch of each task, and of pairs both sentences; labels are not used.

    Args:
        encoder: On the run's device.
        tokens: The tokenised data.
        tokenizer: Of the tokens.
        settings: The schedule; the learning rate and the seed are those of the row's own training.

    Raises:
        ValueError: If the loss does not stay finite.
    """
    device = settings.torch_device()
    model = MaskedLanguageModel(encoder).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(settings.seed)
    sources = [
        Batches(tokens[task, "train"], task=f"{task} mlm", batch_size=settings.batch_size, seed=settings.seed)
        for task in TASKS
    ]
    losses = []
    for iteration in range(settings.epochs * settings.iterations):
        rows = [row for source in sources for row in _sentences(source.at(0, iteration))]
        input_ids, attention_mask = tokenizer.pad(rows)  # (B, L)
        hidden, chosen = mask_tokens(input_ids, tokenizer, generator)
        with autocast(settings):
            logits = model(hidden.to(device), attention_mask.to(device), chosen.to(device))  # (M, V)
        loss = F.cross_entropy(logits.float(), input_ids[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    found = torch.stack(losses)
    if not found.isfinite().all():
        raise ValueError(
            f"the masked tokens' loss left the finite with lr {settings.lr}; choose a lower --lr"
        )
    tenth = -(-len(found) // 10)
    return Pretraining(len(found), found[:tenth].mean().item(), found[-tenth:].mean().item())


def _sentences(batch: Batch) -> Sequence[list[int]]:
    """Returns the token ids of a batch's sentences, both sides of pairs, without padding."""
    sides = [(batch.input_ids, batch.attention_mask)]
    if batch.input_ids2 is not None and batch.attention_mask2 is not None:
        sides.append((batch.input_ids2, batch.attention_mask2))
    return [
        row[: int(real.sum())].tolist() for ids, mask in sides for row, real in zip(ids, mask, strict=True)
    ]
