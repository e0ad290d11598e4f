"""BERT's tokenizer: WordPiece by the ``tokenizers`` library, from a folder of the Hugging Face form."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor

from . import weights
from .bert import BertConfig
from .files import write_atomically

MAX_LENGTH = 512
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_OPTIONS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_NORMALIZER_KEYS = ("lowercase", "strip_accents", "handle_chinese_chars")


class Tokenizer:
    """Turns sentences into token ids.

    Args:
        vocabulary: The tokens; a token's id is its place.
        do_lower_case: Lower the case, and drop accents where ``strip_accents`` is None.
        strip_accents: Drop accents; as ``do_lower_case`` where None.
        tokenize_chinese_chars: Take each Chinese character for a word.
        max_length: Rows are truncated to so many tokens, ``[CLS]`` and ``[SEP]`` among them.

    Raises:
        ValueError: If the vocabulary lacks one of the special tokens.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        max_length: int = MAX_LENGTH,
    ) -> None:
        ids = {token: index for index, token in enumerate(vocabulary)}
        if missing := [token for token in SPECIAL_TOKENS if token not in ids]:
            raise ValueError(
                f"vocabulary of {len(ids)} tokens must hold {', '.join(SPECIAL_TOKENS)}, lacks {missing[0]}"
            )
        self.vocabulary = tuple(vocabulary)
        self.options: dict[str, Any] = dict(
            zip(_OPTIONS, (do_lower_case, strip_accents, tokenize_chinese_chars), strict=True)
        )
        self.max_length = max_length
        self.pad_token_id = ids["[PAD]"]
        self._tokenizer = BertWordPieceTokenizer(
            ids,
            lowercase=do_lower_case,
            strip_accents=strip_accents,
            handle_chinese_chars=tokenize_chinese_chars,
        )
        self._tokenizer.enable_truncation(max_length)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "Tokenizer":
        """Reads ``vocab.txt``, or else ``tokenizer.json``, and the options of ``tokenizer_config.json``.

        Args:
            source: A folder of the Hugging Face form, an installed package that holds one, or a hub's name.

        Raises:
            ValueError: If a file is missing or damaged, is of no WordPiece, or the vocabulary exceeds
                ``config.json``'s size.
        """
        folder = weights.resolve(source)
        path, config = folder / "vocab.txt", BertConfig.from_folder(folder)
        of_json: dict[str, Any] = {}
        if path.is_file() or not (folder / "tokenizer.json").is_file():
            vocabulary = _read_lines(path)
        else:
            path = folder / "tokenizer.json"
            vocabulary, of_json = _read_json(path)
        if len(vocabulary) > config.vocab_size:
            raise ValueError(
                f"{path} has {len(vocabulary)} tokens, config.json a vocab_size of {config.vocab_size}; "
                "fetch both again"
            )
        options_path = folder / "tokenizer_config.json"
        given = weights.read_config(options_path) if options_path.is_file() else {}
        options = of_json | {name: given[name] for name in _OPTIONS if given.get(name) is not None}
        for name, value in options.items():
            if not isinstance(value, bool):
                place = options_path if name in given else path
                raise ValueError(f"{place} must have true or false for {name}, got {value!r}")
        try:
            return cls(vocabulary, max_length=min(MAX_LENGTH, config.max_position_embeddings), **options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, folder: Path) -> None:
        """Writes ``vocab.txt`` and ``tokenizer_config.json``.

        Raises:
            OSError: If the disk is full or read-only.
        """
        write_atomically(folder / "vocab.txt", "".join(f"{token}\n" for token in self.vocabulary))
        config = {"tokenizer_class": "BertTokenizer", "model_max_length": self.max_length} | self.options
        write_atomically(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns each sentence's token ids, ``[CLS]`` … ``[SEP]``; one warning counts those truncated."""
        encodings = self._tokenizer.encode_batch(list(sentences))
        if truncated := sum(bool(encoding.overflowing) for encoding in encodings):
            warnings.warn(
                f"{truncated} of {len(sentences)} rows exceed {self.max_length} tokens and were truncated",
                stacklevel=2,
            )
        return [encoding.ids for encoding in encodings]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Returns ``input_ids`` and ``attention_mask``, both ``(B, L)`` int64, L the longest row's length."""
        length = max(map(len, rows))
        input_ids = torch.full((len(rows), length), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = torch.tensor(row)
            attention_mask[i, : len(row)] = 1
        return input_ids, attention_mask


def _read_lines(path: Path) -> list[str]:
    """Returns the tokens of a ``vocab.txt``, one a line."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing, and tokenizer.json too; give a folder of the Hugging Face form"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}); fetch it again"
        ) from error


def _read_json(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Returns the tokens and the options of a ``tokenizer.json``, which is all that newer versions save."""
    content = weights.read_config(path)
    parts = (content.get("model"), content.get("normalizer"))
    model, normalizer = (part if isinstance(part, dict) else {} for part in parts)
    if (model.get("type"), normalizer.get("type")) != ("WordPiece", "BertNormalizer"):
        raise ValueError(
            f"{path} must hold BERT's WordPiece, got model {model.get('type')!r} and normalizer"
            f" {normalizer.get('type')!r}; choose other weights"
        )
    ids = model.get("vocab")
    if not isinstance(ids, dict):
        raise ValueError(f"{path} must hold a vocabulary, got {type(ids).__name__}; fetch it again")
    if not all(type(i) is int for i in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(
            f"{path} must give its {len(ids)} tokens the ids from 0 to {len(ids) - 1}; fetch it again"
        )
    options = {name: normalizer.get(key) for name, key in zip(_OPTIONS, _NORMALIZER_KEYS, strict=True)}
    given = {name: value for name, value in options.items() if value is not None}
    return sorted(ids, key=ids.__getitem__), given
