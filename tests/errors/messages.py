"""What every bad call says, line by line; the golden file keeps it."""

import re
import warnings
from pathlib import Path

from tests.errors.calls import FILES, GRADSURGERY, MINBERT, SMARTREG, message
from tests.minbert_multitask import places

GOLDEN = Path(__file__).with_name("messages.txt")


def messages(place: Path) -> list[str]:
    """Returns a line for each bad call, in the order of their lists.

    Args:
        place: An empty folder.
    """
    lines = [
        f"{library} | {name} | {message(call)}"
        for library, calls in (("gradsurgery", GRADSURGERY), ("smartreg", SMARTREG))
        for name, call in calls.items()
    ]
    places.make(place)
    for name, arguments in MINBERT.items():
        lines.append(f"minbert | {name} | {_said(place, 'data/sts-dev.csv', lambda same: same, arguments)}")
    for name, (file, change) in FILES.items():
        arguments = places.READERS.get(file, (*places.TRAIN, "new"))
        lines.append(f"minbert | {name} | {_said(place, file, change, arguments)}")
    lines = [re.sub(r"line \d+ column \d+ \(char \d+\)", "at its end", line) for line in lines]
    return [re.sub(r"0x[0-9a-f]+", "0x…", line).replace(str(place), "PLACE") for line in lines]


def _said(place, file, change, arguments):
    content = (place / file).read_bytes()
    if change(content) == content and file != "data/sts-dev.csv":
        return "the file is as it was"
    with places.replaced(place, file, change(content)), warnings.catch_warnings():
        status, line = places.call(*arguments)
    return f"{status}: {line}"
