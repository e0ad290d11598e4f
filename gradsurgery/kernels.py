"""Products and sums of the CPU's float32 rows by a kernel in C, for those who ask for it.

No call of torch multiplies several tensors in one pass, so that T (T + 1) / 2 products read rows from the
cache again, and each call has its price. The kernel reads each row once for all products, once for the sum.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .vectors import Piece

MOST_TASKS = 64
"""Tasks beyond which products of matrices are faster; the kernel has its T² numbers on the stack."""

_SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-pthread")
_loaded: list[ctypes.CDLL] = []
"""The library, once it is compiled."""


def compile_kernels(compiler: str | None = None) -> None:
    """Compiles the kernel for this process and its CPU; from then on every surgery uses it where it can.

    That is on float32 gradients on the CPU; others take torch's own operations as before. The results agree
    to float32's rounding, not to the last bit, so call it on all ranks or on none. It uses as many threads as
    ``torch.get_num_threads()``. Called again, it does nothing.

    Args:
        compiler: A C compiler, gcc or clang, with options if need be (default: ``$CC``, else ``cc``).

    Raises:
        RuntimeError: If there is no such compiler, or it fails.
    """
    if _loaded:
        return
    command = shlex.split(compiler or os.environ.get("CC", "") or "cc")
    if shutil.which(command[0]) is None:
        raise RuntimeError(
            f"compiler {command[0]!r} was not found: install gcc or clang, or name one, or do without"
            " compile_kernels(), which changes nothing but the time"
        )
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernels.so"
        done = subprocess.run(
            [*command, *_FLAGS, str(_SOURCE), "-o", str(built)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]
            raise RuntimeError(f"compiler {command[0]!r} failed ({reason}): name gcc or clang")
        try:
            library = ctypes.CDLL(str(built))
        except OSError as error:
            raise RuntimeError(
                f"the compiled kernel cannot be loaded ({error}): set TMPDIR to a folder that may hold one"
            ) from error
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.gradsurgery_gramian.argtypes = [pointer, pointer, number, number, number, pointer]
    library.gradsurgery_combine.argtypes = [*library.gradsurgery_gramian.argtypes, pointer, number]
    _loaded.append(library)


def take(parameters: Sequence["Piece"], tasks: int) -> bool:
    """Returns whether the kernel is there and takes these rows, which are dense and on the CPU."""
    return bool(_loaded) and tasks <= MOST_TASKS and all(_plain(row) for p in parameters for row in p)


def gramian(parameters: Sequence["Piece"], tasks: int) -> Tensor:
    """Returns the rows' inner products ``(T, T)``, in float64."""
    lower = torch.zeros(tasks, tasks, dtype=torch.float64, device="cpu")
    _call("gramian", parameters, tasks, lower.data_ptr())
    return lower + lower.tril(-1).T


def combine(
    parameters: Sequence["Piece"], weights: Sequence[Sequence[float]], targets: Sequence[Tensor]
) -> None:
    """Writes weighted sums of the rows, of which a target may be one: all are read before one is written.

    Args:
        parameters: The rows.
        weights: One vector or two, T numbers each.
        targets: Where the sums go: a tensor for each parameter and vector, the parameter's together.
    """
    factors = torch.tensor(weights, dtype=torch.float32, device="cpu")
    _call("combine", parameters, factors.shape[1], factors.data_ptr(), _addresses(targets), len(weights))


def _call(name: str, parameters: Sequence["Piece"], tasks: int, *rest: object) -> None:
    rows = _addresses([row for parameter in parameters for row in parameter])
    lengths = [next(row.numel() for row in parameter if row is not None) for parameter in parameters]
    sizes = (ctypes.c_int64 * len(lengths))(*lengths)
    threads = torch.get_num_threads()
    if getattr(_loaded[0], f"gradsurgery_{name}")(rows, sizes, len(parameters), tasks, threads, *rest):
        raise MemoryError(f"no memory for {threads} threads of the kernel: call torch.set_num_threads()")


def _addresses(rows: Sequence[Tensor | None]) -> "ctypes.Array[ctypes.c_void_p]":
    return (ctypes.c_void_p * len(rows))(*[None if row is None else row.data_ptr() for row in rows])


def _plain(row: Tensor | None) -> bool:
    """Returns whether a row's memory is what its values are."""
    return row is None or (type(row) is Tensor and row.dtype == torch.float32 and not row.is_neg())
