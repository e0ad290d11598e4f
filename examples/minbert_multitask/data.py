"""The three tasks' data: files of the course handout's form, read, checked and written.

The files are tab-separated in spite of their names, with double quotes around texts that need them.
Columns are found by their names; test files have no labels.
"""

import csv
import hashlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .experiments import TASKS
from .files import write_atomically

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Example:
    """One row of a file.

    Attributes:
        id: The row's name in prediction files, unique within its file.
        sentence1: The sentence, or the first of a pair.
        sentence2: The second of a pair.
        label: Sentiment 0 to 4, paraphrase 0 or 1, similarity 0 to 5; None in test files.
    """

    id: str
    sentence1: str
    sentence2: str | None
    label: float | None


@dataclass(frozen=True)
class Dataset:
    """The examples of each task and split.

    Attributes:
        examples: By task and split, the examples in their file's order.
    """

    examples: Mapping[tuple[str, str], tuple[Example, ...]]

    def __getitem__(self, task_and_split: tuple[str, str]) -> tuple[Example, ...]:
        return self.examples[task_and_split]

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the contents, equal for equal examples wherever they were read from."""
        digest = hashlib.sha256()
        for task, split in sorted(self.examples):
            digest.update(f"{task} {split}\n{_text(task, split, self[task, split])}".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class _Form:
    """The form of one task's files."""

    file: str
    sentences: tuple[str, ...]
    label: str
    maximum: int
    whole: bool
    drop_unlabelled: bool = False

    def columns(self, split: str) -> list[str]:
        return ["id", *self.sentences, *([self.label] if split != "test" else [])]

    def parse_label(self, text: str) -> float:
        try:
            label = float(text)
        except ValueError:
            label = math.nan
        if not 0 <= label <= self.maximum or (self.whole and label != int(label)):
            kind = "a whole number" if self.whole else "a number"
            raise ValueError(f"{self.label} must be {kind} from 0 to {self.maximum}, got {text[:40]!r}")
        return label


_PAIR = ("sentence1", "sentence2")
_FORMS = {
    "sst": _Form(file="ids-sst-{}.csv", sentences=("sentence",), label="sentiment", maximum=4, whole=True),
    # The public Quora questions have a few rows that are broken off before their label.
    "qqp": _Form(
        file="quora-{}.csv",
        sentences=_PAIR,
        label="is_duplicate",
        maximum=1,
        whole=True,
        drop_unlabelled=True,
    ),
    "sts": _Form(file="sts-{}.csv", sentences=_PAIR, label="similarity", maximum=5, whole=False),
}


def path_of(folder: str | Path, task: str, split: str) -> Path:
    """Returns the file of a task's split."""
    return Path(folder) / _FORMS[task].file.format("test-student" if split == "test" else split)


def load(folder: str | Path, *, splits: Sequence[str] = SPLITS) -> Dataset:
    """Reads the files of all three tasks.

    Args:
        folder: The folder that holds the files.
        splits: Which of ``SPLITS`` to read.

    Raises:
        ValueError: If a file is missing, truncated, not UTF-8, or has a wrong header, an impossible label, an
            id twice, or no rows; the message names the file and the line.
        OSError: If a file may not be read.
    """
    examples = {}
    for task in TASKS:
        for split in splits:
            path = path_of(folder, task, split)
            if not path.is_file():
                raise ValueError(f"{path} is missing; give --data, a folder with the handout's nine files")
            examples[task, split] = _read(path, _FORMS[task], split)
    return Dataset(examples)


def write(dataset: Dataset, folder: str | Path) -> None:
    """Writes a dataset as files that :func:`load` reads back equal; each file is whole or not touched.

    Raises:
        OSError: If the disk is full or read-only.
    """
    for (task, split), examples in dataset.examples.items():
        write_atomically(path_of(folder, task, split), _text(task, split, examples))


def _read(path: Path, form: _Form, split: str) -> tuple[Example, ...]:
    examples: dict[str, Example] = {}
    unlabelled = 0
    for line, row in _rows(path, form.columns(split)):
        label = None
        if split != "test":
            if form.drop_unlabelled and not row[form.label]:
                unlabelled += 1
                continue
            try:
                label = form.parse_label(row[form.label])
            except ValueError as error:
                raise ValueError(f"{path}:{line}: {error}") from error
        name = row["id"]
        if not name or name in examples:
            raise ValueError(f"{path}:{line}: the id must be unique and not empty, got {name[:40]!r}")
        sentence1, *sentence2 = (row[column] for column in form.sentences)
        examples[name] = Example(name, sentence1, sentence2[0] if sentence2 else None, label)
    if unlabelled:
        warnings.warn(f"{path}: dropped {unlabelled} rows with an empty label", stacklevel=3)
    if not examples:
        raise ValueError(f"{path} has no rows; fetch it again")
    return tuple(examples.values())


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields each row's last line number and its fields by column, for a header with these columns."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    if not text.endswith("\n"):
        raise ValueError(f"{path} does not end with a line's end, so it may be truncated; fetch it again")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    try:
        header = next(reader)
        if any(header.count(column) != 1 for column in columns):
            raise ValueError(
                f"{path}:1: the header must name {', '.join(columns)} once each, separated by tabs, "
                f"got {str(header)[:80]}"
            )
        for row in reader:
            if len(row) != len(header):
                raise ValueError(
                    f"{path}:{reader.line_num}: a row must have {len(header)} fields, got {len(row)}"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(
            f"{path}:{reader.line_num}: {error}; is a quote or the file's end missing?"
        ) from error


def _text(task: str, split: str, examples: Sequence[Example]) -> str:
    """Returns the contents of a file."""
    form = _FORMS[task]
    rows = [["", *form.columns(split)]]
    for index, example in enumerate(examples):
        row = [str(index), example.id, example.sentence1]
        if example.sentence2 is not None:
            row.append(example.sentence2)
        if split != "test":
            if example.label is None:
                raise ValueError(f"example {example.id!r} of {task} {split} must have a label, got None")
            row.append(str(int(example.label)) if task == "sst" else str(float(example.label)))
        rows.append(row)
    return "".join("\t".join(map(_quoted, row)) + "\n" for row in rows)


def _quoted(text: str) -> str:
    """Returns a field as CSV; by hand, because older ``csv.writer`` leave a lone carriage return unquoted."""
    doubled = text.replace('"', '""')
    return f'"{doubled}"' if any(mark in text for mark in '\t\r\n"') else text
