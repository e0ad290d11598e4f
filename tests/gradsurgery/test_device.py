"""What a backward asks of an accelerator: it never waits, and the launches do not grow with the tensors.

Tensors on torch's meta device have no values, so that whatever reads one on the host raises an error there.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import gradsurgery
from gradsurgery import GSE, PCGrad, gradients, projection, vectors
from gradsurgery.conflicts import ConflictReport
from gradsurgery.projection import pcgrad_weights, random_order
from tests.gradsurgery.counts import Launches

CPU = torch.device("cpu")
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}
METHODS = [
    name
    for name, method in vars(gradsurgery).items()
    if isinstance(method, type) and issubclass(method, gradsurgery.GradientSurgery)
    if method is not gradsurgery.GradientSurgery
]
WAITING = {"UPGrad", "DualProj", "MGDA", "CAGrad", "NashMTL", "IMTLG", "ConFIG", "AlignedMTL"}


def back_propagate(wrap, *, device="meta", tasks=3, tensors=10, size=50):
    """Makes one step of an optimizer with tasks of its own heads, and returns it."""
    shared = [nn.Parameter(torch.ones(size, device=device)) for _ in range(tensors)]
    heads = [nn.Parameter(torch.ones(size, device=device)) for _ in range(tasks)]
    optimizer = wrap(torch.optim.SGD([*shared, *heads], lr=0.1, foreach=True))

    def task(k):
        return lambda: sum((p * heads[k] * (k + 1)).sum() for p in shared)

    optimizer.backward({name: task(k) for k, name in enumerate("abcdefgh"[:tasks])})
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_that_wait_are_those_that_say_so(name):
    method = getattr(gradsurgery, name)
    options = {"task_weights": WEIGHTS} if name == "Constant" else {}
    if name in WAITING:
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            back_propagate(lambda inner: method(inner, **options))
    else:
        optimizer = back_propagate(lambda inner: method(inner, **options))
        assert optimizer.conflicts.gramian.is_meta


def test_the_readme_says_which_methods_wait():
    readme = Path(gradsurgery.__file__).with_name("README.md")
    if not readme.exists():
        pytest.skip("an installed package has no README.md beside it")
    rows = re.findall(r"^\| (\w[^|]*?) \|.*\| (yes|no|when it solves) \|$", readme.read_text(), re.MULTILINE)
    said = {name: wait != "no" for names, wait in rows for name in re.findall(r"[A-Z]\w+", names)}
    assert said == {name: name in WAITING for name in METHODS}


@pytest.mark.parametrize("second", ["reuse", "recompute"])
@pytest.mark.parametrize(
    "options", [{}, {"task_weights": WEIGHTS, "reduction": "mean", "granularity": "group"}]
)
def test_two_updates_and_options_never_wait(second, options):
    optimizer = back_propagate(lambda inner: GSE(PCGrad(inner, **options), second_update=second))
    assert optimizer.conflicts.weights.is_meta


def launches(device, *, tasks, tensors):
    """Returns the names of the operations of a backward, but for those of the tasks' own passes."""
    parameters = [nn.Parameter(torch.ones(50, device=device)) for _ in range(tensors)]
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=0.1))
    rows = [[torch.ones(50, device=device) for _ in parameters] for _ in range(tasks)]

    def task(row):
        def back_propagated():
            for parameter, gradient in zip(parameters, row, strict=True):
                parameter.grad = gradient

        return back_propagated

    with Launches() as counted:
        optimizer.backward([task(row) for row in rows])
    return counted.names


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_operations_of_a_backward_do_not_grow_with_the_tensors(device, monkeypatch):
    """Nor with T²: a task adds a step of the projections, some dozen calls on T x T numbers."""
    monkeypatch.setattr(gradients, "_overlap", lambda a, b: False)  # all of meta is at one address
    names = {(t, n): launches(device, tasks=t, tensors=n) for t, n in [(3, 10), (3, 200), (8, 10), (8, 200)]}
    assert names[3, 10] == names[3, 200]
    assert names[8, 10] == names[8, 200]
    assert len(names[3, 10]) <= {"cpu": 40, "meta": 70}[device]
    assert len(names[8, 10]) <= len(names[3, 10]) + 5 * {"cpu": 3, "meta": 14}[device]


def test_launches_grow_with_neither_the_tensors_nor_the_tasks_and_never_wait(monkeypatch):
    """On the path that accelerators take, without one: a read of a value on the host would be a wait."""
    monkeypatch.setattr(projection, "FEW", 0)
    counts = {}
    for tasks, tensors in [(3, 10), (3, 200), (8, 10)]:
        parameters = [[torch.randn(5).half() for _ in range(tasks)] for _ in range(tensors)]
        order = random_order(tasks, torch.Generator())
        with Launches() as launches:
            gramian = vectors.gramian(parameters, tasks, CPU)
            weights = torch.ones(tasks, dtype=torch.float64)
            vectors.combine(parameters, weights)
        assert "aten::_local_scalar_dense" not in launches.names
        counts[tasks, tensors] = len(launches.names)
        with Launches() as launches:
            pcgrad_weights(gramian, order)
            ConflictReport(tuple("abcdefgh"[:tasks]), gramian, weights)
        assert "aten::_local_scalar_dense" not in launches.names
        assert len(launches.names) < 14 * tasks
    assert len(set(counts.values())) == 1
    with Launches() as launches:
        torch.ones(1).item()
    assert "aten::_local_scalar_dense" in launches.names


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_cuda
def test_cuda_never_waits_and_launches_by_slabs():
    """Both counted by the device itself: a wait raises, and the profiler sees every kernel."""
    kernels = {}
    for tasks, tensors in [(3, 10), (3, 200), (8, 10)]:
        parameters = [nn.Parameter(torch.randn(50, device="cuda")) for _ in range(tensors)]
        optimizer = PCGrad(torch.optim.SGD(parameters, lr=0.1, foreach=True))
        losses = [sum((p * (t + 1)).sum() for p in parameters) for t in range(tasks)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.backward(losses)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        rows = [[torch.randn(50, device="cuda") for _ in range(tasks)] for _ in range(tensors)]
        weights = torch.ones(tasks, dtype=torch.float64, device="cuda")
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            vectors.gramian(rows, tasks, torch.device("cuda", torch.cuda.current_device()))
            vectors.combine(rows, weights)
            torch.cuda.synchronize()
        names = [event.name for event in profiled.events() if "Mem" not in event.name]
        kernels[tasks, tensors] = len(names)
    # A concatenation and a copy into many tensors are cut into kernels of some hundred tensors each.
    assert kernels[3, 200] <= kernels[3, 10] + 3 * 200 // 32
    assert kernels[8, 10] <= kernels[3, 10] + 2


@needs_cuda
def test_cuda_gives_what_the_cpu_gives():
    rows = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    there = [list(rows.cuda().clone().unbind())]
    gramian = vectors.gramian(there, 3, there[0][0].device)
    torch.testing.assert_close(gramian.cpu(), rows.double() @ rows.double().T, rtol=1e-6, atol=1e-6)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    vectors.combine(there, weights.cuda())
    torch.testing.assert_close(there[0][0].cpu(), (weights @ rows.double()).float())
