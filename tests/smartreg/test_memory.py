"""The low-memory backward keeps one forward's activations at a time, as a task of a surgery too."""

import copy
import gc
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradsurgery import GSE
from smartreg import SMART, squared_error, symmetric_kl

LABELS = torch.tensor([0, 2, 1, 0])
WEIGHT = 5.0
STRONG = {"epsilon": 0.1, "step_size": 0.1}


class Box:
    """An object of autograd's own, which dies when autograd lets go of it; with its graph it never would."""

    def __init__(self, value):
        self.value = value


class Alive(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps for its backward, and their peak."""

    def __init__(self):
        super().__init__(self._pack, lambda box: box.value)
        self.now = self.peak = 0

    def _pack(self, tensor):
        box, size = Box(tensor.detach()), tensor.numel() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(box, self._free, size)
        return box

    def _free(self, size):
        self.now -= size


@pytest.fixture(autouse=True)
def _no_collector():
    """What is alive is then a matter of references alone."""
    gc.disable()
    yield
    gc.enable()


def encoder(width=32, layers=20):
    return nn.Sequential(
        *(part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1))),
        nn.Flatten(),
    )


class Tasks(nn.Module):
    """One encoder, and a head for each of three tasks: one output, a pair of embeddings, several outputs."""

    def __init__(self):
        super().__init__()
        self.encoder = encoder()
        self.heads = nn.ModuleDict(
            {"one": nn.Linear(320, 3), "siamese": nn.Linear(640, 1), "several": nn.Linear(320, 4)}
        )

    def outputs(self, task, x):
        if task == "siamese":
            return self.heads[task](torch.cat([self.encoder(each) for each in x], dim=1))
        outputs = self.heads[task](self.encoder(x))
        return outputs if task == "one" else {"kind": outputs[:, :3], "size": outputs[:, 3], "cache": None}

    def loss(self, task, outputs):
        if task == "one":
            return F.cross_entropy(outputs, LABELS)
        if task == "siamese":
            return F.mse_loss(outputs.squeeze(1), LABELS.float())
        return F.cross_entropy(outputs["kind"], LABELS) + outputs["size"].square().mean()


DIVERGENCES = {
    "one": symmetric_kl,
    "siamese": squared_error,
    "several": {"kind": symmetric_kl, "size": squared_error},
}


@pytest.fixture
def tasks():
    torch.manual_seed(0)
    return Tasks()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    one, a, b, several = torch.randn(4, 4, 10, 32, generator=generator)
    return {"one": one, "siamese": (a, b), "several": several}


def plain(tasks, task, x):
    """One forward and backward of a task alone."""
    x = tuple(e.clone().requires_grad_() for e in x) if task == "siamese" else x.clone().requires_grad_()
    tasks.loss(task, tasks.outputs(task, x)).backward()


def joint(tasks, smart, task, x):
    outputs, penalty = smart.penalize(partial(tasks.outputs, task), x)
    return tasks.loss(task, outputs) + WEIGHT * penalty


def low_memory(tasks, smart, task, x, scale=None):
    smart.backward(partial(tasks.outputs, task), x, partial(tasks.loss, task), weight=WEIGHT, scale=scale)


def peak(run):
    with (alive := Alive()):
        run()
    assert alive.now == 0
    return alive.peak


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("options", [{}, {"dropout": "shared"}, {"detach_clean": True}])
@pytest.mark.parametrize("task", DIVERGENCES)
def test_the_activations_of_one_forward_are_alive_at_a_time(tasks, batches, task, options, num_steps):
    x, smart = batches[task], SMART(divergence=DIVERGENCES[task], num_steps=num_steps, **STRONG, **options)
    one = peak(lambda: plain(tasks, task, x))
    assert peak(lambda: joint(tasks, smart, task, x).backward()) > 1.9 * one
    assert peak(lambda: low_memory(tasks, smart, task, x)) < 1.02 * one


def test_so_they_are_under_autocast_with_a_scaler_and_accumulation(tasks, batches):
    """In float32, in which the inner steps run: more than a forward in bfloat16 keeps."""
    scaler, smart, x = torch.amp.GradScaler("cpu", init_scale=2.0**10), SMART(**STRONG), batches["one"]

    def run(step):
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                step()

    one, half = peak(lambda: plain(tasks, "one", x)), peak(lambda: run(lambda: plain(tasks, "one", x)))
    found = peak(
        lambda: run(lambda: low_memory(tasks, smart, "one", x, lambda value: scaler.scale(value / 3)))
    )
    assert half < 0.6 * one
    assert found < 1.02 * one


def step(tasks, batches, form):
    """Makes one update of SMART + GSE on three tasks, and returns the parameters and the task's cosines."""
    optimizer = GSE(
        torch.optim.SGD(tasks.parameters(), lr=0.1),
        second_update="recompute" if form != "tensors" else "reuse",
    )
    smarts = {task: SMART(divergence=divergence, **STRONG) for task, divergence in DIVERGENCES.items()}
    one_task = {"callables": joint, "low memory": low_memory}.get(form, joint)
    losses = {task: partial(one_task, tasks, smarts[task], task, x) for task, x in batches.items()}
    torch.manual_seed(0)
    optimizer.backward(losses if form != "tensors" else {task: loss() for task, loss in losses.items()})
    optimizer.step()
    return list(tasks.parameters()), optimizer.conflicts.cosines


def test_smart_and_gse_on_three_tasks_take_the_activations_of_one_forward(tasks, batches):
    """The run for which the paper ran out of memory; the update is that of the joint losses."""
    one = max(peak(lambda task=task: plain(tasks, task, batches[task])) for task in DIVERGENCES)
    found, peaks = {}, {}
    for form in ("tensors", "callables", "low memory"):
        model = copy.deepcopy(tasks)

        def run(model=model, form=form):
            found[form] = step(model, batches, form)

        peaks[form] = peak(run)
    assert peaks["low memory"] < 1.1 * one
    assert peaks["callables"] > 1.9 * one
    assert peaks["tensors"] > 3.9 * one  # two forwards of two encoders and of two with one
    for ours, theirs in zip(*(found[form][0] for form in ("low memory", "callables")), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["low memory"][1], found["callables"][1], rtol=1e-4, atol=1e-5)
