"""The embedded corpus: data of the three tasks drawn from a small grammar, for a trial without a download.

Labels follow from the grammar alone, and words without their order and roles do not decide them. As in real
data, some topics are asked about or told of twice more often than others: this is all that a head can learn
which adds up what it sees in the two sentences of a pair.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from . import data
from .corpus_drawing import Row, shuffled
from .corpus_paraphrase import draw_question_pair
from .corpus_sentiment import draw_review
from .corpus_similarity import draw_scene_pair
from .data import SPLITS, Dataset, Example
from .files import write_atomically

Draw = Callable[[Random, int], Row]

_DRAWS: Mapping[str, Draw] = {"sst": draw_review, "qqp": draw_question_pair, "sts": draw_scene_pair}
_MAX_TRIES = 1_000

SIZES: Mapping[str, Mapping[str, int]] = {task: {"train": 600, "dev": 150, "test": 150} for task in _DRAWS}
"""The number of examples by task and split, unless others are asked for."""


def generate(*, seed: int = 11711, sizes: Mapping[str, Mapping[str, int]] = SIZES) -> Dataset:
    """Draws a corpus: from the same arguments the same one, wherever it is drawn.

    No sentence occurs twice in a task. The five sentiments are equally frequent, and so are paraphrases and
    other pairs; most similarities are around the middle. Test examples have no labels.

    Args:
        seed: Chooses the sentences.
        sizes: The number of examples by task and split.

    Raises:
        ValueError: If the grammar has not so many different sentences.
    """
    examples = {}
    for task, draw in _DRAWS.items():
        random, used = Random(f"{seed} {task}"), set[str]()
        for split in SPLITS:
            rows = [_unused_row(task, draw, random, index, used) for index in range(sizes[task][split])]
            examples[task, split] = tuple(
                Example(_id(task, row), row.sentence1, row.sentence2, None if split == "test" else row.label)
                for row in shuffled(random, rows)
            )
    return Dataset(examples)


def write(folder: Path, *, seed: int = 11711, sizes: Mapping[str, Mapping[str, int]] = SIZES) -> Path:
    """Returns a folder of a corpus' files; those that are there already stay untouched.

    Args:
        folder: Where the files are kept.
        seed: As for :func:`generate`.
        sizes: As for :func:`generate`.

    Raises:
        ValueError: If a file is there that holds anything else.
        OSError: If the disk is full or read-only.
    """
    with TemporaryDirectory() as fresh:
        data.write(generate(seed=seed, sizes=sizes), fresh)
        contents = {folder / path.name: path.read_bytes() for path in sorted(Path(fresh).iterdir())}
    missing = {path: content for path, content in contents.items() if not path.exists()}
    for path, content in contents.items():
        if path not in missing and path.read_bytes() != content:
            raise ValueError(f"{path} holds other data than this corpus; choose another folder or remove it")
    for path, content in missing.items():
        write_atomically(path, content)
    return folder


def _unused_row(task: str, draw: Draw, random: Random, index: int, used: set[str]) -> Row:
    """Returns a row of sentences that were not used, and notes that they are now."""
    for _ in range(_MAX_TRIES):
        row = draw(random, index)
        sentences = [text for text in (row.sentence1, row.sentence2) if text is not None]
        if len(set(sentences)) == len(sentences) and used.isdisjoint(sentences):
            used.update(sentences)
            return row
    raise ValueError(f"sizes asks for more rows of {task} than the grammar has sentences for; ask for fewer")


def _id(task: str, row: Row) -> str:
    """Returns an id that looks like the handout's."""
    return hashlib.sha256(f"{task} {row.sentence1}".encode()).hexdigest()[:25]
