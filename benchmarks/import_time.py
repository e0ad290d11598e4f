"""How long a library's import takes beside torch's own, by the interpreter's clock, in fresh interpreters."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .measure import RESULTS, facts, spread

LIBRARIES = ("gradsurgery", "smartreg")
OUTPUT = RESULTS / "import_time.json"


def times(library: str) -> dict[str, float]:
    """Returns the milliseconds of ``import torch`` in a fresh interpreter, and of the library's after it."""
    printed = _python("-X", "importtime", "-c", f"import torch; import {library}").stderr
    # Lines are "import time: self | cumulative | name", microseconds, the name indented but at the top level.
    found = {name: int(us) / 1000 for us, name in re.findall(r"\| +(\d+) \| (\w+)$", printed, re.MULTILINE)}
    of_torch, of_library = found["torch"], found[library]
    return {"torch_ms": of_torch, "library_ms": of_library, "share": of_library / of_torch}


def modules(library: str) -> list[str]:
    """Returns the modules that the library's import brings beyond its own and what torch's brings."""
    lines = (
        "import sys, torch",
        "before = set(sys.modules)",
        f"import {library}",
        f"print(*sorted(m for m in set(sys.modules) - before if m.partition('.')[0] != {library!r}))",
    )
    return _python("-c", "\n".join(lines)).stdout.split()


def main(arguments: list[str] | None = None) -> None:
    """Measures both libraries and writes what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_time", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="fresh interpreters a library (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"measured_with": facts(*LIBRARIES)}
    for library in LIBRARIES:
        times(library)  # the first reads the files from the disk
        rounds = [times(library) for _ in range(options.rounds)]
        found[library] = {key: spread([one[key] for one in rounds]) for key in rounds[0]}
        found[library]["modules"] = modules(library)
        print(f"{library}: {found[library]['share']['median']:.1%} over torch's import")
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


if __name__ == "__main__":
    main()
