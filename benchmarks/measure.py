"""Times in interleaved rounds, peaks of memory as the allocator reports them, and facts about the machine."""

import platform
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
"""Where the scripts write unless they are told otherwise."""

Preparation: TypeAlias = Callable[[], Callable[[], object]]
"""Sets the stage, untimed, and returns what is to be timed."""


def spread(values: list[float]) -> dict[str, float]:
    """Returns the median and the quartiles."""
    low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": median(values), "low": low, "high": high}


def in_rounds(
    entries: Mapping[str, Preparation],
    *,
    reference: str,
    device: torch.device,
    rounds: int,
    seconds: float = float("inf"),
) -> dict[str, dict[str, Any]]:
    """Times the entries one after another, round by round, so that what slows the machine slows them alike.

    Args:
        entries: What is timed, by name.
        reference: The entry with which each is compared, within a round.
        device: What is waited for.
        rounds: How many rounds, after one to warm up.
        seconds: An entry that has taken as long leaves; each takes part in one round at least.

    Returns:
        By name, milliseconds of CPU time and of wall time, and the ratio to the reference, of wall time on a
        GPU and of CPU time else; or an ``error`` in place of them.
    """
    cpu: dict[str, list[float]] = {name: [] for name in entries}
    wall: dict[str, list[float]] = {name: [] for name in entries}
    errors: dict[str, str] = {}
    for count in range(rounds + 1):
        for name, prepare in entries.items():
            if name in errors or sum(wall[name]) > 1000 * seconds:
                continue
            try:
                run = prepare()
                synchronize(device)
                started, started_cpu = perf_counter(), process_time()
                run()
                synchronize(device)
            except Exception as error:  # a peer may fail in any way
                errors[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            if count:
                wall[name].append(1000 * (perf_counter() - started))
                cpu[name].append(1000 * (process_time() - started_cpu))
    times = wall if device.type == "cuda" else cpu
    found: dict[str, dict[str, Any]] = {}
    for name in entries:
        if name in errors:
            found[name] = {"error": errors[name]}
            continue
        ratios = [own / other for own, other in zip(times[name], times[reference], strict=False)]
        found[name] = {
            "cpu_ms": spread(cpu[name]),
            "wall_ms": spread(wall[name]),
            "ratio": spread(ratios),
            "rounds": len(ratios),
        }
    return found


def peak(run: Callable[[], object], device: torch.device) -> int:
    """Returns the most bytes that a call holds beyond what there was, as the allocator reports them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return max((alive for _, alive in alive_over_time(run)), default=0)


def alive_over_time(run: Callable[[], object]) -> list[tuple[float, int]]:
    """Returns the seconds and the bytes alive at each allocation on the CPU and each release of a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    alive, curve = 0, [(0.0, 0)]
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in events:
        alive += event.nbytes()
        curve.append(((event.start_ns() - events[0].start_ns()) / 1e9, alive))
    return curve


def peak_bandwidth(device: torch.device) -> float | None:
    """Returns the gigabytes a second that a GPU's memory can deliver by its clock, two words a cycle."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return 2e3 * properties.memory_clock_rate * properties.memory_bus_width / 8 / 1e9  # kHz, bits


def thinned(curve: list[tuple[float, int]], points: int = 300) -> list[tuple[float, int]]:
    """Returns a curve of as many points as a picture has room for, its peaks kept."""
    each = -(-len(curve) // points)
    parts = [curve[k : k + each] for k in range(0, len(curve), each)]
    return [(round(part[0][0], 4), max(alive for _, alive in part)) for part in parts]


class Activations(saved_tensors_hooks):
    """Counts the bytes autograd keeps, each storage once, no parameters; ``peak`` is the most at a time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._keep, lambda kept: kept)
        self.peak = self._alive = 0
        self._parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._uses: Counter[int] = Counter()

    def _keep(self, tensor: Tensor) -> Tensor:
        kept = tensor.detach()  # an object of autograd's own, which dies when autograd lets go of it
        address, size = kept.untyped_storage().data_ptr(), kept.untyped_storage().nbytes()
        if address not in self._parameters:
            self._count(address, size, 1)
            weakref.finalize(kept, self._count, address, size, -1)
        return kept

    def _count(self, address: int, size: int, change: int) -> None:
        before, self._uses[address] = self._uses[address], self._uses[address] + change
        self._alive += size * (bool(self._uses[address]) - bool(before))
        self.peak = max(self.peak, self._alive)


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def facts(*packages: str) -> dict[str, Any]:
    """Returns what was measured with: the processor, the threads, and versions."""
    models = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": models[0] if models else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(models),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
