"""A forward that is called again: buffers as they were, and gradients as if nothing had been put back."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from smartreg import SMART, symmetric_kl
from smartreg.forward import Forward


class Counter(nn.Module):
    """Replaces one buffer at each call, and writes to another that its output's gradient needs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("absent", None)

    def forward(self, x):
        self.calls = self.calls + 1
        self.scale.mul_(2)
        return x * self.scale

    def method(self, x):
        return self.forward(x)


def state(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


CALLS = {
    "a module": lambda model: model,
    "a function of it": lambda model: lambda x: model(1 * x),
    "a function of its parts": lambda model: lambda x: model[2](model[1](model[0](x))),
    "a partial": partial,
    "a function of a copy": lambda model: partial(lambda a, x: a(x), model),
}


@pytest.mark.parametrize("call", CALLS)
def test_buffers_are_as_they_were_and_each_call_begins_with_them(call):
    model = nn.Sequential(nn.BatchNorm1d(3), Counter(), nn.BatchNorm1d(3))
    before, x = state(model), torch.randn(5, 3)
    buffers = list(model.buffers())
    forward = Forward(CALLS[call](model))
    first, second = forward.again(x), forward.again(x)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    assert all(a is b for a, b in zip(model.buffers(), buffers, strict=True))
    torch.testing.assert_close(forward(x), first, rtol=0, atol=0)
    moved = state(model)
    assert moved["1.calls"] == 1
    assert moved["1.scale"].eq(2).all()
    torch.testing.assert_close(forward.again(x), first, rtol=0, atol=0)
    torch.testing.assert_close(state(model), moved, rtol=0, atol=0)


class Grown(nn.Module):
    """Makes its buffer anew for a longer input, and remembers for which length, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.length = 0
        self.register_buffer("table", torch.zeros(0))

    def forward(self, x):
        if x.shape[1] > self.length:
            self.length = x.shape[1]
            self.table = torch.arange(1.0, 1.0 + self.length)
            self.made = True
        return x * self.table[: x.shape[1]]


@pytest.mark.parametrize("call", ["a module", "a function of it", "a function of its parts"])
def test_attributes_beside_buffers_are_as_they_were_too(call):
    model, x = nn.Sequential(Grown(), nn.Identity(), Grown()), torch.randn(5, 3)
    forward = Forward(CALLS[call](model))
    attributes = dict(vars(model[0]))
    first = forward.again(x)
    assert vars(model[0]) == attributes
    assert model[0].table.numel() == 0
    torch.testing.assert_close(forward(x), first, rtol=0, atol=0)
    assert model[0].length == 3
    assert model[0].made
    torch.testing.assert_close(forward.again(x), first, rtol=0, atol=0)
    assert model[0].length == 3
    torch.testing.assert_close(model(x), first, rtol=0, atol=0)


class Numbered(Counter):
    """Counts its calls in an attribute."""

    number = 0

    def forward(self, x):
        self.number += 1
        return super().forward(x) * self.number


def test_a_module_that_is_called_twice_goes_on_with_its_attributes():
    model, x = Numbered(), torch.randn(5, 3)
    forward = Forward(lambda x: model(x) + model(x) - model(x).cos())
    first = forward.again(x)
    torch.testing.assert_close(forward(x), first, rtol=0, atol=0)
    torch.testing.assert_close(forward.again(x), first, rtol=0, atol=0)


class Router(nn.Module):
    """Leaves a loss of its own in an attribute, as mixtures of experts do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bias", torch.zeros(3))
        self.loss = None

    def forward(self, x):
        self.loss = x.square().sum()
        return x + self.bias


def test_what_modules_leave_in_attributes_can_be_read_in_the_function():
    model, x = Router(), torch.randn(5, 3)
    forward = Forward(lambda x: (model(x), model.loss))
    _, first = forward(x)
    _, second = forward.again(2 * x)
    torch.testing.assert_close(second, 4 * first)
    assert model.loss is first


class Clones(TorchDispatchMode):
    """Counts the copies of tensors of a number of elements."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.found = elements, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found += function is torch.ops.aten.clone.default and args[0].numel() == self.elements
        return function(*args, **(kwargs or {}))


class Frozen(nn.Module):
    """Has a weight that is a buffer, as quantized layers do."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("weight", torch.eye(size))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize("call", ["a module", "a function of it"])
def test_a_large_buffer_that_stays_is_copied_once(call):
    model, x = Frozen(513), torch.randn(2, 513)
    for begin in ("again", "__call__"):
        forward = Forward(CALLS[call](model))
        with Clones(513**2) as clones:
            found = [getattr(forward, begin)(x), *(forward.again(x) for _ in range(3))]
            with forward.lent():
                found.append(model(x))
        assert clones.found == 1
        assert all(torch.equal(y, x) for y in found)


class Moving(Frozen):
    """Moves its weight in its first call alone, where autograd sees it or not, or by another in its place."""

    def __init__(self, size, how):
        super().__init__(size)
        self.how = how

    def forward(self, x, *, moves=True):
        if moves and self.how == "in place":
            self.weight.mul_(2)
        elif moves and self.how == "unseen":
            self.weight.data.mul_(2)
        elif moves:
            self.weight = 2 * self.weight
        return x @ self.weight


@pytest.mark.parametrize("how", ["in place", "unseen", "replaced"])
@pytest.mark.parametrize("size", [3, 513])
def test_a_buffer_that_moves_does_so_once_however_large_it_is_and_however_it_moves(size, how):
    x = torch.randn(2, size)
    functions = {
        "a module": lambda model: model,
        "a function": lambda model: lambda x: model(1 * x),
        "then it stays": lambda model: lambda x: model(x) + model(x, moves=False),
        "another has it too": lambda model: nn.Sequential(model, tied(Moving(size, how), model)),
    }
    for make in functions.values():
        model = Moving(size, how)
        function = make(model)
        forward = Forward(function)
        first = forward.again(x)
        assert torch.equal(model.weight, torch.eye(size))
        found = [first, forward(x), *(forward.again(x) for _ in range(2))]
        assert all(torch.equal(y, found[0]) for y in found)
        expected = make(Moving(size, how))
        expected(x)
        moved = expected[0].weight if isinstance(expected, nn.Sequential) else None
        assert torch.equal(model.weight, 2 * torch.eye(size) if moved is None else moved)


def tied(module, other):
    module.weight = other.weight
    return module


class Cast(Frozen):
    """Keeps its weight in the type of its input from the first call on, which gives another result."""

    def forward(self, x):
        factor = 1 if self.weight.dtype == torch.float32 else 2
        self.weight = self.weight.to(x.dtype)
        return factor * super().forward(x)


def test_a_large_buffer_of_another_type_in_its_place_is_taken():
    model, x = Cast(513), torch.randn(2, 513).double()
    forward = Forward(model)
    assert torch.equal(forward.again(x), x)
    assert model.weight.dtype == torch.float32
    assert torch.equal(forward(x), x)
    assert model.weight.dtype == torch.float64
    assert torch.equal(forward.again(x), x)


def test_a_sparse_buffer_is_taken():
    model, x = nn.Linear(3, 3), torch.randn(4, 3)
    model.register_buffer("adjacency", torch.eye(4).to_sparse())
    forward = Forward(lambda x: model(model.adjacency @ x))
    torch.testing.assert_close(forward.again(x), model(x))
    torch.testing.assert_close(forward(x), model(x))
    torch.testing.assert_close(forward.again(x), model(x))


def test_a_buffer_that_nobody_wrote_to_is_not_written_to():
    """One of several elements in one place cannot be, and others would look changed to autograd."""
    model, x = nn.Linear(3, 3), torch.randn(5, 3)
    model.register_buffer("prior", torch.zeros(1, 1).expand(1, 3))
    forward = Forward(lambda x: model(x) + model.prior)
    torch.testing.assert_close(forward.again(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("size", [3, 2**19])
def test_functions_of_transforms(size):
    models, x = [nn.BatchNorm1d(size).eval() for _ in range(2)], torch.randn(5, size)
    parameters, buffers = torch.func.stack_module_state(models)
    one = partial(torch.func.functional_call, models[0])
    forward = Forward(
        lambda x: torch.func.vmap(lambda p, b, x: one((p, b), x), in_dims=(0, 0, None))(
            parameters, buffers, x
        )
    )
    expected = torch.stack([model(x) for model in models])
    for call in (forward.again, forward, forward.again):
        torch.testing.assert_close(call(x), expected)
    gradient = Forward(torch.func.vmap(torch.func.grad(lambda x: models[0](x[None]).sum())))
    torch.testing.assert_close(gradient.again(x), gradient(x), rtol=0, atol=0)


def test_they_are_after_an_error_too():
    model = Counter()
    for function in (model, lambda x: model(1 * x), model.method):
        with pytest.raises(RuntimeError, match="size"):
            Forward(function).again(torch.ones(4))
        assert model.calls == 0
        assert torch.equal(model.scale, torch.ones(3))


def test_a_bound_methods_module_is_known():
    model = Counter()
    Forward(model.method).again(torch.ones(3))
    assert model.calls == 0
    assert torch.equal(model.scale, torch.ones(3))


def test_buffers_that_are_passed_in_stay_outside_of_the_module():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    own, passed = model[1].running_mean, {name: buffer.clone() for name, buffer in model.named_buffers()}
    kept = {name: (buffer, buffer.clone()) for name, buffer in passed.items()}
    forward = Forward(lambda x: torch.func.functional_call(model, passed, (x,)))
    forward.again(torch.randn(5, 3))
    assert model[1].running_mean is own
    assert torch.equal(own, torch.zeros(3))
    for name, (buffer, value) in kept.items():
        assert passed[name] is buffer
        assert torch.equal(buffer, value)


@pytest.mark.parametrize("call", ["a module", "a function of it"])
def test_the_gradient_is_of_what_the_forward_wrote(call):
    model = nn.Sequential(nn.Linear(3, 3), Counter(), nn.Tanh(), Counter()).double()
    twin, x = copy.deepcopy(model), torch.randn(5, 3, dtype=torch.float64)
    forward = Forward(CALLS[call](model))
    outputs = [forward(x), forward.again(x)]
    expected = torch.autograd.grad(twin(x).square().sum(), list(twin.parameters()))
    for output in reversed(outputs):
        found = torch.autograd.grad(output.square().sum(), list(model.parameters()))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Normalised(nn.Module):
    """Divides by a running mean square that it moves before it uses it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("mean_square", torch.ones(4))

    def forward(self, x):
        hidden = self.first(x)
        self.mean_square.mul_(0.5).add_(0.5 * hidden.detach().square().mean(0))
        return self.last(hidden / self.mean_square)


@pytest.mark.parametrize("detach_clean", [False, True])
@pytest.mark.parametrize("way", ["penalize", "backward"])
def test_a_penalty_compares_outputs_that_began_with_the_same_buffers(way, detach_clean):
    torch.manual_seed(0)
    model, x, seen = Normalised().double(), torch.randn(8, 4, dtype=torch.float64), []
    own = copy.deepcopy(model)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    smart = SMART(epsilon=0.3, step_size=1.0, noise_std=0.3, detach_clean=detach_clean)
    if way == "penalize":
        smart.penalize(model, x)[1].backward()
    else:
        smart.backward(model, x, lambda outputs: 0 * outputs.sum(), weight=1.0)
    perturbed = [at for at in seen if not torch.equal(at, x)][-1]

    def at(point):
        buffers = {"mean_square": own.mean_square.clone()}
        return torch.func.functional_call(own, {**dict(own.named_parameters()), **buffers}, (point,))

    clean = at(x)
    symmetric_kl(at(perturbed), clean.detach() if detach_clean else clean).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in own.parameters()])
    at(x)
    assert not torch.equal(model.mean_square, own.mean_square)


class Momentum(nn.Module):
    """Divides by a running mean square that it replaces before it uses it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mean_square", torch.ones(4))

    def forward(self, x):
        hidden = self.linear(x)
        self.mean_square = self.mean_square * 0.5 + 0.5 * hidden.detach().square().mean(0)
        return hidden / self.mean_square


def same_again(function, x):
    """Whether a function gives, called again, what it gave before, and before that."""
    forward = Forward(function)
    before = forward.again(x)
    torch.testing.assert_close(forward(x), before, rtol=0, atol=0)
    for _ in range(2):
        torch.testing.assert_close(forward.again(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("module", [Momentum, Normalised])
def test_a_module_that_is_called_twice_goes_on_from_its_first_call(module):
    model = module().double()
    calls = nn.ModuleList([model])
    same_again(lambda x: model(x[:4]) - model(3 * x[4:]), torch.randn(8, 4, dtype=torch.float64))
    same_again(lambda x: calls[0](x[:4]) - calls[0](3 * x[4:]), torch.randn(8, 4, dtype=torch.float64))


def test_two_sets_of_buffers_for_one_module_stay_apart():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    sets = [
        {"1.running_mean": mean * torch.ones(4), "1.running_var": (1 + mean) * torch.ones(4)}
        for mean in (0.0, 3.0)
    ]
    same_again(
        lambda x: sum(k * torch.func.functional_call(model, s, (x,)) for k, s in enumerate(sets, 1)),
        torch.randn(5, 4),
    )


def test_a_buffer_of_two_names_stays_one():
    class Doubles(nn.Module):
        def __init__(self, buffer, doubles):
            super().__init__()
            self.register_buffer("shared", buffer)
            self.doubles = doubles

        def forward(self, x):
            return x * self.shared.mul_(2) if self.doubles else x * self.shared

    buffer = torch.ones(4)
    model = nn.Sequential(Doubles(buffer, True), Doubles(buffer, False))
    same_again(model, torch.randn(5, 4))
    assert model[0].shared is model[1].shared is buffer
    assert torch.equal(buffer, torch.full((4,), 2.0))


def test_a_buffer_keeps_its_graph():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(4))

        def forward(self, x):
            return x * self.scale

    scale, x = torch.full((4,), 2.0, requires_grad=True), torch.randn(5, 4)
    model, found = Scaled(), []
    for function in (
        lambda x: torch.func.functional_call(model, {"scale": scale}, (x,)),
        lambda x: x * scale,
    ):
        torch.manual_seed(1)
        penalty = SMART(epsilon=0.1, step_size=0.1, noise_std=0.1).penalize(function, x)[1]
        found.append(torch.autograd.grad(penalty, scale)[0])
    torch.testing.assert_close(*found)


def test_a_checkpoint_that_is_computed_anew_moves_no_buffers():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    model, x = Checkpointed(), torch.randn(8, 4)
    smart = SMART(epsilon=0.1, step_size=0.1, noise_std=0.1, num_steps=3)
    smart.diagnose(
        model, x, loss=lambda o: o.square().mean(), parameters=list(model.parameters()), weight=1.0, samples=1
    )
    assert model.inner[1].num_batches_tracked == 0
    smart.penalize(model, x)
    assert model.inner[1].num_batches_tracked == 1


@pytest.mark.parametrize("call", ["a module", "a function of it"])
def test_buffers_that_have_no_shape_yet_get_one(call):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.LazyBatchNorm1d())
    SMART(epsilon=0.1).penalize(CALLS[call](model), torch.randn(5, 4))
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("call", ["a module", "a function of it"])
def test_buffers_without_a_shape_are_refused_where_the_first_call_must_leave_no_trace(call):
    model, x = nn.Sequential(nn.BatchNorm1d(4), nn.LazyBatchNorm1d()), torch.randn(5, 4)
    smart, square = SMART(epsilon=0.1), lambda outputs: outputs.square().mean()
    with pytest.raises(
        ValueError, match=r"buffers, got a LazyBatchNorm1d .* call the model once before this"
    ):
        smart.backward(CALLS[call](model), x, square, weight=1.0)
    assert model[0].num_batches_tracked == 0
    model(x)
    smart.backward(CALLS[call](model), x, square, weight=1.0)
    assert model[0].num_batches_tracked == model[1].num_batches_tracked == 2
    assert model[1].num_features == 4
