"""Every scheduler of torch.optim, and what averages weights, on the wrapper as on the bare optimizer."""

import copy
import warnings

import pytest
import torch
from torch.optim import AdamW, lr_scheduler, swa_utils

from gradsurgery import GSE, PCGrad
from tests.gradsurgery.loops import Network, bit_equal, result

STEPS = 24


def reduced_on_plateau(optimizer):
    return lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, threshold=0.5)


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 5, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 9], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 7),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=9),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 7, 1e-3),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.StepLR(o, 5, 0.5)], o
    ),
    "ReduceLROnPlateau": reduced_on_plateau,
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.1, 4, cycle_momentum=True),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 2),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 20, 2.0),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=5),
}
WRAPPERS = {
    "pcgrad": PCGrad,
    "recompute": GSE,
    "reuse": lambda inner: GSE(inner, second_update="reuse"),
}


class Loop:
    """A training loop as a trainer object holds it: a model, its optimizer and the optimizer's scheduler."""

    def __init__(self, name, wrap=None, *, of_inner=False):
        self.model = Network()
        inner = AdamW(
            [
                {"params": self.model.layers[0].parameters(), "lr": 0.01},
                {"params": self.model.layers[2].parameters()},
            ],
            lr=0.05,
        )
        self.optimizer = inner if wrap is None else wrap(inner)
        self.scheduler = SCHEDULERS[name](inner if of_inner else self.optimizer)
        self.rates = []

    def train(self, steps):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The epoch parameter")
            warnings.filterwarnings("error", "Detected call")  # of a scheduler before its optimizer
            for step in steps:
                self.step(step)
        return self

    def step(self, step):
        self.optimizer.zero_grad()
        if hasattr(self.optimizer, "backward"):
            (loss,) = self.optimizer.backward([lambda: self.model.loss(step)]).values()
        else:
            loss = self.model.loss(step).detach()
            self.model.loss(step).backward()
        self.optimizer.step()
        metrics = [loss] if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau) else []
        self.scheduler.step(*metrics)
        self.rates.append([(group["lr"], group["betas"]) for group in self.optimizer.param_groups])

    def result(self):
        return result(self.model, self.optimizer)


def test_every_scheduler_of_torch_is_in_the_table():
    assert set(lr_scheduler.__all__) - {"LRScheduler"} <= SCHEDULERS.keys()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_on_the_wrapper_is_one_on_the_bare_optimizer(name):
    expected, found = Loop(name).train(range(STEPS)), Loop(name, PCGrad).train(range(STEPS))
    assert found.rates == expected.rates
    assert len({tuple(rates) for rates in expected.rates}) > 1  # it does something
    assert bit_equal(found.result(), expected.result())


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_the_wrapper_is_one_of_the_inner_optimizer(name, kind):
    results = [Loop(name, WRAPPERS[kind], of_inner=inner).train(range(STEPS)) for inner in (False, True)]
    assert results[0].rates == results[1].rates
    assert bit_equal(results[0].result(), results[1].result())


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {"LambdaLR", "MultiplicativeLR"}))
def test_a_trainer_may_be_copied_and_its_parts_saved(name, kind):
    expected = Loop(name, WRAPPERS[kind]).train(range(STEPS)).result()
    half = Loop(name, WRAPPERS[kind]).train(range(STEPS // 2))
    twin = copy.deepcopy(half)
    assert twin.scheduler.optimizer is twin.optimizer
    if name != "ChainedScheduler":  # whose schedulers keep the state that they share with their optimizer
        again = Loop(name, WRAPPERS[kind])
        for attribute in ("model", "optimizer", "scheduler"):
            saved = copy.deepcopy(getattr(half, attribute).state_dict())  # else the two share their moments
            getattr(again, attribute).load_state_dict(saved)
        assert bit_equal(again.train(range(STEPS // 2, STEPS)).result(), expected)
    for loop in (half, twin):
        assert bit_equal(loop.train(range(STEPS // 2, STEPS)).result(), expected)


@pytest.mark.parametrize("average", [None, swa_utils.get_ema_multi_avg_fn(0.9)], ids=["swa", "ema"])
def test_averaged_models_follow_the_wrapper_as_the_bare_optimizer(average):
    averages = []
    for wrap in (None, PCGrad):
        loop = Loop("SWALR", wrap)
        averaged = swa_utils.AveragedModel(loop.model, multi_avg_fn=average)
        for step in range(STEPS):
            loop.train([step])
            averaged.update_parameters(loop.model)
        averages.append([p.detach() for p in averaged.parameters()])
    assert bit_equal(*averages)
    assert not bit_equal(averages[0], [p.detach() for p in loop.model.parameters()])


def test_an_average_updated_by_a_step_hook():
    loop = Loop("StepLR", GSE)
    averaged = swa_utils.AveragedModel(loop.model)
    places = []

    def note(*_):
        places.append([p.detach().clone() for p in loop.model.parameters()])
        averaged.update_parameters(loop.model)

    loop.optimizer.register_step_post_hook(note)
    loop.train(range(3))
    mean = [torch.stack(tensors).mean(0) for tensors in zip(*places, strict=True)]
    for p, expected in zip(averaged.module.parameters(), mean, strict=True):
        torch.testing.assert_close(p, expected)
