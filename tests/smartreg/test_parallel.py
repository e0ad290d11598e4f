"""SMART on ranks, each with a part of the batch: the result of one process, and one exchange of gradients."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from smartreg import SMART, EmbeddingFunction, squared_error, symmetric_kl
from smartreg.perturbation import Perturbation
from tests.versions import HAS_FULLY_SHARD, needs_fully_shard

if HAS_FULLY_SHARD:
    from torch.distributed.fsdp import fully_shard

STEPS, B, L, D, WORDS = 5, 8, 5, 6, 11
WEIGHT = 5.0
MODES = ("joint", "two phases", "two phases, detached", "lambda", "accumulated")
SHARDED = pytest.param("fsdp", MODES, marks=needs_fully_shard)


class Pairs(nn.Module):
    """Embeds two sentences with one table, and has two outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(WORDS, D)
        self.inner = nn.Linear(D, 8)
        self.kind, self.size = nn.Linear(8, 3), nn.Linear(8, 1)
        self.double()

    def forward(self, first, second):
        a, b = (torch.tanh(self.inner(self.table(words))).mean(1) for words in (first, second))
        return {"kind": self.kind(a * b), "size": self.size(a - b)}


def batch(step, rank, world):
    generator = torch.Generator().manual_seed(step)
    first, second = torch.randint(WORDS, (2, B, L), generator=generator)
    kind = torch.randint(3, (B,), generator=generator)
    mine = slice(rank * B // world, (rank + 1) * B // world)
    return first[mine], second[mine], kind[mine]


def task_loss(outputs, kind):
    return nn.functional.cross_entropy(outputs["kind"], kind) + outputs["size"].square().mean()


def train(model, module, mode, rank, world):
    """Trains for a few steps and returns the weights; a rank draws its part of the joined batch's noise."""

    def draw(self, inputs, noise, generator):
        mine = slice(rank * len(inputs.tensors[0]), (rank + 1) * len(inputs.tensors[0]))
        return [torch.randn(world * len(x), *x.shape[1:], dtype=x.dtype)[mine] for x in inputs.tensors]

    own, Perturbation._draw = Perturbation._draw, draw
    try:
        function = EmbeddingFunction(model, module.table, calls=2)
        smart = SMART(
            divergence={"kind": symmetric_kl, "size": squared_error},
            epsilon=0.1,
            step_size=0.05,
            noise_std=0.03,
            num_steps=2,
            detach_clean=mode == "two phases, detached",
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(STEPS):
            optimizer.zero_grad()
            torch.manual_seed(step)
            for part in (step, 100 + step) if mode == "accumulated" else (step,):
                set_sync(model, mode != "accumulated" or part != step)
                *words, kind = batch(part, rank, world)
                forward, embeddings = function.bind(*words)
                if mode == "joint":
                    outputs, penalty = smart.penalize(forward, embeddings)
                    (task_loss(outputs, kind) + WEIGHT * penalty).backward()
                    continue
                called = (lambda x, forward=forward: forward(x)) if mode == "lambda" else forward
                smart.backward(called, embeddings, lambda o, kind=kind: task_loss(o, kind), weight=WEIGHT)
            optimizer.step()
    finally:
        Perturbation._draw = own
        function.remove()
    return [getattr(p, "full_tensor", lambda p=p: p)().detach() for p in module.parameters()]


def set_sync(model, flag):
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = flag
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(flag)


def plain_step(model, rank, world, *, parts):
    """Back-propagates as many micro-batches, of which the last exchanges gradients."""
    for part in range(parts):
        set_sync(model, part == parts - 1)
        *words, kind = batch(part, rank, world)
        task_loss(model(*words), kind).backward()
    model.zero_grad()


class Counted(TorchDispatchMode):
    """Counts the messages that carry gradients: those of a reducer, and those that scatter their sums."""

    def __init__(self, model):
        super().__init__()
        self.messages = 0
        if isinstance(model, DistributedDataParallel):
            model.register_comm_hook(None, self.reduce)

    def reduce(self, group, bucket):
        self.messages += 1
        return allreduce_hook(group, bucket)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.messages += "reduce_scatter" in str(func)
        return func(*args, **(kwargs or {}))


def parallel(module, kind):
    if kind != "fsdp":
        return DistributedDataParallel(module, find_unused_parameters=kind == "ddp, unused looked for")
    for part in (module.table, module.inner):
        fully_shard(part)
    return fully_shard(module)


def on_ranks(rank, world, kind, modes):
    """Returns by mode the trained weights, and the messages of all steps and of a step without SMART."""
    results = {}
    for mode in modes:
        module = Pairs()
        model = parallel(module, kind)
        with Counted(model) as counted:
            # Two phases are two backwards; a module of fully_shard that a forward calls twice sends
            # what it holds of the first by itself.
            plain_step(model, rank, world, parts=1 if mode == "joint" else 2)
            plain, counted.messages = counted.messages, 0
            weights = train(model, module, mode, rank, world)
        results[mode] = (weights, counted.messages, plain)
    return results


def alone(mode):
    module = Pairs()
    return train(module, module, mode, 0, 1)


@pytest.mark.parametrize(
    ("kind", "modes"),
    [("ddp", MODES), ("ddp, unused looked for", ("joint", "two phases")), SHARDED],
)
def test_ranks_get_what_one_process_gets_and_exchange_gradients_once_a_step(ranks, kind, modes):
    for result in ranks.run(on_ranks, 2, kind, modes, seconds=200):
        for mode, (weights, messages, plain) in result.items():
            for mine, right in zip(weights, alone(mode), strict=True):
                torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)
            assert messages == STEPS * plain > 0, mode


class Centred(nn.Module):
    """A forward that moves a buffer and uses it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.outer = nn.Linear(6, 3).double()
        self.register_buffer("centre", torch.zeros(6).double())

    def forward(self, x):
        self.centre.mul_(0.5).add_(0.5 * x.detach().mean((0, 1)))
        return self.outer((x - self.centre).mean(1))


def centres(rank, world):
    """Returns by way the buffer after three steps, and what it ought to be by the first rank's."""
    found = []
    for way in ("plain", "two phases", "joint"):
        model = DistributedDataParallel(Centred())
        for step in range(3):
            torch.manual_seed(10 * step + rank)
            x = torch.randn(4, 5, 6).double()
            if way == "plain":
                model(x).square().sum().backward()
            elif way == "two phases":
                SMART().backward(model, x, lambda outputs: outputs.square().sum(), weight=1.0)
            else:
                outputs, penalty = SMART().penalize(model, x)
                (outputs.square().sum() + penalty).backward()
        found.append(model.module.centre.clone())
    return found


def test_buffers_are_broadcast_before_the_forward_that_moves_them(ranks):
    for plain, two_phases, joint in ranks.run(centres, 2):
        assert torch.equal(two_phases, plain)
        assert torch.equal(joint, plain)


def test_the_penalty_counts():
    """Without which the equalities above would say little."""
    weights = {mode: alone(mode) for mode in MODES}
    plain = Pairs()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        *words, kind = batch(step, 0, 1)
        task_loss(plain(*words), kind).backward()
        optimizer.step()
    for others in (list(plain.parameters()), weights["two phases, detached"], weights["accumulated"]):
        assert not torch.allclose(weights["joint"][1], others[1], rtol=1e-4)
    assert torch.allclose(weights["joint"][1], weights["two phases"][1], rtol=1e-10)


class OneHeadAtATime(nn.Module):
    """Whose forward leaves parameters out, as that of one task among several does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(WORDS, D)
        self.heads = nn.ModuleList([nn.Linear(D, 3), nn.Linear(D, 3)])

    def forward(self, words, k):
        return self.heads[k](self.table(words).mean(1))


def measured(rank, world, call):
    """Accumulates, in no_sync(), what one head and then the other back-propagates, after a measurement."""
    module = OneHeadAtATime()
    model = DistributedDataParallel(module)
    words, _, kind = batch(0, rank, world)

    def loss(outputs):
        return nn.functional.cross_entropy(outputs, kind)

    function = EmbeddingFunction(model, module.table)
    forward, embeddings = function.bind(words, 0)
    options = {"loss": loss, "parameters": list(module.parameters()), "weight": WEIGHT}
    getattr(SMART(epsilon=0.1, step_size=0.05, noise_std=0.03), call)(forward, embeddings, **options)
    with model.no_sync():
        for k in (0, 1):
            loss(model(words, k)).backward()
    return [p.grad for p in module.parameters()]


def measured_in_shards(rank, world):
    """Returns the error for gradients of shards, and what can be measured without them."""
    module = OneHeadAtATime()
    fully_shard(module.heads[0])
    fully_shard(module)
    forward, embeddings = EmbeddingFunction(module, module.table).bind(batch(0, rank, world)[0], 0)
    smart = SMART(epsilon=0.1, step_size=0.05, noise_std=0.03)
    options = {"loss": torch.sum, "parameters": module.parameters()}
    try:
        smart.diagnose(forward, embeddings, **options)
    except ValueError as error:
        return str(error), smart.diagnose(forward, embeddings).adversarial


@needs_fully_shard
def test_gradients_of_shards_are_not_compared_but_the_terms_are(ranks):
    for error, adversarial in ranks.run(measured_in_shards, 2):
        assert error.startswith("parameters must be whole, got a DTensor")
        assert adversarial > 0


@pytest.mark.parametrize("call", ["diagnose", "sweep"])
def test_a_measurement_leaves_the_reducer_alone(ranks, call):
    for rank, found in enumerate(ranks.run(measured, 2, call)):
        module = OneHeadAtATime()
        words, _, kind = batch(0, rank, 2)
        for k in (0, 1):
            nn.functional.cross_entropy(module(words, k), kind).backward()
        for mine, right in zip(found, module.parameters(), strict=True):
            torch.testing.assert_close(mine, right.grad)
