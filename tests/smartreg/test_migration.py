"""smart-pytorch, bit for bit, with its faults, and mt-dnn, which it follows."""

import pytest
import smart_pytorch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from smartreg import SMART, symmetric_kl


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("num_steps", [0, 1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_preset_is_that_package_bit_for_bit(make, x, norm, num_steps, dropout, dtype):
    model, x = make(dropout=dropout, dtype=dtype), x.to(dtype, copy=True).requires_grad_()
    norms = {"linf": smart_pytorch.smart_pytorch.inf_norm, "l2": lambda t: t.norm(dim=-1, keepdim=True)}
    package = smart_pytorch.SMARTLoss(
        model, smart_pytorch.kl_loss, smart_pytorch.sym_kl_loss, norms[norm], num_steps=num_steps
    )
    regularizer = SMART(preset="smart-pytorch", norm=norm, num_steps=num_steps)
    results = []
    for penalty in (lambda: package(x, model(x)), lambda: regularizer.penalize(model, x)[1]):
        torch.manual_seed(5)
        value = penalty()
        results.append([value, *torch.autograd.grad(value, [x, *model.parameters()])])
    for theirs, ours in zip(*results, strict=True):
        assert torch.equal(theirs, ours)
    assert results[0][0] != 0  # without a step it is rounding alone, of either sign


def test_every_argument_of_the_package_has_its_option(make, x):
    model, results = make(), []
    loss_fn, loss_last_fn = smart_pytorch.js_loss, lambda p, q: F.mse_loss(p, q, reduction="sum")
    package = smart_pytorch.SMARTLoss(
        model, loss_fn, loss_last_fn, num_steps=2, step_size=0.1, epsilon=1e-3, noise_var=1e-2
    )
    regularizer = SMART(
        preset="smart-pytorch",
        search_divergence=loss_fn,
        divergence=loss_last_fn,
        num_steps=2,
        step_size=0.1,
        epsilon=1e-3,
        noise_std=1e-2,
    )
    for penalty in (lambda: package(x, model(x)), lambda: regularizer(model, x)):
        torch.manual_seed(5)
        results.append(penalty())
    assert torch.equal(*results)


def test_its_faults_are_those_that_the_readme_lists(make, x):
    model, seen = make(), []
    package = smart_pytorch.SMARTLoss(
        lambda e: (seen.append(e.detach()), model(e))[1],
        smart_pytorch.kl_loss,
        smart_pytorch.sym_kl_loss,
    )
    torch.manual_seed(0)
    whole = package(x, model(x))
    start, end = (moved - x for moved in seen)
    # Not adversarial: the noise it starts from, rescaled to a radius of 1.
    assert torch.cosine_similarity(start, end, dim=-1).min() > 0.9
    assert end.abs().max() == pytest.approx(1.0, abs=0.2)
    # A sum over the batch.
    assert whole.item() == pytest.approx(4 * symmetric_kl(model(x + end), model(x)).item(), rel=1e-6)
    # Half of the gradient: each direction of the KL takes its target for a constant.
    clean = model(x).detach().requires_grad_()
    near = (clean + 1e-4 * torch.randn_like(clean)).detach()
    halves = [smart_pytorch.sym_kl_loss(near, clean), 4 * symmetric_kl(near, clean)]
    half, full = (torch.autograd.grad(value, clean)[0] for value in halves)
    torch.testing.assert_close(full, 2 * half, rtol=1e-2, atol=1e-8)
    # One logit: 0, silently.
    one = make(1)
    smart = smart_pytorch.SMARTLoss(one, smart_pytorch.kl_loss, smart_pytorch.sym_kl_loss)
    assert smart(x, one(x)).item() == 0.0
    # Under no_grad it raises.
    with torch.no_grad(), pytest.raises(RuntimeError, match="does not require grad"):
        smart(x, one(x))


@pytest.mark.parametrize("scope", ["token", "sample"])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**20), num_steps=st.integers(1, 2))
def test_mt_dnn_is_the_preset_with_its_divergences(make, x, scope, seed, num_steps):
    """SmartPerturbation, stable_kl and SymKlCriterion, which is the mean over the batch."""
    model, dims = make(), -1 if scope == "token" else (-2, -1)

    def log_odds(p):
        return -(1 / (p + 1e-6) - 1 + 1e-6).detach().log()

    def stable_kl(logits, target):
        p, y = logits.softmax(-1), target.softmax(-1)
        return (p * (log_odds(p) - log_odds(y)) * 2).sum()

    def batch_kl(p, q):
        return F.kl_div(p.log_softmax(-1), q.softmax(-1), reduction="batchmean")

    def sym_kl_criterion(perturbed, clean):
        return batch_kl(perturbed, clean.detach()) + batch_kl(clean, perturbed.detach())

    torch.manual_seed(seed)
    noise, clean = 1e-5 * torch.randn_like(x), model(x)
    for _ in range(num_steps):
        noise.requires_grad_()
        (g,) = torch.autograd.grad(stable_kl(model(x + noise), clean.detach()), noise)
        step = noise.detach() + 1e-3 * g
        noise = step / (step.abs().amax(dims, keepdim=True) + 1e-6)
    expected = sym_kl_criterion(model(x + noise), clean)
    torch.manual_seed(seed)
    smart = SMART(
        preset="smart-pytorch",
        search_divergence=stable_kl,
        divergence=sym_kl_criterion,
        scope=scope,
        num_steps=num_steps,
    )
    found = smart.penalize(model, x)[1]
    values = [expected, *torch.autograd.grad(expected, list(model.parameters()))]
    torch.testing.assert_close([found, *torch.autograd.grad(found, list(model.parameters()))], values)
