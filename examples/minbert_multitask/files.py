"""Files that are either whole or untouched: written beside their place, then renamed into it."""

import os
from contextlib import suppress
from pathlib import Path


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
