"""The public data: SST-5, GLUE's QQP and STS-B from the Hugging Face hub, as files of the handout's form.

The public QQP and STS-B are split otherwise than the handout's: rows of its dev and test files are in their
train files. A model trained on the one has no meaningful score on the other.
"""

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from . import data
from .data import SPLITS, Dataset, Example
from .experiments import TASKS

_SOURCES = {
    "sst": ("SetFit/sst5", None, ("text",)),
    "qqp": ("nyu-mll/glue", "qqp", ("question1", "question2")),
    "sts": ("nyu-mll/glue", "stsb", ("sentence1", "sentence2")),
}
_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def cache_folder() -> Path:
    """Returns the folder in which the files are kept: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minbert_multitask" / "hub"


def fetch(folder: Path | None = None) -> Path:
    """Returns a folder of the public data, which is fetched by ``datasets`` unless all files are there.

    Args:
        folder: Where the files are kept; :func:`cache_folder` where None.

    Raises:
        ValueError: If ``datasets`` is not installed or cannot fetch them.
        OSError: If the disk is full or read-only.
    """
    folder = folder or cache_folder()
    if all(data.path_of(folder, task, split).is_file() for task in TASKS for split in SPLITS):
        return folder
    try:
        load_dataset = import_module("datasets").load_dataset
    except ImportError as error:
        raise ValueError(
            "data 'hub' needs the datasets library; pip install 'minbert-multitask[hub]'"
        ) from error
    examples = {}
    for task, (path, name, columns) in _SOURCES.items():
        try:
            splits = load_dataset(path, name)
            for split in SPLITS:
                examples[task, split] = _examples(f"{task}-{split}", splits[_HUB_SPLITS[split]], columns)
        except Exception as error:  # whatever the library, its cache or the network raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"data {path!r} could not be fetched from the hub: {reason}") from error
    data.write(Dataset(examples), folder)
    return folder


def _examples(name: str, rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> tuple[Example, ...]:
    """Returns rows as examples; the hub marks a missing label by -1."""
    examples = []
    for index, row in enumerate(rows):
        sentence1, *sentence2 = (str(row[column]) for column in columns)
        label = None if row["label"] == -1 else float(row["label"])
        examples.append(Example(f"{name}-{index}", sentence1, sentence2[0] if sentence2 else None, label))
    return tuple(examples)
