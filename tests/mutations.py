"""Breaks the code on purpose, one law at a time: the tests named beside each mutation must fail on it.

Usage: python -m tests.mutations [PATTERN]

PATTERN is a regular expression; mutations whose file, source or tests match it are tried. All happens in
copies of the sources, so the checkout is not touched but for the report, tests/mutations.txt, of the last
verdict on each.
It ends with 1 if a mutation survives, or is not in its file once.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutations_of_distributed import DISTRIBUTED
from tests.mutations_of_docs import DOCS
from tests.mutations_of_embeddings import EMBEDDINGS
from tests.mutations_of_example import EXAMPLE
from tests.mutations_of_figures import FIGURES
from tests.mutations_of_files import FILES
from tests.mutations_of_gradsurgery import GRADSURGERY
from tests.mutations_of_methods import METHODS
from tests.mutations_of_pcgrad import PCGRAD
from tests.mutations_of_proximal import PROXIMAL
from tests.mutations_of_ranks import RANKS
from tests.mutations_of_smartreg import SMARTREG

ROOT = Path(__file__).parents[1]
REPORT = Path(__file__).with_suffix(".txt")
COPIED = ("gradsurgery", "smartreg", "examples", "docs", "tests", "setup.cfg")
FAILED = 1  # pytest's code for tests that ran and failed; others mean that they did not run


@dataclass(frozen=True)
class Mutation:
    """A wrong version of one file.

    Attributes:
        file: The file, from the root on.
        fragment: What is there, once.
        replacement: What is put in its place.
        tests: The tests that must fail, as pytest names them, from the root on.
    """

    file: str
    fragment: str
    replacement: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.fragment!r} -> {self.replacement!r}"

    def apply(self, root: Path) -> str:
        """Returns the file's wrong text.

        Raises:
            ValueError: If the fragment is not there exactly once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.fragment)) != 1:
            raise ValueError(f"fragment occurs {count} times in {self.file}: {self.fragment!r}")
        return text.replace(self.fragment, self.replacement)


MUTATIONS = [
    Mutation(file, fragment, replacement, tuple(f"tests/{Path(file).parent.name}/{test}" for test in tests))
    for area in (
        GRADSURGERY,
        PCGRAD,
        DISTRIBUTED,
        METHODS,
        SMARTREG,
        PROXIMAL,
        EMBEDDINGS,
        EXAMPLE,
        FIGURES,
        FILES,
        RANKS,
        DOCS,
    )
    for file, changes in area.items()
    for fragment, replacement, *tests in changes
]


def run_tests(copy: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs tests against the copied packages, which precede installed ones on the path."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "examples")]),
        "HYPOTHESIS_PROFILE": "mutations",
        "PYTHONDONTWRITEBYTECODE": "1",  # its caches miss a change within one second that keeps the size
    }
    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={copy} {copy / 'examples'}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def verdict(mutation: Mutation, copy: Path) -> str:
    """Returns what becomes of a mutation: killed, SURVIVED, or why it could not be tried."""
    path = copy / mutation.file
    right = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutation.apply(copy), encoding="utf-8")
        done = run_tests(copy, list(mutation.tests))
    except ValueError as error:
        return f"MISSING ({error})"
    finally:
        path.write_text(right, encoding="utf-8")
    if done.returncode == FAILED:
        return "killed"
    return "SURVIVED" if done.returncode == 0 else f"NOT TRIED\n{done.stdout}{done.stderr}"


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """Makes so many copies of the sources, which are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder).resolve() / str(number) for number in range(count)]
        for copy in made:
            copy.mkdir()
            for name in COPIED:
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, copy / name)
        yield made


def tried(chosen: list[Mutation], copies: list[Path]) -> list[str]:
    """Returns the verdicts, each copy trying one mutation at a time."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(mutation: Mutation) -> str:
        copy, started = free.get(), time.monotonic()
        found = verdict(mutation, copy)
        free.put(copy)
        print(f"{time.monotonic() - started:5.1f} s  {mutation}: {found}", flush=True)
        return found

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, chosen))


def write_report(verdicts: dict[str, str]) -> None:
    """Writes these verdicts; mutations that were not tried now keep the one they had."""
    former = {}
    if REPORT.exists():
        for line in REPORT.read_text(encoding="utf-8").splitlines()[2:]:
            found, _, mutation = line.partition("  ")
            former[mutation] = found
    last = {**former, **{mutation: found.splitlines()[0] for mutation, found in verdicts.items()}}
    lines = [f"{last.get(str(m), 'NOT TRIED')}  {m}" for m in MUTATIONS]
    killed = sum(line.startswith("killed") for line in lines)
    REPORT.write_text("\n".join([f"{killed} of {len(lines)} killed", "", *lines]) + "\n", encoding="utf-8")


def main() -> int:
    """Tries the mutations that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations")
    parser.add_argument("pattern", nargs="?", default="", help="try those that match, by default all")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: %(default)s)")
    options = parser.parse_args()
    pattern = options.pattern
    chosen = [m for m in MUTATIONS if re.search(pattern, f"{m} {' '.join(m.tests)}")]
    if not chosen:
        parser.error(f"PATTERN must match a mutation, got {pattern!r}: try the name of a file")
    with copies(options.jobs) as made:
        right = run_tests(made[0], sorted({test for mutation in chosen for test in mutation.tests}))
        if right.returncode:
            print(f"without a mutation the tests must pass\n{right.stdout}{right.stderr}")
            return 1
        verdicts = tried(chosen, made)
    print(f"{verdicts.count('killed')} of {len(chosen)} killed")
    write_report({str(m): found for m, found in zip(chosen, verdicts, strict=True)})
    return int(verdicts.count("killed") < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
