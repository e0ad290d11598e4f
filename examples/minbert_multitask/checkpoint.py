"""Checkpoints: everything that decides how a run goes on, in a file that is whole or the former one."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from .files import write_atomically


def save(state: dict[str, Any], path: Path) -> None:
    """Writes a state of tensors, numbers, strings, lists and dicts.

    Raises:
        OSError: If the disk is full or read-only; the former checkpoint is then still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Reads a state back, onto the CPU, without running any code that the file may hold.

    Raises:
        ValueError: If the file is no checkpoint, truncated, or holds more than plain state.
        OSError: If it cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:  # whose check sums torch.load does not look at
            damaged = archive.testzip()
        if damaged:
            raise ValueError(damaged)
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises depends on the damage: a dozen kinds
        raise ValueError(
            f"{path} is truncated or no checkpoint of this program; delete it to begin anew"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint; delete it to begin anew")
    return state


def rng_state() -> dict[str, Any]:
    """Returns the states of torch's global generators, CPU and CUDA."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def restore_rng_state(state: dict[str, Any]) -> None:
    """Puts torch's global generators back to what :func:`rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
