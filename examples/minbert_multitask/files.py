"""Files that are either whole or untouched: written beside their place, then renamed into it."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that a crash or a full disk leaves the former one as it was.

    Args:
        path: The file; its folder is made where it is missing.
        content: What it shall hold; text is written as UTF-8.

    Raises:
        OSError: If the disk is full or read-only, the path is a folder, or it may not be written; the error
            names the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:  # which names the file beside, or on a full disk none
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses this too
            beside.unlink()


def remove_half_written(folder: Path) -> None:
    """Removes what a process that was killed while it wrote has left anywhere in a folder.

    What a living process may be writing stays.

    Raises:
        OSError: If a file may not be removed.
    """
    for path in folder.rglob(".*"):
        writer = re.fullmatch(r"\..+\.(\d+)", path.name)
        if writer and not _is_living(int(writer[1])):
            path.unlink(missing_ok=True)


def _is_living(process: int) -> bool:
    if os.name != "posix":  # where this signal is one
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: The file.
        remedy: What the user can do if it holds something else.

    Raises:
        ValueError: If it holds something else.
        OSError: If it cannot be read.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # broken JSON, not UTF-8, or brackets without end
        raise ValueError(f"{path} is no JSON ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}; {remedy}")
    return values
