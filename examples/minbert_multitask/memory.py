"""The peak memory of a run."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_LINUX_STATUS, _LINUX_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: torch.device) -> None:
    """Lets :func:`peak_bytes` count from now on, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # on another system the peak is that of the process's whole life
        _LINUX_RESET.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Returns the peak since :func:`reset_peak`: of CUDA's tensors, or of the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        peak = next(line for line in _LINUX_STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
