"""diagnose: its intervals hold the truth as often as they say, and it says no where the answer is no."""

import math
from itertools import count

import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradsurgery import diagnose
from gradsurgery.intervals import t_quantile


def problem(cosine, *, noise, seed, width=16, length=3.0):
    """Two tasks whose gradients are vectors with this cosine, plus noise anew at each call."""
    generator = torch.Generator().manual_seed(seed)
    x = nn.Parameter(torch.zeros(width, dtype=torch.float64))
    a = torch.zeros(width, dtype=torch.float64)
    b = a.clone()
    a[0], b[0], b[1] = length, cosine, math.sqrt(1 - cosine**2)

    def task(gradient):
        drawn = torch.randn(width, generator=generator, dtype=torch.float64)
        return x @ (gradient + noise * drawn)

    return {"a": lambda: task(a), "b": lambda: task(b)}, x


@pytest.mark.parametrize("cosine", [-0.6, 0.0, 0.5])
def test_the_intervals_hold_the_truth_as_often_as_they_say(cosine):
    found = []
    for seed in range(120):
        losses, x = problem(cosine, noise=0.3, seed=seed)
        interval = diagnose(losses, [x], samples=12, level=0.9).pairs["a", "b"].cosine
        found.append(interval.low <= cosine <= interval.high)
    # 0.9 ± 4 standard errors of 120 draws: a factor of two in the width would show.
    assert abs(sum(found) / len(found) - 0.9) < 0.11


def checkpointed(use_reentrant):
    """Two tasks that conflict below a checkpoint, and agree above it."""
    below, above = (nn.Linear(1, 1, bias=False) for _ in "ab")
    for layer in (below, above):
        nn.init.ones_(layer.weight)

    def loss(sign):
        x = (1 + 0.1 * torch.randn(8, 1)).requires_grad_()
        hidden = checkpoint(below, x, use_reentrant=use_reentrant)
        return (sign * 3 * hidden + above(hidden.detach())).mean()

    return {"a": lambda: loss(1.0), "b": lambda: loss(-1.0)}, [below.weight, above.weight]


def test_what_lies_below_a_checkpoint_is_seen_or_refused():
    assert diagnose(*checkpointed(use_reentrant=False)).conflict
    with pytest.raises(ValueError, match="the loss of task 'a' must have no reentrant checkpoint"):
        diagnose(*checkpointed(use_reentrant=True))


def test_the_batches_noise_is_taken_out_of_the_cosine():
    losses, x = problem(-0.8, noise=0.5, seed=0)
    pair = diagnose(losses, [x], samples=200).pairs["a", "b"]
    assert pair.cosine.low < -0.8 < pair.cosine.high < -0.6
    assert (
        pair.batch_cosine.low > -0.6
    )  # which the noise shrinks: 3 · 1 / sqrt((9 + 4) (1 + 4)) of it is left


@pytest.mark.parametrize(
    ("cosine", "noise", "samples", "conflict", "word"),
    [
        (-0.7, 0.1, 20, True, "yes"),
        (0.0, 0.02, 20, False, "no"),
        (0.6, 0.1, 20, False, "no"),
        (-0.05, 0.01, 20, False, "no"),  # a conflict, but none worth surgery
        (-0.7, 30.0, 20, None, "not to be told"),
        (-0.1, 0.3, 10, None, "not to be told"),
    ],
)
def test_the_verdict(cosine, noise, samples, conflict, word):
    losses, x = problem(cosine, noise=noise, seed=1)
    diagnosis = diagnose(losses, [x], samples=samples)
    assert diagnosis.conflict is conflict
    assert diagnosis.verdict.startswith(word)
    assert "\n" not in diagnosis.verdict
    assert diagnosis.verdict in str(diagnosis)


def test_a_pair_that_is_drowned_in_noise_does_not_hide_another_pairs_conflict():
    losses, x = problem(-0.7, noise=0.1, seed=1)
    generator = torch.Generator().manual_seed(0)
    noise = {"n": lambda: x @ torch.randn(16, generator=generator, dtype=torch.float64)}
    diagnosis = diagnose({**noise, **losses}, [x], samples=20)
    assert math.isnan(diagnosis.pairs["n", "a"].cosine.high)
    assert diagnosis.verdict.startswith("yes: a and b conflict")


def test_noise_alone_is_half_in_conflict_and_no_conflict():
    losses, x = problem(0.0, noise=50.0, seed=2)
    diagnosis = diagnose(losses, [x], samples=200)
    pair = diagnosis.pairs["a", "b"]
    assert pair.conflict_rate.low < 0.5 < pair.conflict_rate.high
    assert 0.4 < pair.null < 0.6
    assert diagnosis.conflict is None
    assert math.isnan(pair.cosine.value)


def test_the_change_is_what_pcgrad_does_to_the_sum():
    losses, x = problem(-0.6, noise=0.0, seed=0, length=1.0)
    a, b = (torch.autograd.grad(loss(), x)[0] for loss in losses.values())
    surgery = a - (a @ b) / (b @ b) * b + b - (a @ b) / (a @ a) * a
    expected = (surgery - (a + b)).norm() / (a + b).norm()
    change = diagnose(losses, [x], samples=5).change
    assert change.value == pytest.approx(expected.item(), rel=1e-9)
    assert change.high - change.low < 1e-9


def test_only_what_two_tasks_reach_enters_and_nothing_is_changed():
    trunk, head, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    trunk.grad = torch.full((2,), 7.0)
    draws = count()
    losses = {
        "a": lambda: (trunk * torch.tensor([1.0, 0.0])).sum() + 100 * head.sum() + 0 * next(draws),
        "b": lambda: trunk @ (frozen * torch.tensor([-1.0, 1.0])),
    }
    diagnosis = diagnose(losses, [trunk, head, frozen], samples=5)
    assert diagnosis.pairs["a", "b"].cosine.value == pytest.approx(-math.sqrt(0.5))
    assert trunk.grad.tolist() == [7.0, 7.0]
    assert head.grad is None
    assert next(draws) == 10  # two batches a sample
    assert (trunk.requires_grad, frozen.requires_grad) == (True, False)


def test_parameters_that_were_not_given_get_no_gradient():
    torch.manual_seed(0)
    trunk, heads = nn.Linear(3, 2), nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    losses = {str(k): lambda k=k: heads[k](trunk(torch.randn(4, 3))).square().mean() for k in range(2)}
    diagnose(losses, trunk.parameters(), samples=5)
    assert all(p.grad is None for p in (*trunk.parameters(), *heads.parameters()))


def test_a_task_that_draws_no_fresh_batches_is_named():
    losses, x = problem(-0.6, noise=0.1, seed=0)
    fixed = torch.full((16,), -1.0, dtype=torch.float64)
    verdict = diagnose({**losses, "c": lambda: x @ fixed}, [x], samples=5).verdict
    assert verdict.endswith("; c had one gradient at every call: of other batches nothing is known")
    assert "every call" not in diagnose(losses, [x], samples=5).verdict


@pytest.mark.parametrize("cosine", [-0.99, 0.99])
def test_a_cosine_is_between_its_bounds(cosine):
    ends = []
    for seed in range(10):
        losses, x = problem(cosine, noise=0.2, seed=seed)
        interval = diagnose(losses, [x], samples=10).pairs["a", "b"].cosine
        assert -1 <= interval.low < interval.high <= 1
        ends += [-interval.low, interval.high]
    assert 1.0 in ends


def test_opposite_tasks_cancel_with_surgery_or_without():
    x = nn.Parameter(torch.zeros(3))
    diagnosis = diagnose({"a": x.sum, "b": lambda: -x.sum()}, [x], samples=5)
    assert diagnosis.conflict
    assert diagnosis.change.value == 0.0


def test_the_intervals_of_several_pairs_hold_together():
    losses, x = problem(0.3, noise=0.3, seed=3)
    alone = diagnose(losses, [x], samples=30).pairs["a", "b"].cosine
    losses, x = problem(0.3, noise=0.3, seed=3)
    wide = diagnose({**losses, "c": x.sum}, [x], samples=30).pairs["a", "b"].cosine
    assert wide.value == pytest.approx(alone.value)
    assert wide.high - wide.low > 1.1 * (alone.high - alone.low)


@pytest.mark.parametrize("freedom", [4, 9, 29])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.9995])
def test_the_quantiles_are_students(freedom, probability):
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=0.02)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"losses": [lambda: 0]}, TypeError, "losses must map names to callables"),
        ({"losses": {"a": torch.ones(())}}, TypeError, "losses must map names to callables"),
        ({"losses": {"a": lambda: 0}}, ValueError, "at least two tasks, got 1"),
        ({"samples": 4}, ValueError, "samples must be at least 5, got 4"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be between 0 and 1, got 0.0"),
        ({"level": 95}, ValueError, "level must be between 0 and 1, got 95"),
        ({"parameters": iter(())}, ValueError, "that requires a gradient, got none: pass list"),
        (
            {"parameters": [nn.Parameter(torch.ones(1))]},
            ValueError,
            "that two tasks reach, got 1 without",
        ),
    ],
)
def test_bad_input_is_one_sentence(change, error, says):
    losses, x = problem(0.0, noise=0.1, seed=0)
    arguments = {"losses": losses, "parameters": [x], **change}
    with pytest.raises(error, match=says) as caught:
        diagnose(arguments.pop("losses"), arguments.pop("parameters"), **arguments)
    assert "\n" not in str(caught.value)


def test_a_callable_that_returns_no_loss_is_named():
    losses, x = problem(0.0, noise=0.1, seed=0)
    with pytest.raises(ValueError, match="the callable of task 'b' must return its loss, got NoneType"):
        diagnose({**losses, "b": lambda: x.sum().backward()}, [x])


def test_a_loss_that_is_not_finite_is_named():
    losses, x = problem(0.0, noise=0.1, seed=0)
    with pytest.raises(ValueError, match="'b' must be finite"):
        diagnose({**losses, "b": lambda: x.sum() * math.nan}, [x])


def fixed(*gradients):
    """Tasks whose gradients are these vectors at every call."""
    x = nn.Parameter(torch.zeros(len(gradients[0]), dtype=torch.float64))
    rows = torch.tensor(gradients, dtype=torch.float64)
    return {name: lambda row=row: x @ row for name, row in zip("abcd", rows, strict=False)}, x


def test_gradients_that_add_up_to_zero_leave_the_rest_of_the_diagnosis():
    losses, x = fixed([3.0, -1.0], [-1.0, 3.0], [-2.0, -2.0])
    diagnosis = diagnose(losses, [x], samples=5)
    assert diagnosis.change.value == math.inf
    assert "inf" not in diagnosis.verdict
    assert diagnosis.pairs["a", "b"].batch_cosine.value == pytest.approx(-0.6)
    losses, x = fixed([1.0, 0.0], [0.0, 1.0], [-0.04, 0.0], [-0.96, -1.0])
    verdict = diagnose(losses, [x], samples=5, tolerance=0.999).verdict
    assert (
        "how far PCGrad moves the update cannot be told, for in a sample the gradients add up to 0" in verdict
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_of_rounding_errors_is_zero(dtype):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        a, b = torch.randn(2, 1000, generator=generator, dtype=dtype)
        x = nn.Parameter(torch.zeros(1000, dtype=dtype))
        losses = {"a": lambda x=x, a=a: x @ a, "b": lambda x=x, b=b: x @ b, "c": lambda x=x, s=a + b: -x @ s}
        assert diagnose(losses, [x], samples=5).change.value == math.inf


def test_a_conflict_that_is_tolerated_is_not_called_noise():
    losses, x = fixed([1.0, 0.0], [-0.09, 1.0])
    assert "which is batch noise or a conflict that is tolerated" in diagnose(losses, [x], samples=5).verdict
    losses, x = fixed([1.0, 0.0], [0.09, 1.0])
    assert "which is batch noise;" in diagnose(losses, [x], samples=5).verdict


def test_a_batch_without_an_example_of_a_task_has_no_cosine():
    turns = count()
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    losses = {"a": lambda: 2 * x.sum(), "b": lambda: -x.sum() * (next(turns) % 4 < 2)}
    pair = diagnose(losses, [x], samples=20).pairs["a", "b"]
    assert (pair.batch_cosine.value, pair.conflict_rate.value, pair.null) == (-1.0, 1.0, 0.0)
    pair = diagnose({"a": x.sum, "b": lambda: 0 * x.sum()}, [x], samples=5).pairs["a", "b"]
    assert math.isnan(pair.conflict_rate.value)
    assert math.isnan(pair.cosine.value)


def test_the_null_is_the_mean_of_both_tasks_however_often_they_have_a_gradient():
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    of_a, of_b = count(), count()
    losses = {
        "a": lambda: x.sum() * (-1) ** next(of_a),  # in conflict with itself on the second batch
        "b": lambda: x.sum() * (next(of_b) % 8 < 2),  # in one sample of four, and then the same
    }
    assert diagnose(losses, [x], samples=20).pairs["a", "b"].null == 0.5
