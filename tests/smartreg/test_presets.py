"""Every preset against its paper's formula computed plainly, on the same random numbers."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from smartreg import SMART, squared_error, symmetric_kl
from smartreg.presets import PRESETS, Preset

LABELS = torch.tensor([0, 2, 1, 1])
SEEDS = st.integers(0, 2**20)


def assert_same(model, expected, found, size=1.0):
    """Compares two penalties and their gradients: in float64, whose rounding is of outputs of size 1."""
    assert found.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-16)
    gradients = [
        torch.autograd.grad(r, list(model.parameters()), allow_unused=True) for r in (expected, found)
    ]
    for reference, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-9 * size)


def algorithm_1(f, x, loss, *, epsilon, step_size, noise_std, num_steps):
    """Lines 6 to 10 of Algorithm 1 of Jiang et al. 2020, sample by sample, for a model without dropout.

    Noise is drawn for the whole batch; nothing but a step projects, and without one the ball still holds.
    """
    noise = noise_std * torch.randn_like(x)
    clean = f(x)
    moved = []
    for i in range(len(x)):
        x_i = x[i : i + 1].detach()
        x_tilde = x_i + noise[i : i + 1]
        for _ in range(num_steps):
            x_tilde = x_tilde.detach().requires_grad_()
            (g,) = torch.autograd.grad(loss(f(x_tilde), clean[i : i + 1].detach()), x_tilde)
            x_tilde = (x_tilde + step_size * g / g.abs().max()).clamp(x_i - epsilon, x_i + epsilon)
        moved.append(x_tilde.detach().clamp(x_i - epsilon, x_i + epsilon))
    return loss(f(torch.cat(moved)), clean)


def textbook_symmetric_kl(p, q):
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


def textbook_squared_error(p, q):
    return ((p - q) ** 2).mean()


@pytest.mark.parametrize(
    ("divergence", "textbook", "num_outputs"),
    [(symmetric_kl, textbook_symmetric_kl, 3), (squared_error, textbook_squared_error, 1)],
)
@settings(max_examples=30)
@given(
    seed=SEEDS,
    epsilon=st.sampled_from([1e-5, 1e-2, 1.0]),
    step_size=st.sampled_from([1e-3, 0.3]),
    noise_std=st.sampled_from([1e-5, 1e-2]),
    num_steps=st.integers(0, 3),
)
def test_the_paper_is_algorithm_1(make, x, divergence, textbook, num_outputs, seed, **options):
    model = make(num_outputs)
    torch.manual_seed(seed)
    expected = algorithm_1(model, x, textbook, **options)
    torch.manual_seed(seed)
    _, found = SMART(divergence=divergence, **options).penalize(model, x)
    assert_same(model, expected, found, size=options["epsilon"])


def textbook_kl(q, p):
    """KL(q‖p) of logits, the mean over the batch."""
    q, p = q.log_softmax(-1), p.log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1).mean()


def unit(d):
    """Every sample divided by its L2 norm."""
    return d / d.flatten(1).norm(dim=1)[:, None, None]


@settings(max_examples=30)
@given(
    seed=SEEDS,
    epsilon=st.sampled_from([0.1, 5.0]),
    search_radius=st.sampled_from([1e-3, 0.1]),
    num_steps=st.integers(0, 3),
)
def test_vat_is_the_power_iteration_by_finite_differences(make, x, seed, epsilon, search_radius, num_steps):
    """Miyato et al. 2018: d <- unit(∇_r KL(p(x) ‖ p(x + r)) at r = ξd), K times, then r = εd (equation 12).

    The target p(x) is a constant (below equation 5).
    """
    model = make()
    torch.manual_seed(seed)
    d, target = unit(torch.randn_like(x)), model(x).detach()
    for _ in range(num_steps):
        r = (search_radius * d).requires_grad_()
        d = unit(torch.autograd.grad(textbook_kl(target, model(x + r)), r)[0])
    expected = textbook_kl(target, model(x + epsilon * d))
    torch.manual_seed(seed)
    vat = SMART(preset="vat", epsilon=epsilon, search_radius=search_radius, num_steps=num_steps)
    assert_same(model, expected, vat.penalize(model, x)[1])


@pytest.mark.parametrize("noise", ["normal", "uniform"])
@settings(max_examples=30)
@given(seed=SEEDS, sigma=st.sampled_from([1e-5, 1e-2, 1.0]))
def test_r3f_is_the_symmetric_kl_at_noise_that_no_ball_holds(make, x, noise, seed, sigma):
    """Aghajanyan et al. 2021, equation 4: z ~ N(0, σ²I) or U(-σ, σ); KL both ways, gradients too."""
    model = make()
    torch.manual_seed(seed)
    z = sigma * torch.randn_like(x) if noise == "normal" else torch.empty_like(x).uniform_(-sigma, sigma)
    expected = textbook_symmetric_kl(model(x), model(x + z))
    torch.manual_seed(seed)
    options = {} if noise == "uniform" else {"noise": noise}  # uniform is the preset's
    found = SMART(preset="r3f", noise_std=sigma, **options).penalize(model, x)[1]
    assert_same(model, expected, found, size=sigma)


@settings(max_examples=30)
@given(seed=SEEDS, alpha=st.sampled_from([0.1, 5.0]))
def test_r_drop_is_its_loss_over_two_dropout_masks(make, x, seed, alpha):
    """Liang et al. 2021, equations 2 to 4: -log P1 - log P2 + α (KL(P1‖P2) + KL(P2‖P1)) / 2.

    With λ = α / 2 the penalty is the divergence's term; the second cross entropy is a divergence too.
    """
    model = make(dropout=0.3)
    torch.manual_seed(seed)
    first, second = model(x), model(x)
    expected = alpha * (textbook_kl(first, second) + textbook_kl(second, first)) / 2
    torch.manual_seed(seed)
    outputs, found = SMART(preset="r-drop").penalize(model, x)
    assert torch.equal(outputs, first)
    assert_same(model, expected, alpha / 2 * found)

    def both(perturbed, clean):
        return F.cross_entropy(perturbed, LABELS) + alpha / 2 * symmetric_kl(perturbed, clean)

    torch.manual_seed(seed)
    first, second = model(x), model(x)
    expected = F.cross_entropy(first, LABELS) + F.cross_entropy(second, LABELS)
    expected = expected + alpha * (textbook_kl(first, second) + textbook_kl(second, first)) / 2
    torch.manual_seed(seed)
    outputs, found = SMART(preset="r-drop", divergence=both).penalize(model, x)
    assert_same(model, expected, F.cross_entropy(outputs, LABELS) + found)


@settings(max_examples=30)
@given(seed=SEEDS, epsilon=st.sampled_from([0.01, 1.0]), num_steps=st.integers(1, 3))
def test_ascent_on_the_task_loss_is_the_inner_loop_of_freelb(make, x, seed, epsilon, num_steps):
    """Zhu et al. 2020, arXiv 1909.11764, Algorithm 1, lines 4 to 12: δ0 ~ U(-ε, ε) / √N, K steps in L2.

    The loss is that of the last point, as in PGD training; FreeLB's is the mean over the K points.
    """
    model, size, step = make(), math.sqrt(x[0].numel()), 0.3 * epsilon
    torch.manual_seed(seed)
    delta = torch.empty_like(x).uniform_(-epsilon / size, epsilon / size)
    for _ in range(num_steps):
        delta.requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(x + delta), LABELS), delta)
        delta = delta.detach() + step * unit(g)
        delta = delta * (epsilon / delta.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None]
    expected = F.cross_entropy(model(x + delta), LABELS)
    torch.manual_seed(seed)
    smart = SMART(
        divergence=lambda perturbed, _: F.cross_entropy(perturbed, LABELS),
        norm="l2",
        epsilon=epsilon,
        step_size=step,
        noise="uniform",
        noise_std=epsilon / size,
        num_steps=num_steps,
    )
    assert_same(model, expected, smart.penalize(model, x)[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_low_memory_backward_gives_every_presets_gradients(make, x, preset):
    model, smart, results = make(dropout=0.3), SMART(preset=preset), []
    for joint in (True, False):
        model.zero_grad()
        torch.manual_seed(0)
        if joint:
            outputs, penalty = smart.penalize(model, x)
            (F.cross_entropy(outputs, LABELS) + 2.0 * penalty).backward()
        else:
            terms = smart.backward(model, x, lambda out: F.cross_entropy(out, LABELS), weight=2.0)
            assert terms.penalty == penalty.detach()
        results.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-14)


def test_options_say_otherwise_than_their_preset():
    assert set(get_args(Preset)) == set(PRESETS)
    vat = SMART(preset="vat", epsilon=1.0, divergence=symmetric_kl, detach_clean=False)
    assert (vat.perturbation.epsilon, vat.perturbation.search_radius) == (1.0, 0.1)
    assert vat.divergence is symmetric_kl
    assert not vat.detach_clean
    package = SMART(preset="smart-pytorch", divergence=symmetric_kl)
    assert package.search_divergence is None
