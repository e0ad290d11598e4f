"""The laws of the penalty: what it is zero for, what it grows with, and what it does not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartreg import SMART, kl, squared_error, symmetric_kl

SEEDS = st.integers(0, 2**20)
PERTURBED = ["paper", "vat", "r3f", "smart-pytorch"]
D = 16  # numbers a position, in the CPU's generator a block of its own


class Pooled(nn.Module):
    """The masked mean of tanh layers: it does not see positions, and what padding holds."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 3), nn.Tanh()).double()

    def forward(self, embeddings, mask):
        weight = mask.to(embeddings).unsqueeze(-1)
        return 3 * (self.layers(embeddings) * weight).sum(1) / weight.sum(1).clamp(min=1)


def embeddings_of(seed, batch=3, length=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, D, generator=generator, dtype=dtype)
    return x, torch.rand(batch, length, generator=generator) < 0.7


def perturbation_of(smart, forward, x, mask=None, seed=None):
    """The perturbation at which the penalty was taken."""
    seen = []
    if seed is not None:
        torch.manual_seed(seed)
    penalty = smart(lambda e: (seen.append(e.detach()), forward(e))[1], x, mask=mask)
    return seen[-1] - x, penalty.item()


@pytest.mark.parametrize(("norm", "steps"), [("linf", 2), ("l2", 2), ("linf", 1), ("l2", 1)])
@settings(max_examples=20)
@given(seed=SEEDS, epsilon=st.sampled_from([1e-3, 1e-1]))
def test_on_a_linear_model_the_penalty_is_the_closed_form(norm, steps, seed, epsilon):
    """max (wᵀδ)² = (ε ‖w‖₁)² in L∞ and (ε ‖w‖₂)² in L2, which a step to the edge reaches at once."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(12, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    dual = w.abs().sum() if norm == "linf" else w.norm()
    options = {"epsilon": epsilon, "step_size": math.inf if steps == 1 else 1e6, "noise_std": 1e-5}
    smart = SMART(divergence=squared_error, num_steps=steps, norm=norm, **options)
    torch.manual_seed(seed)
    penalty = smart(lambda e: e.flatten(1) @ w, x)
    torch.testing.assert_close(penalty, (epsilon * dual) ** 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("preset", PERTURBED)
@pytest.mark.parametrize("divergence", [symmetric_kl, kl, squared_error])
@settings(max_examples=10)
@given(seed=SEEDS, num_steps=st.integers(0, 2), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_penalty_of_a_constant_model_is_exactly_zero(preset, divergence, seed, num_steps, dtype):
    """So is its gradient; with the bias, which moves both branches alike."""
    x, _ = embeddings_of(seed, dtype=dtype)
    layer = nn.Linear(D, 3).to(dtype)
    nn.init.zeros_(layer.weight)
    smart = SMART(preset=preset, divergence=divergence, num_steps=num_steps)
    penalty = smart(lambda e: layer(e).mean(1), x)
    assert penalty.item() == 0.0
    penalty.backward()
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


@pytest.mark.parametrize("options", [{"step_size": 1.0, "num_steps": 2}, {"preset": "vat"}])
@settings(max_examples=20)
@given(seed=SEEDS, factor=st.floats(1.5, 10.0))
def test_the_penalty_grows_with_epsilon(make, x, options, seed, factor):
    model, penalties = make(), []
    for epsilon in (1e-3, 1e-3 * factor):
        torch.manual_seed(seed)
        penalties.append(SMART(epsilon=epsilon, **options)(model, x).item())
    assert penalties[1] > 1.5 * penalties[0]


@settings(max_examples=10)
@given(seed=SEEDS, norm=st.sampled_from(["linf", "l2"]), epsilon=st.sampled_from([1e-3, 0.3]))
def test_more_steps_are_never_worse_on_average(seed, norm, epsilon):
    """Over eight draws of the noise, from steps of half the radius; the first gains over the noise."""
    x, mask = embeddings_of(seed)
    model, means = Pooled(seed), []
    for num_steps in (0, 1, 3):
        torch.manual_seed(seed)
        smart = SMART(
            epsilon=epsilon, step_size=epsilon / 2, noise_std=epsilon, num_steps=num_steps, norm=norm
        )
        draws = [smart(lambda e: model(e, mask), x, mask=mask).item() for _ in range(8)]
        means.append(sum(draws))
    assert means[0] < means[1] <= means[2]


@pytest.mark.parametrize("preset", PERTURBED)
@pytest.mark.parametrize("scope", ["sample", "token"])
@settings(max_examples=15)
@given(seed=SEEDS, num_steps=st.integers(0, 2), batch=st.integers(2, 4))
def test_a_sample_does_not_feel_the_rest_of_its_batch(preset, scope, seed, num_steps, batch):
    """One by one they take the same numbers from the generator as together, and move to the same place."""
    x, _ = embeddings_of(seed, batch)
    model, generator = Pooled(seed), torch.Generator()
    smart = SMART(
        preset=preset, scope=scope, num_steps=num_steps, generator=generator, divergence=symmetric_kl
    )
    if preset == "smart-pytorch":  # whose step is of a gradient that the batch mean divides
        smart.divergence = lambda p, q: len(p) * symmetric_kl(p, q)
    forward = lambda e: model(e, torch.ones(e.shape[:2]))  # noqa: E731
    generator.manual_seed(seed)
    together, _ = perturbation_of(smart, forward, x)
    generator.manual_seed(seed)
    apart = [perturbation_of(smart, forward, one)[0] for one in x.split(1)]
    torch.testing.assert_close(torch.cat(apart), together, rtol=1e-6, atol=1e-12)
    assert together.abs().amax((1, 2)).min() > 0


class TestPadding:
    """Padded positions are exactly zero and without influence, however many, wherever, whatever they hold."""

    @pytest.mark.parametrize("preset", PERTURBED)
    @pytest.mark.parametrize("scope", ["sample", "token"])
    @settings(max_examples=15)
    @given(seed=SEEDS, norm=st.sampled_from(["linf", "l2"]), more=st.integers(1, 3), data=st.data())
    def test_permuting_or_lengthening_it_changes_nothing(self, preset, scope, seed, norm, more, data):
        x, mask = embeddings_of(seed)
        model, smart = Pooled(seed), SMART(preset=preset, scope=scope, norm=norm)
        length = x.shape[1] + more
        other, other_mask = torch.full((len(x), length, D), 7.0, dtype=x.dtype), torch.zeros(3, length).bool()
        for i, real in enumerate(mask):  # the same real positions in the same order, elsewhere
            count = int(real.sum())
            places = data.draw(st.permutations(range(length)), label=f"places of {i}")[:count]
            other_mask[i, places] = True
            other[i, other_mask[i]] = x[i, real]
        found, penalty = perturbation_of(smart, lambda e: model(e, mask), x, mask, seed)
        moved, other_penalty = perturbation_of(smart, lambda e: model(e, other_mask), other, other_mask, seed)
        torch.testing.assert_close(moved[other_mask], found[mask], rtol=1e-6, atol=1e-12)
        assert other_penalty == pytest.approx(penalty, rel=1e-6, abs=1e-16)
        assert not found[~mask].any()
        assert not moved[~other_mask].any()

    @settings(max_examples=20)
    @given(seed=SEEDS, hostile=st.sampled_from([1e30, -1e30, 0.0]))
    def test_what_it_holds_does_not_matter(self, seed, hostile):
        x, mask = embeddings_of(seed)
        model, smart = Pooled(seed), SMART(num_steps=2, norm="l2")
        other = torch.where(mask.unsqueeze(-1), x, hostile)
        found, penalty = perturbation_of(smart, lambda e: model(e, mask), x, mask, seed)
        moved, other_penalty = perturbation_of(smart, lambda e: model(e, mask), other, mask, seed)
        assert torch.equal(found, moved)
        assert penalty == other_penalty

    def test_a_sample_of_padding_alone_stays_where_it_is(self):
        x, mask = embeddings_of(0)
        mask[1] = False
        for norm in ("linf", "l2"):
            smart = SMART(num_steps=2, norm=norm, step_size=math.inf, epsilon=0.1)
            delta, penalty = perturbation_of(smart, lambda e: Pooled(0)(e, mask), x, mask)
            assert not delta[1].any()
            assert 0 < penalty < math.inf


class TestRandomness:
    """A penalty is a function of the generators, and moves them as documented."""

    @pytest.mark.parametrize("preset", PERTURBED)
    @settings(max_examples=10)
    @given(seed=SEEDS)
    def test_a_generator_of_its_own_decides_alone(self, preset, seed):
        x, mask = embeddings_of(seed)
        model, generator = Pooled(seed), torch.Generator().manual_seed(seed)
        smart, before = SMART(preset=preset, generator=generator), torch.get_rng_state()
        first = [smart(lambda e: model(e, mask), x, mask=mask).item() for _ in range(2)]
        generator.manual_seed(seed)
        assert [smart(lambda e: model(e, mask), x, mask=mask).item() for _ in range(2)] == first
        assert first[0] != first[1]
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("noise", ["normal", "uniform"])
    @pytest.mark.parametrize("dropout", ["independent", "shared"])
    @settings(max_examples=10)
    @given(seed=SEEDS, num_steps=st.integers(0, 2), masked=st.booleans())
    def test_the_global_one_moves_by_the_noise_and_the_dropout_of_the_forwards(
        self, make, x, mask, noise, dropout, seed, num_steps, masked
    ):
        model = make(dropout=0.3)
        smart = SMART(dropout=dropout, num_steps=num_steps, noise=noise)
        torch.manual_seed(seed)
        smart.penalize(model, x, mask=mask if masked else None)
        found = torch.get_rng_state()
        torch.manual_seed(seed)
        model(x)
        torch.randn_like(x) if noise == "normal" else torch.rand_like(x)
        for _ in range(num_steps + 1 if dropout == "independent" else 0):
            model(x)
        assert torch.equal(found, torch.get_rng_state())

    def test_r_drop_draws_no_noise(self, make, x):
        model = make(dropout=0.3)
        torch.manual_seed(0)
        SMART(preset="r-drop").penalize(model, x)
        found = torch.get_rng_state()
        torch.manual_seed(0)
        model(x)
        model(x)
        assert torch.equal(found, torch.get_rng_state())

    def test_diagnosis_leaves_the_generator_as_it_was(self, make, x):
        model, generator = make(), torch.Generator().manual_seed(0)
        smart, before = SMART(generator=generator), generator.get_state()
        options = {"loss": lambda out: out.square().mean(), "parameters": list(model.parameters())}
        smart.diagnose(model, x, samples=1, **options)
        assert torch.equal(generator.get_state(), before)
        smart.calibrate(model, x, weight=5.0, **options)
        assert torch.equal(generator.get_state(), before)
