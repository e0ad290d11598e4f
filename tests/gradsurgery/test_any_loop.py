"""Whatever a training loop does around one task, the wrapper does what the bare optimizer does, bitwise."""

import copy
import functools
import pickle

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn, optim

from gradsurgery import GSE, PCGrad
from tests.gradsurgery.loops import bit_equal, result
from tests.gradsurgery.reference import algorithm1
from tests.versions import adagrad_takes_a_group_later

INNER = {
    "sgd": functools.partial(optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": functools.partial(optim.AdamW, lr=0.02),
    "adagrad": functools.partial(optim.Adagrad, lr=0.05),
}
WRAPPERS = {
    "pcgrad": PCGrad,
    "every parameter": lambda inner: PCGrad(inner, scope="all", granularity="group"),
    "gse": GSE,
}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)])

    def loss(self, step):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        first, second, last = self.layers
        return last(torch.tanh(second(torch.tanh(first(x))))).square().mean()


class Loop:
    """A loop around a wrapper, or around the bare optimizer with the same made by hand."""

    def __init__(self, inner, kind, *, wrapped):
        self.make, self.kind, self.wrapped = INNER[inner], kind, wrapped
        self.model = Model()
        first, _, last = self.model.layers
        self.optimizer = self.new([{"params": [*layer.parameters()]} for layer in (first, last)])
        self.now = 0

    def new(self, groups):
        inner = self.make(groups)
        return WRAPPERS[self.kind](inner) if self.wrapped else inner

    def backward(self, steps):
        for step in steps:

            def loss(step=step):
                return self.model.loss(step) / len(steps)

            if self.wrapped:
                self.optimizer.backward({"task": loss}, accumulate=step != steps[-1])
            else:
                loss().backward()

    def second_update(self, steps):
        if self.kind == "gse" and not self.wrapped:
            self.optimizer.zero_grad()  # not the model's: others keep what both evaluations give them
            self.backward(steps)
            self.optimizer.step()

    def do(self, action):
        self.now += 1
        getattr(self, f"do_{action}")()
        return self

    def step(self, parts=1, between=lambda: None):
        steps = range(10 * self.now, 10 * self.now + parts)
        self.backward(steps)
        between()
        self.optimizer.step()
        self.second_update(steps)

    def do_step(self):
        self.optimizer.zero_grad()
        self.step()

    def do_step_on_zeros(self):
        self.optimizer.zero_grad(set_to_none=False)
        self.step()

    def do_step_on_what_is_there(self):
        self.step()

    def do_micro_batches(self):
        self.optimizer.zero_grad()
        self.step(parts=3)

    def do_step_by_a_closure(self):
        steps = [10 * self.now]

        def closure():
            self.optimizer.zero_grad()
            self.backward(steps)
            return self.now

        assert self.optimizer.step(closure) == self.now
        self.second_update(steps)

    def do_clip(self):
        self.model.zero_grad()
        self.step(between=lambda: nn.utils.clip_grad_norm_(self.model.parameters(), 0.01))

    def do_give_up(self):
        self.backward([10 * self.now])
        self.model.zero_grad()

    def do_freeze(self):
        self.model.layers[0].requires_grad_(False)

    def do_unfreeze(self):
        self.model.layers.requires_grad_(True)

    def do_freeze_before_the_step(self):
        self.step(between=self.do_freeze)

    def do_unfreeze_before_the_step(self):
        self.step(between=self.do_unfreeze)

    def do_add_a_group(self):
        middle = [*self.model.layers[1].parameters()]
        if len(self.optimizer.param_groups) == 2:
            self.optimizer.add_param_group({"params": middle, "lr": 0.03})

    def do_change_the_rate(self):
        self.optimizer.param_groups[-1]["lr"] *= 0.5

    def do_copy(self):
        self.model, self.optimizer = copy.deepcopy((self.model, self.optimizer))

    def do_pickle(self):
        self.model, self.optimizer = pickle.loads(pickle.dumps((self.model, self.optimizer)))

    def do_resume(self):
        state = copy.deepcopy(self.optimizer.state_dict())
        self.optimizer = self.new([{"params": group["params"]} for group in self.optimizer.param_groups])
        self.optimizer.load_state_dict(state)


ACTIONS = sorted(name.removeprefix("do_") for name in vars(Loop) if name.startswith("do_"))
ADAGRAD_GROWS = adagrad_takes_a_group_later()


@given(
    actions=st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=12),
    inner=st.sampled_from(sorted(INNER)),
    kind=st.sampled_from(sorted(WRAPPERS)),
)
def test_any_loop_of_one_task_is_that_of_the_bare_optimizer(actions, inner, kind):
    assume(ADAGRAD_GROWS or inner != "adagrad" or "add_a_group" not in actions)
    wrapped, bare = (Loop(inner, kind, wrapped=wrapped) for wrapped in (True, False))
    for action in [*actions, "step"]:
        wrapped.do(action)
        bare.do(action)
        assert bit_equal(result(wrapped.model, wrapped.optimizer), result(bare.model, bare.optimizer))
        for p, q in zip(wrapped.model.parameters(), bare.model.parameters(), strict=True):
            assert p.grad is q.grad is None or bit_equal([p.grad], [q.grad])


def test_tied_weights_are_one_parameter():
    torch.manual_seed(0)
    embedding, head = nn.Embedding(6, 3).double(), nn.Linear(3, 6, bias=False)
    head.weight = embedding.weight
    words = torch.tensor([1, 4])
    losses = {
        "next": lambda: nn.functional.cross_entropy(head(embedding(words)), words + 1),
        "not last": lambda: -nn.functional.cross_entropy(head(embedding(words)), words - 1),
    }
    rows = [torch.autograd.grad(loss(), embedding.weight)[0].flatten() for loss in losses.values()]
    assert torch.dot(*rows) < 0
    model = nn.ModuleList([embedding, head])
    optimizer = PCGrad(optim.SGD(model.parameters(), lr=0.1))
    assert len(optimizer.param_groups[0]["params"]) == 1
    optimizer.backward(losses)
    torch.testing.assert_close(embedding.weight.grad.flatten(), algorithm1(rows, [[1], [0]]))
