"""BERT (Devlin et al. 2018, arXiv 1810.04805): the encoder, its names those of the Hugging Face checkpoints.

Shapes: B rows a batch, L tokens a row, D the hidden size, H heads of D / H each, I the intermediate size.
"""

from collections import OrderedDict
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import weights
from .packing import NoPacking, Packing


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The sizes of a BERT, by the names of ``config.json``; the defaults are BERT-base's."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < (field.name != "pad_token_id")):
                raise ValueError(f"{field.name} must be a positive whole number, got {value!r}")
            if field.type is float and (type(value) not in (int, float) or not 0 <= value <= 1):
                raise ValueError(f"{field.name} must be a number from 0 to 1, got {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads = {self.num_attention_heads}, "
                f"got {self.hidden_size}"
            )
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"pad_token_id must be below vocab_size = {self.vocab_size}, got {self.pad_token_id}"
            )

    @classmethod
    def from_folder(cls, folder: Path, *, num_layers: int | None = None) -> "BertConfig":
        """Reads a folder's ``config.json``; what it leaves out has BERT-base's value.

        Args:
            folder: The folder.
            num_layers: Of the first so many layers; of all where None.

        Raises:
            ValueError: If the file is missing or no JSON, or describes another architecture or fewer layers.
        """
        path = folder / "config.json"
        values = weights.read_config(path)
        for key, supported in (
            ("model_type", "bert"),
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
        ):
            if values.get(key, supported) != supported:
                raise ValueError(
                    f"{path} has {key} {values[key]!r}; only {supported!r} is supported, choose other weights"
                )
        names = [field.name for field in fields(cls)]
        try:
            config = cls(**{name: values[name] for name in names if values.get(name) is not None})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if num_layers is None:
            return config
        if not 1 <= num_layers <= config.num_hidden_layers:
            raise ValueError(
                f"num_layers (--layers) must be from 1 to {config.num_hidden_layers} for {folder}, got"
                f" {num_layers}"
            )
        return replace(config, num_hidden_layers=num_layers)


class BertOutput(NamedTuple):
    """What the encoder returns.

    Attributes:
        last_hidden_state: The last layer's output, ``(B, L, D)``.
        pooler_output: Tanh of a linear layer on that of ``[CLS]``, ``(B, D)``.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor


class BertModel(nn.Module):
    """BERT's encoder in two halves, the embedding block and the layers.

    New weights are random, from torch's global generator.

    Args:
        config: The sizes.

    Attributes:
        packed: In training mode, leave padding out of all that works token by token. The outputs are the same
            but for dropout, which draws for fewer positions.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.packed = False
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.pooler = nn.Sequential(
            OrderedDict(dense=nn.Linear(config.hidden_size, config.hidden_size), tanh=nn.Tanh())
        )
        self.apply(self._initialise)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, num_layers: int | None = None) -> "BertModel":
        """Returns a pretrained model in fp32 on the CPU, in training mode; no generator moves.

        Args:
            source: A folder of the Hugging Face form, an installed package that holds one, or a hub's name.
            num_layers: Keep the first so many layers; all where None.

        Raises:
            ValueError: If there are no such weights, they are another architecture's, incomplete or damaged,
                or have fewer than ``num_layers`` layers.
        """
        folder = weights.resolve(source)
        config = BertConfig.from_folder(folder, num_layers=num_layers)
        with torch.device("meta"):  # sizes without memory: every parameter comes from the file
            model = cls(config)
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        model.load_state_dict(weights.load_state(folder, shapes), assign=True)
        return model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> BertOutput:
        """Encodes tokens.

        Args:
            input_ids: Token ids ``(B, L)``.
            attention_mask: 1 at tokens, 0 at padding, ``(B, L)``; each row holds a token at least.
            token_type_ids: Which sentence of a pair a token belongs to, ``(B, L)``; all 0 where None.
        """
        return self.encode(self.embed(input_ids, token_type_ids), attention_mask)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Returns the embedding block's output ``(B, L, D)``, after its layer norm and dropout.

        Raises:
            ValueError: If the rows are longer than the model's positions.
        """
        length, limit = input_ids.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise ValueError(f"input_ids has rows of {length} tokens; truncate them to the model's {limit}")
        embeddings: Tensor = self.embeddings(input_ids, token_type_ids)
        return embeddings

    def encode(self, embeddings: Tensor, attention_mask: Tensor) -> BertOutput:
        """Returns the encoder's outputs for the embedding block's ``(B, L, D)`` and a mask ``(B, L)``."""
        packing = Packing(attention_mask) if self.packed and self.training else NoPacking()
        mask = attention_mask[:, None, None, :].bool()  # (B, 1, 1, L)
        hidden = packing.unpack(self.encoder(packing.pack(embeddings), mask, packing))  # (B, L, D)
        return BertOutput(hidden, self.pooler(hidden[:, 0]))

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])


class _Embeddings(nn.Module):
    """Word + position + token type, layer norm, dropout."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, D, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, D)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, D)
        self.LayerNorm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        words = self.word_embeddings(input_ids)  # (B, L, D)
        positions = self.position_embeddings.weight[: input_ids.shape[1]]  # (L, D)
        types = self.token_type_embeddings.weight[0]  # (D,)
        if token_type_ids is not None:
            types = self.token_type_embeddings(token_type_ids)  # (B, L, D)
        embeddings: Tensor = self.dropout(self.LayerNorm(words + types + positions))  # (B, L, D)
        return embeddings


class _Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor, mask: Tensor, packing: Packing) -> Tensor:
        for layer in self.layer:
            hidden = layer(hidden, mask, packing)  # (B, L, D), or packed (N, D)
        return hidden


class _Layer(nn.Module):
    """Attention, then a feed-forward network; after each a residual connection and its layer norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = nn.Sequential(
            OrderedDict(dense=nn.Linear(config.hidden_size, config.intermediate_size), gelu=nn.GELU())
        )
        self.output = _AddNorm(config.intermediate_size, config)

    def forward(self, hidden: Tensor, mask: Tensor, packing: Packing) -> Tensor:
        hidden = self.attention(hidden, mask, packing)  # (B, L, D)
        output: Tensor = self.output(self.intermediate(hidden), hidden)  # (B, L, I) -> (B, L, D)
        return output


class _Attention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _AddNorm(config.hidden_size, config)

    def forward(self, hidden: Tensor, mask: Tensor, packing: Packing) -> Tensor:
        output: Tensor = self.output(self.self(hidden, mask, packing), hidden)
        return output


class _SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention over the real positions."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query, self.key, self.value = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, hidden: Tensor, mask: Tensor, packing: Packing) -> Tensor:
        projected = (packing.unpack(project(hidden)) for project in (self.query, self.key, self.value))
        q, k, v = (
            each.view(*each.shape[:2], self.num_heads, -1).transpose(1, 2)  # (B, H, L, D / H)
            for each in projected
        )
        dropout = self.dropout if self.training else 0.0
        # (B, H, L, D / H)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return packing.pack(context.transpose(1, 2).flatten(2))  # (B, L, D)


class _AddNorm(nn.Module):
    """A linear layer back to D, dropout, the residual connection and its layer norm."""

    def __init__(self, in_features: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, update: Tensor, residual: Tensor) -> Tensor:
        output: Tensor = self.LayerNorm(residual + self.dropout(self.dense(update)))  # (B, L, D)
        return output
