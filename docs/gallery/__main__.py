"""Measures and draws the gallery: ``python -m docs.gallery [NAME ...]``, with ``--draw`` draws alone."""

import argparse
import json
from pathlib import Path
from types import ModuleType

from . import ball, curves, projection, toy

FOLDER = Path(__file__).parent
PICTURES: dict[str, ModuleType] = {"toy": toy, "projection": projection, "ball": ball, "curves": curves}


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> None:
    """Writes ``NAME.json``, what was measured, and ``NAME.png``, its picture."""
    parser = argparse.ArgumentParser(prog="python -m docs.gallery", description=__doc__)
    parser.add_argument("names", nargs="*", default=[*PICTURES], help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--draw", action="store_true", help="draw anew, and measure nothing")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(PICTURES):
        parser.error(f"NAME must be one of {', '.join(PICTURES)}, got {', '.join(sorted(unknown))}")
    for name in options.names:
        measured = folder / f"{name}.json"
        if not options.draw:
            measured.write_text(json.dumps(PICTURES[name].measure()) + "\n", encoding="utf-8")
        PICTURES[name].draw(json.loads(measured.read_text(encoding="utf-8")), folder / f"{name}.png")


if __name__ == "__main__":
    main()
