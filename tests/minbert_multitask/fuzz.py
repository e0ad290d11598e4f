"""Damaged files for every reader, for as long as you like: each is read, or refused in one line.

Usage: python -m tests.minbert_multitask.fuzz [--seconds 300] [--seed 0]
"""

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from hypothesis import Phase, Verbosity, given, seed, settings

from tests.minbert_multitask import places
from tests.minbert_multitask.damage import damaged

EXAMPLES = 20


def never_a_traceback(place, file, *, max_examples, first=None):
    """Draws damaged versions of a file and lets its reader read each.

    Args:
        place: The folder that ``places.make`` has filled.
        file: One of ``places.READERS``.
        max_examples: How many versions.
        first: The seed; the same versions at each call where None.
    """
    content = (place / file).read_bytes()

    @settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=first is None,
        database=None,
        phases=(Phase.generate,),
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
    )
    @given(version=damaged(Path(file).suffix, content))
    def check(version):
        with places.replaced(place, file, version), warnings.catch_warnings():
            status, line = places.call(*places.READERS[file])
        assert status in (0, 2), line
        assert status == 0 or line.startswith("minbert: error: "), line

    (check if first is None else seed(first)(check))()


def main() -> bool:
    """Goes round the readers until the time is out; returns whether any let an error through."""
    parser = argparse.ArgumentParser(prog="python -m tests.minbert_multitask.fuzz")
    parser.add_argument("--seconds", type=float, default=300, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    options = parser.parse_args()
    end, count, number = time.monotonic() + options.seconds, 0, options.seed
    failures: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        places.make(place)
        while time.monotonic() < end:
            for file in places.READERS:
                if time.monotonic() > end:
                    break
                try:
                    never_a_traceback(place, file, max_examples=EXAMPLES, first=number)
                except Exception as error:  # whatever gets out of a reader is what is looked for
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    what = f"{file}: {type(error).__name__} in {where.filename}:{where.lineno}: {where.line}"
                    if what not in failures:
                        print(f"seed {number}, {what}: {str(error)[:200]}", flush=True)
                    failures.add(what)
                count += EXAMPLES
            number += 1
    print(f"{count} files, {len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
