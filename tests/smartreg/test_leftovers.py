"""What a call leaves behind: nothing, also when the forward raises."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.modules import module as registry

from smartreg import SMART, EmbeddingFunction

HOOKS = [name for name in vars(registry) if name.startswith("_global_") and name.endswith("_hooks")]


class Fragile(nn.Module):
    """Batch norm on both sides of a layer; once its running statistics have moved it may raise."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.before, self.after = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(4, 3)
        self.until = float("inf")

    def forward(self, x):
        hidden = self.after(torch.relu(self.before(self.conv(x))))
        self.until -= 1
        if self.until <= 0:
            raise ZeroDivisionError
        return self.head(self.drop(hidden).mean(-1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Fragile()
    model.before.eval()  # modes are mixed
    return model


@pytest.fixture
def x():
    return torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))


def loss(outputs):
    return outputs.square().mean()


CALLS = {
    "penalize": lambda smart, *call: smart.penalize(*call),
    "backward": lambda smart, *call: smart.backward(*call, loss, weight=1.0),
}


@pytest.mark.parametrize("way", ["module", "callable", "EmbeddingFunction"])
@pytest.mark.parametrize(
    ("name", "at", "moved"),
    # The clean forward's own statistics move, once, as they would without SMART.
    [
        ("penalize", 1, True),
        ("penalize", 2, True),
        ("penalize", 3, True),
        ("backward", 1, False),
        ("backward", 2, False),
        ("backward", 3, False),
        ("backward", 4, True),
        ("penalize", None, True),
        ("backward", None, True),
    ],
)
def test_a_forward_that_raises_leaves_the_model_as_it_was(model, x, name, at, moved, way):
    expected = copy.deepcopy(model)
    if moved:
        expected(x)
    modes = [part.training for part in model.modules()]
    forward, embeddings, function = model, x, None
    if way == "callable":
        forward = lambda embeddings: model(embeddings)  # noqa: E731, PLW0108
    if way == "EmbeddingFunction":
        function = EmbeddingFunction(model, model.conv)
        forward, embeddings = function.bind(x)
    hooks = [len(getattr(registry, hook)) for hook in HOOKS]
    if at is None:
        CALLS[name](SMART(), forward, embeddings)
    else:
        model.until = at
        with pytest.raises(ZeroDivisionError):
            CALLS[name](SMART(), forward, embeddings)
        model.until = float("inf")
        if at < 4:
            assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    assert [len(getattr(registry, hook)) for hook in HOOKS] == hooks
    assert [part.training for part in model.modules()] == modes
    torch.testing.assert_close(dict(model.named_buffers()), dict(expected.named_buffers()), rtol=0, atol=0)
    for each in (model, expected):
        torch.manual_seed(0)
        each.found = each(x)
    assert torch.equal(model.found, expected.found)
    if function is not None:
        function.remove()
        function.remove()
        assert not model.conv._forward_hooks


def test_binding_moves_neither_buffers_nor_the_random_state_when_the_model_raises(model, x):
    """Before it has called the embedding."""
    expected, state = copy.deepcopy(model), torch.get_rng_state()
    function = EmbeddingFunction(model, model.head)
    model.until = 1
    with pytest.raises(ZeroDivisionError):
        function.bind(x)
    model.until = float("inf")
    torch.testing.assert_close(dict(model.named_buffers()), dict(expected.named_buffers()), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    forward, hidden = function.bind(x)
    assert forward(hidden).shape == (4, 3)


def test_once_removed_it_keeps_no_model_alive(model, x):
    gc.disable()  # what is alive is then a matter of references alone
    try:
        function = EmbeddingFunction(model, model.conv)
        forward, embeddings = function.bind(x)
        SMART().penalize(forward, embeddings)
        alive = weakref.ref(function)
        function.remove()
        del function, forward
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("call", ["bind", "backward"])
def test_no_weight_is_cast_for_later_by_a_pass_without_a_graph(model, x, call, raises):
    """Torch 2.4 gives such a cast, which has no graph, to the next forward under the same autocast."""
    seen = []

    def note(module, args):
        seen.append((torch.is_grad_enabled(), torch.is_autocast_cache_enabled()))
        if raises:
            raise ZeroDivisionError

    model.conv.register_forward_pre_hook(note)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ZeroDivisionError) if raises else contextlib.nullcontext():
            if call == "bind":
                EmbeddingFunction(model, model.conv).bind(x)
            else:
                SMART(epsilon=0.1, step_size=0.1).backward(model, x, loss, weight=1.0)
        assert torch.is_autocast_cache_enabled()
    assert (False, False) in seen
    assert (False, True) not in seen
