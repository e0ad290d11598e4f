"""What a method remembers, by task and part: in checkpoints and copies, with tasks that come and go."""

import copy
import io
import pickle

import pytest
import torch

from gradsurgery import GSE, GradientSurgery, GradVac, NashMTL, PCGrad
from tests.gradsurgery.reference import Model, batches, sgd, tasks


class Remembers(GradientSurgery):
    """Weighs a task by how often this part of the parameters has met it, and by its last length there."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.met = {}

    def weights(self, gramian):
        for name, square in zip(self.tasks, gramian.diagonal(), strict=True):
            count, length = self.met.get((self.part, name), (0, torch.zeros(())))
            self.met[self.part, name] = (count + 1, 0.5 * length + square.sqrt())
        met = [self.met[self.part, name] for name in self.tasks]
        return torch.stack([count + length for count, length in met])

    def method_state(self):
        return {"met": [[*key, *value] for key, value in self.met.items()]}

    def load_method_state(self, state):
        self.met = {(part, name): (count, length) for part, name, count, length in state["met"]}


def some_tasks(model, step):
    """The tasks of a step: one is absent from each, and the others come in another order."""
    by_name = list(tasks(model, batches(seed=step)).items())
    del by_name[step % 3]
    return dict(by_name if step % 2 else by_name[::-1])


def steps(model, optimizer, numbers):
    for step in numbers:
        optimizer.zero_grad()
        optimizer.backward(some_tasks(model, step))
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("granularity", ["global", "parameter"])
@pytest.mark.parametrize("gse", [False, True])
@pytest.mark.parametrize("way", ["checkpoint", "deepcopy", "pickle"])
def test_what_a_method_remembers_goes_into_checkpoints_and_copies(granularity, gse, way):
    def build():
        torch.manual_seed(0)
        model = Model().double()
        method = Remembers(torch.optim.Adam(model.parameters(), lr=0.01), granularity=granularity)
        return model, GSE(method, second_update="reuse") if gse else method

    model, optimizer = build()
    whole = steps(model, optimizer, range(7))
    model, optimizer = build()
    steps(model, optimizer, range(4))
    if way == "checkpoint":
        buffer = io.BytesIO()
        torch.save([model.state_dict(), optimizer.state_dict()], buffer)
        buffer.seek(0)
        twin, resumed = build()
        states = torch.load(buffer, weights_only=True)
        twin.load_state_dict(states[0])
        resumed.load_state_dict(states[1])
    elif way == "deepcopy":
        twin, resumed = copy.deepcopy((model, optimizer))
    else:
        twin, resumed = pickle.loads(pickle.dumps((model, optimizer)))
    steps(model, optimizer, range(2))  # the original, which shares nothing with its copy
    assert all(map(torch.equal, steps(twin, resumed, range(4, 7)), whole))


@pytest.mark.parametrize(
    ("other", "method"), [(PCGrad, GradVac), (PCGrad, NashMTL), (NashMTL, GradVac), (GradVac, NashMTL)]
)
def test_a_checkpoint_of_another_method_leaves_nothing_to_remember(model, other, method):
    before = other(sgd(model))
    steps(model, before, range(2))
    optimizer = method(sgd(model))
    steps(model, optimizer, range(2))
    optimizer.load_state_dict(before.state_dict())
    fresh = method(sgd(model))
    fresh.generator.set_state(before.generator.get_state())
    for each in (optimizer, fresh):
        each.zero_grad()
        each.backward(some_tasks(model, 2))
    assert torch.equal(optimizer.conflicts.weights, fresh.conflicts.weights)


def test_a_checkpoint_shares_nothing_with_the_method_that_loads_it(model):
    optimizer = Remembers(sgd(model))
    steps(model, optimizer, range(2))
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    for entry in state["gradsurgery"]["method"]["met"]:
        entry[-1].zero_()
    assert all(length for _, length in optimizer.met.values())


def test_a_plain_checkpoint_leaves_what_a_method_remembers_and_an_early_one_clears_it(model):
    optimizer = Remembers(sgd(model))
    early = optimizer.state_dict()
    steps(model, optimizer, range(2))
    optimizer.load_state_dict(optimizer.optimizer.state_dict())
    assert optimizer.met
    optimizer.load_state_dict(early)
    assert not optimizer.met
