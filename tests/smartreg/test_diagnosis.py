"""What a diagnosis says, where it can be said in closed form, and what calibration finds."""

import copy
import functools
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smartreg import SMART, squared_error, symmetric_kl

LABELS = torch.tensor([0, 2, 1, 0])


def task_loss(outputs):
    return F.cross_entropy(outputs, LABELS)


def share_by_hand(smart, model, x, weight):
    """λ ‖∇R‖ / ‖∇L‖ of one draw."""
    parameters = list(model.parameters())
    outputs, penalty = smart.penalize(model, x)
    norms = []
    for term in (penalty, task_loss(outputs)):
        gradients = torch.autograd.grad(term, parameters, retain_graph=True)
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
    return weight * norms[0] / norms[1]


@pytest.mark.parametrize(("ball", "order"), [("linf", 1), ("l2", 2)])
def test_a_linear_model_in_closed_form(ball, order):
    """(ε ‖w‖₁)² against (ε ‖w‖₂)² in L∞; (ε ‖w‖₂)² against that over the dimension in L2."""
    w = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.randn(500, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    smart = SMART(divergence=squared_error, epsilon=1e-2, step_size=1e3, noise_std=1e-5, norm=ball)
    torch.manual_seed(0)
    found = smart.diagnose(lambda e: e.flatten(1) @ w, x)
    best = (1e-2 * torch.linalg.vector_norm(w, order).item()) ** 2
    by_chance = (1e-2 * w.norm().item()) ** 2 / (1 if ball == "linf" else 20)
    assert found.adversarial == pytest.approx(best, rel=1e-3)
    assert found.random == pytest.approx(by_chance, rel=0.15)
    assert found.gain == pytest.approx(found.adversarial / found.random)
    assert found.saturated == 1.0
    assert found.lost == found.dropout == 0.0
    assert found.gradient_share is None
    assert found.verdict.endswith("times as strong as random points")


def test_without_a_ball_random_points_are_as_far_as_the_steps_lead():
    w = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.randn(500, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    smart = SMART(
        divergence=squared_error, epsilon=math.inf, step_size=1e-2, noise_std=1e-7, num_steps=3, norm="l2"
    )
    found = smart.diagnose(lambda e: e.flatten(1) @ w, x)
    assert found.adversarial == pytest.approx((3e-2 * w.norm().item()) ** 2, rel=1e-3)
    assert found.gain == pytest.approx(20, rel=0.15)  # of 20 directions one counts


def test_padded_positions_are_not_counted(make, x, mask):
    smart = SMART(epsilon=1e-2, step_size=1e3)
    assert smart.diagnose(make(), x, mask=mask).lost == 0.0
    for scope in ("sample", "token"):
        for step_size, saturated in ((1e-3, 0.0), (1e3, 1.0)):
            smart = SMART(epsilon=1e-2, norm="l2", scope=scope, step_size=step_size)
            assert smart.diagnose(make(), x, mask=mask).saturated == saturated


def test_the_gradient_share_is_that_of_the_terms(make, x):
    model, smart = make(), SMART(epsilon=1e-2)
    found = smart.diagnose(model, x, loss=task_loss, parameters=model.parameters(), weight=5.0, samples=100)
    by_hand = [share_by_hand(smart, model, x, 5.0) for _ in range(100)]
    assert found.gradient_share == pytest.approx(sum(by_hand) / 100, rel=0.1)


def test_frozen_parameters_have_no_share(make, x):
    model, smart = make(), SMART(epsilon=1e-2, dropout="shared")
    frozen, *trained = model.parameters()
    frozen.requires_grad_(False)
    shares, epsilons = [], []
    for parameters in ([frozen, *trained], trained):
        options = {"loss": task_loss, "parameters": parameters, "weight": 5.0}
        torch.manual_seed(0)
        shares.append(smart.diagnose(model, x, **options).gradient_share)
        torch.manual_seed(0)
        epsilons.append(smart.calibrate(model, x, target=0.01, **options).perturbation.epsilon)
    assert shares[0] == shares[1] > 0
    assert epsilons[0] == epsilons[1]


def test_dropout_is_measured_apart_from_the_perturbation(make, x):
    model = make(dropout=0.5)
    found = SMART().diagnose(model, x, samples=20)
    assert found.dropout > 1e-3
    assert found.adversarial < 1e-8
    assert "acts as R-Drop" in found.verdict
    assert "acts as R-Drop" not in SMART(dropout="shared").diagnose(model, x).verdict
    assert SMART().diagnose(copy.deepcopy(model).eval(), x).dropout == 0.0


def test_a_perturbation_lost_in_rounding_is_found_out(make, x, mask):
    """A share of the real positions, which are half of all."""
    found = SMART().diagnose(make(dtype=torch.float32), x.float() * 1e5, mask=mask)
    assert 0.9 < found.lost <= 1.0
    assert "rounding loses" in found.verdict


def test_a_search_with_small_steps_gains_nothing(make, x):
    options = {"noise_std": 1.0, "epsilon": 1e-3}
    found = SMART(step_size=1e-6, **options).diagnose(make(), x, samples=50)
    assert found.gain == pytest.approx(1.0, abs=0.5)
    assert "take more or larger steps" in found.verdict
    assert "steps" not in SMART(num_steps=0, **options).diagnose(make(), x).verdict  # none were meant


class TestAdvice:
    """What a verdict suggests is measured: there, the penalty weighs what the verdict promises."""

    def test_beside_noise_of_known_size_it_is_the_closed_form(self):
        """R is ε² ‖w‖₁² and of the noise of two forwards D: they are equal at √D / ‖w‖₁."""
        w = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = torch.randn(100, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for epsilon in (1e-6, 1e-5, 1e-3):
            smart = SMART(divergence=squared_error, epsilon=epsilon, step_size=1e3)
            found = smart.diagnose(lambda e: e @ w + 0.1 * torch.randn(len(e)), x)
            assert found.dropout == pytest.approx(0.02, rel=0.2)
            expected = found.dropout**0.5 / w.norm(p=1).item()
            assert expected < found.suggested_epsilon < 1.2 * expected
            part = 100 * found.adversarial / found.dropout
            assert found.verdict == (
                f"inert: the adversarial term is {part:.2g} % of what two dropout masks give, so this acts as"
                f" R-Drop; raise epsilon to about {found.suggested_epsilon:.2g}"
            )

    def test_where_r_grows_faster_than_expected_it_is_still_the_smallest(self):
        """R is ε⁴ ‖w‖₁⁴ where the first derivative is 0."""
        w, x = torch.linspace(-1, 1, 20, dtype=torch.float64), torch.zeros(100, 20, dtype=torch.float64)
        smart = SMART(divergence=squared_error, epsilon=1e-4, step_size=1e2, noise_std=1e-4)
        found = smart.diagnose(lambda e: (e @ w).square() + 0.1 * torch.randn(len(e)), x)
        expected = found.dropout**0.25 / w.norm(p=1).item()
        assert expected < found.suggested_epsilon < 1.2 * expected

    def test_at_the_suggested_epsilon_the_perturbation_weighs_what_dropout_does(self, make, x):
        model = make(dropout=0.5)
        found = SMART().diagnose(model, x)
        (there,) = SMART().sweep(model, x, epsilons=[found.suggested_epsilon])
        assert found.dropout < there.adversarial < 1.4 * there.dropout
        assert "inert" not in there.verdict

    @pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
    def test_with_shared_dropout_the_suggestion_is_a_share_of_a_tenth(self, make, x, epsilon):
        model = make(dropout=0.5)
        options = {"loss": task_loss, "parameters": list(model.parameters()), "weight": 0.1, "samples": 1}
        smart = SMART(dropout="shared", epsilon=epsilon, step_size=100 * epsilon, noise_std=epsilon)
        found = smart.diagnose(model, x, **options)
        assert found.verdict == (
            f"inert: the penalty's gradient is {100 * found.gradient_share:.2g} % of the task's; raise"
            f" epsilon to about {found.suggested_epsilon:.2g}"
        )
        (there,) = smart.sweep(model, x, epsilons=[found.suggested_epsilon], **options)
        assert 0.09 < there.gradient_share < 0.13  # of other masks than the search saw

    def test_where_r_is_bounded_no_epsilon_is_enough(self, make, x):
        def forward(e):
            return torch.tanh(e.sum(dim=(1, 2))) + 1e3 * torch.randn(len(e))

        found = SMART(divergence=squared_error).diagnose(forward, x)
        assert found.suggested_epsilon is None
        assert found.verdict.endswith("no epsilon is enough")

    def test_a_penalty_too_strong_gets_another_weight(self, make, x):
        model, smart = make(), SMART(epsilon=1e-2, step_size=1.0)
        options = {"loss": task_loss, "parameters": list(model.parameters())}
        found = smart.diagnose(model, x, weight=1e6, **options)
        weight = float(found.verdict.split()[-1])
        assert "excessive" in found.verdict
        assert smart.diagnose(model, x, weight=weight, **options).gradient_share == pytest.approx(
            0.1, rel=0.05
        )

    def test_an_epsilon_that_is_no_radius_gets_none(self, make, x):
        found = SMART(preset="smart-pytorch", step_size=1e-9).diagnose(make(dropout=0.9), x * 1e-3)
        assert found.adversarial < found.dropout
        assert found.suggested_epsilon is None
        assert "epsilon" not in found.verdict


def test_r_drop_is_not_blamed_for_perturbing_nothing(make, x):
    found = SMART(preset="r-drop").diagnose(make(dropout=0.5), x)
    assert found.adversarial == found.random == 0.0
    assert found.verdict == "nothing is perturbed: R is what two dropout masks give, which is R-Drop"
    assert found.suggested_epsilon is None


class TestSweep:
    def test_it_is_a_diagnosis_at_each_epsilon_with_the_same_draws(self, make, x, mask):
        model = make(dropout=0.3)
        options = {"loss": task_loss, "parameters": list(model.parameters()), "weight": 2.0, "mask": mask}
        smart = SMART(epsilon=1e-5, step_size=1e-3, noise_std=2e-5, num_steps=2)
        found = smart.sweep(model, x, epsilons=(1e-4, 1e-2), **options)
        for diagnosis in found:
            epsilon = diagnosis.epsilon
            same = SMART(epsilon=epsilon, step_size=100 * epsilon, noise_std=2 * epsilon, num_steps=2)
            alone = same.diagnose(model, x, **options)
            for field in ("adversarial", "random", "dropout", "gain", "saturated", "lost", "gradient_share"):
                assert getattr(diagnosis, field) == pytest.approx(getattr(alone, field), rel=1e-6)
            assert diagnosis.suggested_epsilon is None
        assert [d.epsilon for d in found] == pytest.approx([1e-4, 1e-2])

    def test_its_grid_is_from_1e_6_to_1_and_r_grows_along_it(self, make, x):
        found = SMART(dropout="shared").sweep(make(), x)
        assert [d.epsilon for d in found] == pytest.approx([10 ** (n / 2) for n in range(-12, 1)])
        assert all(a.adversarial < b.adversarial for a, b in pairwise(found))

    def test_it_needs_a_ball(self, make, x):
        with pytest.raises(ValueError, match=r"sweep\(\) needs a ball"):
            SMART(preset="smart-pytorch").sweep(make(), x)


@pytest.mark.parametrize("call", ["diagnose", "sweep", "calibrate"])
@pytest.mark.parametrize("no_grad", [False, True])
def test_nothing_is_left_behind(x, call, no_grad):
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.BatchNorm1d(30), nn.Dropout(0.1), nn.Linear(30, 3))
    model = nn.Sequential(*layers).double()
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    rng = torch.get_rng_state()
    smart = SMART(dropout="shared")
    with torch.set_grad_enabled(not no_grad):
        getattr(smart, call)(model, x, loss=task_loss, parameters=model.parameters(), weight=1.0)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert model[3].bias.grad is None
    assert smart.perturbation == SMART().perturbation


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("target", [0.02, 0.5])
def test_calibration_finds_the_epsilon_of_the_target(make, x, dropout, target):
    model = make(dropout=dropout)
    smart = SMART(dropout="shared", epsilon=1e-4, step_size=1e-2, noise_std=2e-4)

    def share(regularizer):
        torch.manual_seed(7)
        return share_by_hand(regularizer, model, x, 5.0)

    torch.manual_seed(7)
    arguments = {"loss": task_loss, "parameters": model.parameters(), "weight": 5.0}
    found = smart.calibrate(model, x, target=target, **arguments)
    assert share(found) == pytest.approx(target, rel=0.01)
    search = found.perturbation
    assert search.step_size == pytest.approx(100 * search.epsilon)
    assert search.noise_std == pytest.approx(2 * search.epsilon)
    for factor in (0.1, 0.5, 0.9):
        smaller = SMART(
            dropout="shared",
            epsilon=factor * search.epsilon,
            step_size=factor * search.step_size,
            noise_std=factor * search.noise_std,
        )
        assert share(smaller) < target


def test_a_target_out_of_reach_is_refused_with_what_can_be_reached(make, x):
    model = make(dropout=0.5)
    arguments = {"loss": task_loss, "parameters": list(model.parameters())}
    with pytest.raises(ValueError, match=r"got 0.1, but the greatest share in it is .*e-"):
        SMART(dropout="shared").calibrate(model, x, weight=1e-9, **arguments)
    with pytest.raises(ValueError, match=r"the least epsilon gives .*take dropout='shared'"):
        SMART().calibrate(model, x, weight=5.0, target=1e-4, **arguments)
    with pytest.raises(ValueError, match="epsilon is no radius"):
        SMART(preset="smart-pytorch").calibrate(model, x, weight=1.0, **arguments)
    for bracket in ((1.0, 1e-3), (0.0, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="bracket must be two positive numbers in order"):
            SMART().calibrate(model, x, weight=1.0, bracket=bracket, **arguments)


def test_arguments_that_need_each_other(make, x):
    model = make()
    with pytest.raises(ValueError, match="got loss alone"):
        SMART().diagnose(model, x, loss=task_loss)
    with pytest.raises(ValueError, match="got parameters alone"):
        SMART().diagnose(model, x, parameters=model.parameters())
    with pytest.raises(ValueError, match="samples must be positive, got 0"):
        SMART().diagnose(model, x, samples=0)


@pytest.mark.parametrize("call", ["diagnose", "sweep", "calibrate"])
def test_parameters_that_the_loss_does_not_depend_on(make, x, call):
    measure = functools.partial(getattr(SMART(), call), make(), x, loss=task_loss, weight=1.0)
    with pytest.raises(ValueError, match="got 2 without a gradient: pass those of the model"):
        measure(parameters=nn.Linear(2, 2).parameters())
    used_up = nn.Linear(2, 2).parameters()
    list(used_up)
    with pytest.raises(ValueError, match="must hold one that requires a gradient, got none"):
        measure(parameters=used_up)


def test_a_tuple_and_named_outputs(make, x, mask):
    model = make()

    def forward(pair):
        return {"kind": model(pair[0]) * model(pair[1]), "cache": None}

    smart = SMART(divergence={"kind": symmetric_kl}, dropout="shared")
    pair = (x, x[:, :2])
    arguments = {"loss": lambda o: task_loss(o["kind"]), "mask": (mask, None), "weight": 1.0}
    found = smart.diagnose(forward, pair, parameters=model.parameters(), **arguments)
    assert found.gain > 1
    calibrated = smart.calibrate(forward, pair, parameters=model.parameters(), **arguments)
    assert calibrated.perturbation.epsilon > 1e-6
