"""The wrapper is an Optimizer: hooks, copies and checkpoints take it for the inner one."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from gradsurgery import GSE, PCGrad


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def tasks(model, step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 4, generator=generator).double()
    targets = torch.randn(3, 6, 2, generator=generator).double()
    return {f"task{k}": lambda y=y: nn.functional.mse_loss(model(x), y) for k, y in enumerate(targets)}


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.05)


def train(model, optimizer, steps, scheduler=None):
    for step in steps:
        optimizer.zero_grad()
        optimizer.backward(tasks(model, step))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [p.detach().clone() for p in model.parameters()]


def equal(a, b):
    return all(map(torch.equal, a, b))


def saved_and_loaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


WRAPPERS = {"pcgrad": PCGrad, "gse": GSE, "gse around pcgrad": lambda inner: GSE(PCGrad(inner))}


@pytest.fixture(params=WRAPPERS)
def wrap(request):
    return WRAPPERS[request.param]


def test_groups_state_and_defaults_are_the_inner_optimizers(wrap):
    model = network()
    inner = adam(model)
    optimizer = wrap(inner)
    assert isinstance(optimizer, torch.optim.Optimizer)
    train(model, optimizer, range(1))
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults
    assert len(optimizer.state) == 4
    inner.load_state_dict(inner.state_dict())  # gives it new groups and states
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    groups = inner.param_groups[:]
    optimizer.param_groups = groups
    assert inner.param_groups is groups


def test_step_hooks_run_once_a_step_around_the_update(wrap):
    model = network()
    inner = adam(model)
    optimizer = wrap(inner)
    seen = []
    optimizer.register_step_pre_hook(
        lambda o, args, kwargs: seen.append(("pre", o, model[0].weight[0, 0].item()))
    )
    optimizer.register_step_post_hook(
        lambda o, args, kwargs: seen.append(("post", o, model[0].weight[0, 0].item()))
    )
    start = model[0].weight[0, 0].item()
    end = train(model, optimizer, range(1))[0][0, 0].item()
    assert seen == [("pre", optimizer, start), ("post", optimizer, end)]
    assert start != end


def test_step_hooks_of_the_inner_optimizer_run_once_an_update(wrap):
    model = network()
    inner = adam(model)
    seen = []
    inner.register_step_post_hook(lambda *_: seen.append(1))
    train(model, wrap(inner), range(3))
    assert len(seen) == (3 if wrap is PCGrad else 6)


def test_state_dict_hooks(wrap):
    model = network()
    optimizer = wrap(adam(model))
    seen = []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("pre"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "note": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, state: seen.append(state["note"]))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("post"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["pre", 1, "post"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_as_the_original_does(wrap, duplicate):
    model = network()
    optimizer = wrap(adam(model))
    scheduler = lr_scheduler.StepLR(optimizer, 1)  # puts a wrapper of its own over step()
    optimizer.register_step_post_hook(lambda *_: None)  # a lambda cannot be pickled
    train(model, optimizer, range(3), scheduler)
    model.zero_grad()
    if isinstance(optimizer, PCGrad):
        optimizer.backward(tasks(model, 50), accumulate=True)
    twin_model, twin = duplicate((model, optimizer))
    assert type(twin) is type(optimizer)
    for module, wrapper in ((model, optimizer), (twin_model, twin)):
        for step in (3, 4):
            wrapper.backward(tasks(module, step))
            wrapper.step()
            wrapper.zero_grad()
    assert equal(model.parameters(), twin_model.parameters())
    assert not any(a is b for a, b in zip(model.parameters(), twin_model.parameters(), strict=True))


def test_a_group_added_later_is_trained(wrap):
    model = network()
    inner = torch.optim.AdamW(model[0].parameters(), lr=0.05)
    optimizer = wrap(inner)
    train(model, optimizer, range(2))
    before = model[2].weight.detach().clone()
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.01})
    assert [group["lr"] for group in inner.param_groups] == [0.05, 0.01]
    train(model, optimizer, range(2))
    assert not torch.equal(model[2].weight, before)


def test_a_run_resumed_from_its_checkpoint_equals_one_that_was_not_interrupted(wrap):
    model = network()
    whole = train(model, wrap(adam(model)), range(8))

    model = network()
    optimizer = wrap(adam(model))
    train(model, optimizer, range(4))
    state = saved_and_loaded({"model": model.state_dict(), "optimizer": optimizer.state_dict()})

    model = network()
    optimizer = wrap(adam(model))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    assert equal(train(model, optimizer, range(4, 8)), whole)

    del state["optimizer"]["gradsurgery"]  # without the generator, the order is another
    model = network()
    optimizer = wrap(adam(model))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    assert not equal(train(model, optimizer, range(4, 8)), whole)


def test_a_checkpoint_in_the_middle_of_an_accumulation():
    model = network()
    optimizer = PCGrad(adam(model))
    optimizer.backward(tasks(model, 0), accumulate=True)
    state = saved_and_loaded(optimizer.state_dict())
    twin_model = network()
    twin = PCGrad(adam(twin_model))
    twin.load_state_dict(state)
    for module, wrapper in ((model, optimizer), (twin_model, twin)):
        wrapper.backward(tasks(module, 1))
        wrapper.step()
    assert equal(model.parameters(), twin_model.parameters())
    assert state["gradsurgery"]["rows"].keys() == {"task0", "task1", "task2"}
    assert "rows" not in optimizer.state_dict()["gradsurgery"]


def test_checkpoints_of_the_plain_optimizer_load_and_the_other_way_round(wrap):
    model = network()
    inner = adam(model)
    optimizer = wrap(inner)
    train(model, optimizer, range(2))
    plain = adam(model)
    plain.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    again = wrap(adam(model))
    again.load_state_dict(saved_and_loaded(plain.state_dict()))
    moments = [[state["exp_avg"] for state in o.state.values()] for o in (inner, plain, again)]
    assert equal(moments[0], moments[1])
    assert equal(moments[0], moments[2])


def test_a_closure_does_what_comes_before_the_step(wrap):
    model = network()
    expected = train(model, wrap(adam(model)), range(3))
    model = network()
    optimizer = wrap(adam(model))
    for step in range(3):

        def closure(step=step):
            optimizer.zero_grad()
            values = optimizer.backward(tasks(model, step))
            return sum(value.item() for value in values.values())

        loss = sum(task().item() for task in tasks(model, step).values())
        with torch.no_grad():  # as torch's optimizers do, the step enables gradients for the closure
            assert optimizer.step(closure=closure) == loss
    assert equal(model.parameters(), expected)


def test_an_optimizer_that_evaluates_closures_itself_is_refused(wrap):
    with pytest.raises(TypeError, match=r"optimizer must make its update from .*, got LBFGS, whose step\(\)"):
        wrap(torch.optim.LBFGS(network().parameters()))


def test_zero_grad_follows_set_to_none(wrap):
    model = network()
    optimizer = wrap(adam(model))
    optimizer.backward(tasks(model, 0))
    optimizer.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
