"""Modules under torch.compile: their tasks are differentiated one after another, as anyone's are."""

import shutil
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradsurgery import GSE, PCGrad

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
BACKENDS = ["aot_eager", pytest.param("inductor", marks=needs_a_compiler)]
WRAPPERS = {"pcgrad": PCGrad, "gse": GSE}


@pytest.fixture(autouse=True)
def subnormals():
    """Inductor of torch 2.4 links -ffast-math, by which the process flushes subnormals to zero."""
    yield
    torch.set_flush_denormal(False)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))


def trained(module, loss, wrap=PCGrad, steps=3):
    """Returns the parameters after steps on two tasks, the loss a function of an input and of the task."""
    optimizer = wrap(torch.optim.AdamW(module.parameters(), lr=0.02))
    for step in range(steps):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        optimizer.backward([partial(loss, x, 0), partial(loss, x, 1)])
        optimizer.step()
    return [p.detach() for p in module.parameters()]


def loss_of(forward):
    return lambda x, k: forward(x).sum() if k == 0 else -forward(x).square().sum()


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_training_a_compiled_module(name, backend):
    module = network()
    expected = trained(module, loss_of(module), WRAPPERS[name])
    module = network()
    same(trained(module, loss_of(torch.compile(module, backend=backend)), WRAPPERS[name]), expected)


def test_training_by_compiled_losses():
    module = network()
    expected = trained(module, loss_of(module))
    module = network()
    same(trained(module, torch.compile(loss_of(module), backend="aot_eager")), expected)


# Several heads in one compiled forward


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        h = self.trunk(x).tanh()
        return self.a(h), self.b(h)


def compiled(model):
    return torch.compile(model, backend="aot_eager")


def checkpointed(model):
    return lambda x: checkpoint(model, x, use_reentrant=True)


def surgery(model, forward, *, as_losses, **options):
    """Returns the conflict report of one backward on two heads."""
    x = torch.linspace(-1, 1, 10).view(5, 2).requires_grad_()
    optimizer = PCGrad(torch.optim.SGD(model.parameters(), lr=0.1), **options)
    tasks = {
        "a": lambda: (forward(x)[0] - 1).square().mean(),
        "b": lambda: (forward(x)[1] + 1).square().mean(),
    }
    if as_losses:
        outputs = forward(x)
        tasks = {"a": (outputs[0] - 1).square().mean(), "b": (outputs[1] + 1).square().mean()}
    optimizer.backward(tasks)
    return optimizer.conflicts


@pytest.mark.parametrize("as_losses", [True, False])
@pytest.mark.parametrize("wrap", [compiled, checkpointed])
def test_heads_in_one_compiled_forward_are_warned_of_and_the_trunk_as_scope_is_the_remedy(wrap, as_losses):
    """A head that a loss does not use has zeros for its gradient there, and not None."""
    model = TwoHeads()
    expected = surgery(model, model, as_losses=as_losses)
    with pytest.warns(
        UserWarning, match="'a' and 'b' use different outputs of a .*: pass scope=trunk.parameters"
    ):
        found = surgery(model, wrap(model), as_losses=as_losses)
    assert not torch.allclose(found.norms, expected.norms)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = surgery(model, wrap(model), as_losses=as_losses, scope=model.trunk.parameters)
    torch.testing.assert_close(found.norms, expected.norms)
    torch.testing.assert_close(found.weights, expected.weights)


def test_a_compiled_trunk_below_heads_and_outputs_that_all_use_alike_are_not_warned_of():
    model = TwoHeads()
    trunk = compiled(lambda x: (model.trunk(x).tanh(), model.trunk(x).mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery(
            model,
            lambda x: (model.a(trunk(x)[0]), model.b(trunk(x)[0]) + model.b(trunk(-x)[0])),
            as_losses=False,
        )
        surgery(model, lambda x: (model.a(h := trunk(x)[0]), model.b(h)), as_losses=True)


def test_zeros_that_come_from_elsewhere_are_not_laid_at_the_compilers_door():
    model = TwoHeads()
    one, two = compiled(model.trunk), compiled(lambda x: (model.trunk(x), model.trunk(x).tanh()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery(
            model,
            lambda x: (model.a(sum(two(x))) + 0 * model.b(one(x)), model.b(one(x))),
            as_losses=False,
        )


def test_a_head_outside_that_begins_at_zero_is_not_warned_of():
    model = TwoHeads()
    nn.init.zeros_(model.b.weight)
    trunk = compiled(lambda x: (model.trunk(x).tanh(), model.trunk(x).square()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery(model, lambda x: (model.a((h := trunk(x))[0]), model.b(h[1])), as_losses=True)


def test_a_feature_beside_a_head_in_one_compiled_forward_is_warned_of():
    model = TwoHeads()
    forward = compiled(lambda x: ((h := model.trunk(x).tanh()), model.a(h)))
    with pytest.warns(UserWarning, match="different outputs of a compiled forward.* 2 parameters take part"):
        surgery(model, lambda x: ((out := forward(x))[1], model.b(out[0])), as_losses=True)


def test_compiled_losses_of_what_is_all_shared_are_not_warned_of():
    model = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for as_losses in (True, False):
            surgery(
                model, compiled(lambda x: (model(x)[:, :1], model(x)[:, 1:].exp() - x)), as_losses=as_losses
            )


def test_the_graphs_are_looked_at_in_the_first_step_of_several_tasks():
    model = TwoHeads()
    forward, x = compiled(model), torch.ones(5, 2)
    optimizer = PCGrad(torch.optim.SGD(model.parameters(), lr=0.1))

    def loss(output):
        return forward(x)[output].sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.backward({"a": partial(loss, 0)})
    with pytest.warns(UserWarning, match="different outputs"):
        optimizer.backward({"a": partial(loss, 0), "b": partial(loss, 1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.backward({"a": partial(loss, 0), "b": partial(loss, 1)})
