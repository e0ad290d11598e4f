"""What runs read: the data of all three tasks, tokenised, and the pretrained weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import corpus, hub, weights
from .batches import TokenizedExamples
from .data import SPLITS, Dataset, load
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class DataSource:
    """Where the data files are.

    Attributes:
        name: What results call the data: ``"demo"``, ``"hub"``, or the base name of the folder.
        folder: The folder that holds the files.
    """

    name: str
    folder: Path

    @classmethod
    def find(cls, name: str, out: Path) -> "DataSource":
        """Returns the data of a name on the command line, written or fetched where need be.

        Args:
            name: A folder, ``"demo"`` for the embedded corpus or ``"hub"`` for the public data.
            out: The folder of the runs, which also keeps the embedded corpus.

        Raises:
            ValueError: If there is no such folder, or the hub cannot be reached.
            OSError: If the disk is full or read-only.
        """
        if name == "demo":
            return cls(name, corpus.write(out / "demo-data"))
        if name == "hub":
            return cls(name, hub.fetch())
        folder = Path(name)
        if not folder.is_dir():
            raise ValueError(
                f"data {name!r} is no folder; give one with the handout's files, or `demo` or `hub`"
            )
        return cls(folder.resolve().name, folder)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data and the weights, read once for all runs that share them.

    Attributes:
        data_name: What results call the data.
        dataset: The examples.
        weights: The folder of the pretrained weights.
        tokenizer: The weights' tokenizer.
        tokens: The examples tokenised, by task and split.
    """

    data_name: str
    dataset: Dataset
    weights: Path
    tokenizer: Tokenizer
    tokens: dict[tuple[str, str], TokenizedExamples]

    @classmethod
    def load(
        cls, source: DataSource, weights_name: str | Path, *, splits: Sequence[str] = SPLITS
    ) -> "Inputs":
        """Reads the data and the tokenizer.

        Args:
            source: Where the data files are.
            weights_name: A folder, a package or a hub's name, as ``weights.resolve`` takes it.
            splits: Which splits to read.

        Raises:
            ValueError: If the data or the weights are missing or at fault.
            OSError: If a file cannot be read.
        """
        dataset = load(source.folder, splits=splits)
        folder = weights.resolve(weights_name)
        tokenizer = Tokenizer.from_pretrained(folder)
        tokens = {key: TokenizedExamples(examples, tokenizer) for key, examples in dataset.examples.items()}
        return cls(data_name=source.name, dataset=dataset, weights=folder, tokenizer=tokenizer, tokens=tokens)

    @cached_property
    def weights_fingerprint(self) -> str:
        """A short hash of the weights' files."""
        return weights.fingerprint(self.weights)
