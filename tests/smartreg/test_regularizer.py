"""SMART against Algorithm 1 written out, against smart-pytorch, and by its laws."""

import copy
import math
import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import smart_pytorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartreg import SMART, RNGState, bernoulli_symmetric_kl, squared_error, symmetric_kl


def algorithm_1(f, x, loss, *, epsilon, step_size, noise_std, num_steps):
    """Lines 4 to 10 of Algorithm 1 of Jiang et al. 2020 in L∞, sample by sample, for a model without dropout.

    Noise is drawn for the whole batch; the ball around x holds it from the start.
    """
    noise = noise_std * torch.randn_like(x)
    clean = f(x)
    moved = []
    for i in range(len(x)):
        x_i = x[i : i + 1].detach()
        x_tilde = (x_i + noise[i : i + 1]).clamp(x_i - epsilon, x_i + epsilon)
        for _ in range(num_steps):
            x_tilde = x_tilde.detach().requires_grad_()
            (g,) = torch.autograd.grad(loss(f(x_tilde), clean[i : i + 1].detach()), x_tilde)
            x_tilde = (x_tilde + step_size * g / g.abs().max()).clamp(x_i - epsilon, x_i + epsilon)
        moved.append(x_tilde.detach())
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
    seed=st.integers(0, 2**20),
    epsilon=st.sampled_from([1e-5, 1e-2, 1.0]),
    step_size=st.sampled_from([1e-3, 0.3]),
    noise_std=st.sampled_from([1e-5, 1e-2]),
    num_steps=st.integers(0, 3),
)
def test_the_paper_is_algorithm_1(make, x, divergence, textbook, num_outputs, seed, **options):
    model = make(num_outputs)
    results = []
    torch.manual_seed(seed)
    results.append(algorithm_1(model, x, textbook, **options))
    torch.manual_seed(seed)
    results.append(SMART(divergence=divergence, **options).penalize(model, x)[1])
    expected, penalty = (r.item() for r in results)
    gradients = [torch.autograd.grad(r, list(model.parameters()), allow_unused=True) for r in results]
    # What float64 leaves of a difference of outputs of size 1.
    assert penalty == pytest.approx(expected, rel=1e-6, abs=1e-16)
    for reference, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-9 * options["epsilon"])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("num_steps", [0, 1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smart_pytorch_preset_is_that_package_bit_for_bit(make, x, norm, num_steps, dropout, dtype):
    model, x = make(dropout=dropout, dtype=dtype), x.to(dtype, copy=True).requires_grad_()
    norms = {"linf": smart_pytorch.smart_pytorch.inf_norm, "l2": lambda t: t.norm(dim=-1, keepdim=True)}
    package = smart_pytorch.SMARTLoss(
        model, smart_pytorch.kl_loss, smart_pytorch.sym_kl_loss, norms[norm], num_steps=num_steps
    )

    def divergence(perturbed, clean):  # the package takes another one at the end
        last = clean.requires_grad
        return (smart_pytorch.sym_kl_loss if last else smart_pytorch.kl_loss)(perturbed, clean)

    regularizer = SMART(preset="smart-pytorch", divergence=divergence, norm=norm, num_steps=num_steps)
    results = []
    for penalty in (lambda: package(x, model(x)), lambda: regularizer.penalize(model, x)[1]):
        torch.manual_seed(5)
        value = penalty()
        results.append([value, *torch.autograd.grad(value, [x, *model.parameters()])])
    for theirs, ours in zip(*results, strict=True):
        assert torch.equal(theirs, ours)
    assert results[0][0] > 0


def test_on_a_linear_model_the_penalty_is_the_closed_form():
    """max (wᵀδ)² = (ε ‖w‖₁)² in L∞ and (ε ‖w‖₂)² in L2."""
    w = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for norm, dual in (("linf", w.abs().sum()), ("l2", w.norm())):
        options = {"epsilon": 1e-2, "step_size": 1e4, "noise_std": 1e-5, "num_steps": 2, "norm": norm}
        penalty = SMART(divergence=squared_error, **options)(lambda e: e.flatten(1) @ w, x)
        torch.testing.assert_close(penalty, (1e-2 * dual) ** 2, rtol=1e-5, atol=0)


def test_the_penalty_of_a_constant_model_is_zero(x):
    layer = nn.Linear(6, 3, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    _, penalty = SMART(epsilon=1.0, num_steps=2).penalize(lambda e: layer(e).mean(1), x)
    assert penalty.item() == 0.0
    penalty.backward()
    assert not layer.weight.grad.any()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**20), factor=st.floats(1.5, 10.0))
def test_the_penalty_grows_with_epsilon(make, x, seed, factor):
    model = make()
    penalties = []
    for epsilon in (1e-3, 1e-3 * factor):
        torch.manual_seed(seed)
        penalties.append(SMART(epsilon=epsilon, step_size=1.0, num_steps=2)(model, x).item())
    assert penalties[1] > 1.5 * penalties[0]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**20))
def test_a_step_finds_more_than_random_noise_of_the_same_radius(make, x, seed):
    model = make()
    penalties = []
    for num_steps in (0, 1):
        torch.manual_seed(seed)
        smart = SMART(epsilon=1e-3, step_size=1.0, noise_std=1.0, num_steps=num_steps)
        penalties.append(smart(model, x).item())
    assert penalties[1] > penalties[0]


@pytest.mark.parametrize("preset", ["paper", "smart-pytorch"])
@pytest.mark.parametrize("scope", ["sample", "token"])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**20))
def test_a_sample_does_not_feel_the_rest_of_its_batch(make, x, preset, scope, seed):
    model = make()
    others = x.clone()
    others[1:] = 10 * torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    seen = []
    for batch in (x, others):
        torch.manual_seed(seed)
        SMART(preset=preset, scope=scope, num_steps=2)(
            lambda e: (seen.append(e[0].detach()), model(e))[1], batch
        )
    for a, b in zip(seen[:4], seen[4:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


class TestMask:
    """Padded positions."""

    @pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.float64])
    def test_every_form_of_a_mask_means_the_same(self, make, x, mask, dtype):
        results = []
        for form in (mask, mask.to(dtype)):
            torch.manual_seed(0)
            results.append(SMART(epsilon=1e-2).penalize(partial(make(), mask=mask), x, mask=form)[1])
        assert torch.equal(*results)

    def test_a_mask_of_ones_is_no_mask(self, make, x):
        results = []
        for mask in (None, torch.ones(x.shape[:2])):
            torch.manual_seed(0)
            results.append(SMART(epsilon=1e-2).penalize(make(), x, mask=mask)[1])
        assert torch.equal(*results)

    @pytest.mark.parametrize("preset", ["paper", "smart-pytorch"])
    def test_padded_positions_stay_where_they_are_and_count_for_nothing(self, make, x, mask, preset):
        """Even for a model that looks at them."""
        model, seen = make(), []
        SMART(preset=preset, num_steps=2)(lambda e: (seen.append(e.detach()), model(e))[1], x, mask=mask)
        padded = ~mask.bool()
        assert len(seen) == 4
        for moved in seen[1:]:
            assert torch.equal(moved[padded], x[padded])
            assert (moved[~padded] != x[~padded]).any(-1).all()

    def test_output_mask_leaves_the_positions_that_count(self, x, mask):
        """Token-level outputs of a model that mixes positions: the others have no say in any step."""
        layer, real = nn.Linear(6, 3, dtype=torch.float64), mask > 0
        options = {"epsilon": 1e-2, "num_steps": 2}
        penalties = []
        for smart, part in (
            (SMART(**options), mask),
            (SMART(divergence=lambda p, q: symmetric_kl(p[real], q[real]), **options), None),
        ):
            torch.manual_seed(0)
            penalties.append(smart(lambda e: layer(e * e.sum(1, keepdim=True)), x, output_mask=part))
        torch.testing.assert_close(*penalties, rtol=1e-9, atol=0)


class TestCost:
    """One clean forward, K inner ones with a gradient of the perturbation alone, one outer."""

    @pytest.mark.parametrize("num_steps", [0, 1, 3])
    def test_forwards(self, make, x, num_steps):
        model, calls = make(), []
        model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
        smart = SMART(num_steps=num_steps)
        outputs, _ = smart.penalize(model, x)
        assert calls == [True] * (1 + num_steps + 1)
        calls.clear()
        smart(model, x, outputs)
        assert calls == [True] * (num_steps + 1)
        calls.clear()
        with torch.no_grad():
            smart.penalize(model, x)
        assert calls == [False] + [True] * num_steps + [False]

    def test_inner_steps_of_a_data_parallel_forward_talk_to_no_other_rank(self, make, x):
        model, calls = make(), []

        class Parallel:
            synced = True

            @contextmanager
            def no_sync(self):
                before, self.synced = self.synced, False
                yield
                self.synced = before

            def __call__(self, embeddings):
                calls.append(self.synced)
                return model(embeddings)

        SMART(num_steps=2).penalize(Parallel(), x)
        assert calls == [True, False, False, True]
        calls.clear()
        SMART(num_steps=2).backward(Parallel(), x, lambda outputs: outputs.sum(), weight=1.0)
        assert calls == [False, False, False, False, True]

    def test_parameters_take_no_part_in_the_inner_steps(self, x):
        computed = []

        class Probe(torch.autograd.Function):
            @staticmethod
            def forward(ctx, value):
                return value.clone()

            @staticmethod
            def backward(ctx, gradient):
                computed.append(True)
                return gradient

        weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        _, penalty = SMART(num_steps=2).penalize(lambda e: (e @ Probe.apply(weight)).mean(1), x)
        assert not computed
        penalty.backward()
        assert len(computed) == 2


def module_state(model):
    return {
        name: (t.clone(), t.requires_grad, None if t.grad is None else t.grad.clone())
        for name, t in [*model.named_parameters(), *model.named_buffers()]
    }


def assert_state(model, expected):
    for name, (value, requires_grad, gradient) in module_state(model).items():
        assert torch.equal(value, expected[name][0]), name
        assert requires_grad == expected[name][1]
        torch.testing.assert_close(gradient, expected[name][2], rtol=0, atol=0)


class TestState:
    """What a call may not change."""

    @pytest.fixture
    def model(self):
        """With running statistics, a frozen parameter and a gradient from before."""
        torch.manual_seed(0)
        layers = (nn.Flatten(), nn.BatchNorm1d(30), nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 3))
        model = nn.Sequential(*layers).double()
        model[2].bias.requires_grad_(False)
        model[2].weight.grad = torch.ones_like(model[2].weight)
        return model

    @pytest.mark.parametrize("no_grad", [False, True])
    def test_gradients_flags_and_buffers_are_as_they_were(self, model, x, no_grad):
        outputs = model(x)
        before = module_state(model)
        with torch.set_grad_enabled(not no_grad):
            penalty = SMART(num_steps=2)(model, x, outputs)
        assert_state(model, before)
        assert penalty.requires_grad != no_grad
        if not no_grad:
            penalty.backward()

    def test_the_clean_forward_moves_the_buffers_once(self, model, x):
        reference = copy.deepcopy(model)
        reference(x)
        expected = {name: buffer.clone() for name, buffer in reference.named_buffers()}
        SMART(num_steps=2).penalize(model, x)
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, expected[name])
        assert model[1].num_batches_tracked == 1

    def test_under_no_grad_it_is_the_same_number(self, make, x):
        model, results = make(dropout=0.3), []
        for enabled in (True, False):
            torch.manual_seed(0)
            with torch.set_grad_enabled(enabled):
                results.append(SMART(epsilon=1e-2, num_steps=2)(model, x).detach())
        assert torch.equal(*results)
        assert results[0] > 0

    def test_it_is_a_function_of_the_random_state(self, make, x):
        model = make(dropout=0.3)
        torch.manual_seed(0)
        first = [SMART()(model, x).item() for _ in range(2)]
        torch.manual_seed(0)
        assert [SMART()(model, x).item() for _ in range(2)] == first
        assert first[0] != first[1]


class TestDropout:
    """Masks of their own, or those of the clean forward."""

    def test_shared_masks_leave_the_perturbation_alone_to_make_a_difference(self, make, x):
        model = make(dropout=0.5)
        torch.manual_seed(0)
        independent, shared = (SMART(dropout=d)(model, x).item() for d in ("independent", "shared"))
        assert independent > 1e-3
        assert 0 < shared < 1e-8

    def test_every_forward_of_shared_dropout_draws_the_same_masks(self, make, x):
        model, seen = make(dropout=0.5), []
        model.dropout.register_forward_hook(lambda _, args, output: seen.append(output == 0))
        torch.manual_seed(0)
        SMART(dropout="shared", num_steps=2).penalize(model, x)
        assert len(seen) == 4
        assert all(torch.equal(seen[0], masks) for masks in seen)

    def test_the_random_state_goes_on_from_the_noise(self, make, x):
        """As if the perturbed forwards had not drawn; otherwise the next batch would repeat these masks."""
        model = make(dropout=0.5)
        torch.manual_seed(0)
        SMART(dropout="shared", num_steps=3).penalize(model, x)
        after = torch.get_rng_state()
        torch.manual_seed(0)
        model(x)
        torch.randn_like(x)
        assert torch.equal(after, torch.get_rng_state())

    def test_outputs_from_the_caller_need_the_state_from_before_their_forward(self, make, x):
        model, smart = make(dropout=0.5), SMART(dropout="shared")
        torch.manual_seed(0)
        rng = RNGState.capture()
        outputs = model(x)
        given = smart(model, x, outputs, rng=rng)
        torch.manual_seed(0)
        assert torch.equal(given, smart.penalize(model, x)[1])
        with pytest.raises(ValueError, match=r"RNGState.capture\(\).*leave outputs out"):
            smart(model, x, outputs)

    @pytest.mark.parametrize(("dropout", "given"), [("independent", True), ("shared", False)])
    def test_a_state_without_use_is_refused(self, make, x, dropout, given):
        model = make()
        with pytest.raises(ValueError, match=f"dropout='{dropout}'"):
            SMART(dropout=dropout)(model, x, model(x) if given else None, rng=RNGState.capture())


class TestStructure:
    """Several embeddings of a sample, several outputs."""

    def test_a_tuple_equals_the_one_tensor_that_joins_it(self, make, x):
        """The pair is one sample: its norms cover both sides."""
        head, joined = make(), x.repeat(1, 2, 1) + 0.1
        first, second = joined.chunk(2, dim=1)
        options = {"epsilon": 1e-2, "step_size": 1e-3, "noise_std": 1e-30}  # no noise: its order differs

        def gap(outputs, clean):  # with a gradient at δ = 0
            return (outputs - clean).sum()

        together = SMART(divergence=gap, **options)(head, joined)
        apart = SMART(divergence=gap, **options)(lambda pair: head(torch.cat(pair, dim=1)), (first, second))
        torch.testing.assert_close(apart, together)
        assert together > 0

    def test_each_of_a_tuple_has_its_mask(self, make, x, mask):
        model, seen = make(), []

        def forward(pair):
            seen.append(pair)
            return model(pair[0]) - model(pair[1])

        pair = (x, x[:, :3] + 1)
        SMART().penalize(forward, pair, mask=(mask, None))
        assert all(isinstance(given, tuple) for given in seen)
        changed = [(moved != before).any(-1) for moved, before in zip(seen[-1], pair, strict=True)]
        assert torch.equal(changed[0], mask.bool())
        assert changed[1].all()

    def test_gradients_reach_both_of_a_tuple_and_both_branches(self, make, x):
        model = make()
        pair = tuple((x + i).requires_grad_() for i in range(2))
        outputs, penalty = SMART(epsilon=1e-2).penalize(lambda p: model(p[0]) * model(p[1]), pair)
        for gradient in torch.autograd.grad(penalty, [*pair, outputs], retain_graph=True):
            assert gradient.abs().max() > 0

    def test_detach_clean_leaves_the_perturbed_branch(self, make, x):
        model, gradients = make(), []
        for option, divergence in ((True, symmetric_kl), (False, partial(symmetric_kl, detach_clean=True))):
            torch.manual_seed(0)
            smart = SMART(epsilon=1e-2, detach_clean=option, divergence=divergence)
            outputs, penalty = smart.penalize(model, x)
            assert torch.autograd.grad(penalty, outputs, retain_graph=True, allow_unused=True) == (None,)
            gradients.append(torch.autograd.grad(penalty, model.outer.weight)[0])
        assert torch.equal(*gradients)
        assert gradients[0].abs().max() > 0

    def test_named_outputs_have_named_divergences_whose_sum_is_the_penalty(self, make, x):
        """Without steps, the perturbation is the same noise for all of them."""
        model = make(4)

        def forward(embeddings):
            outputs = model(embeddings)
            return {"kind": outputs[:, :3], "yes": outputs[:, 3], "hidden": embeddings.mean(1), "cache": None}

        divergences = {"kind": symmetric_kl, "yes": bernoulli_symmetric_kl}
        parts = [{"kind": symmetric_kl}, {"yes": bernoulli_symmetric_kl}, divergences]
        values = []
        for part in parts:
            torch.manual_seed(0)
            values.append(SMART(divergence=part, epsilon=1e-2, noise_std=1e-2, num_steps=0)(forward, x))
        torch.testing.assert_close(values[0] + values[1], values[2])
        assert SMART(divergence=divergences, num_steps=2)(forward, x) > 0


class TestPrecision:
    """What rounding would hide."""

    @pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
    def test_the_inner_steps_run_in_float32_under_autocast(self, make, x, epsilon):
        model, x = make(dtype=torch.float32), x.float()
        smart, seen = SMART(epsilon=epsilon, num_steps=2), []
        found = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                outputs, _ = smart.penalize(lambda e: (seen.append(e.detach()), model(e))[1], x)
            found.append(seen[-1])
            assert outputs.dtype == (torch.bfloat16 if enabled and epsilon > 1e-3 else torch.float32)
        assert torch.equal(*found)

    def test_rounding_makes_no_penalty_under_autocast(self, make, x):
        model, x = make(dtype=torch.float32), x.float()
        penalties = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                penalties.append(SMART()(model, x).item())
        assert penalties[0] == penalties[1] > 0

    def test_outputs_computed_under_autocast_are_warned_of(self, make, x):
        model, x = make(dtype=torch.float32), x.float()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(x)
            with pytest.warns(UserWarning, match="rounding outweighs a perturbation of radius 1e-05"):
                SMART()(model, x, outputs)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                SMART(epsilon=1e-2)(model, x, outputs)
                SMART(preset="smart-pytorch")(model, x, outputs)  # whose radius is 1, whatever epsilon

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_half_precision_model_is_refused_below_the_spacing_of_its_embeddings(self, make, x, dtype):
        model, x = make(dtype=dtype), (x / x.square().mean().sqrt()).to(dtype) * 1.5
        spacing = torch.finfo(dtype).eps  # between 1 and 2
        for name in ("epsilon", "noise_std"):
            options = {"epsilon": 8 * spacing, "noise_std": spacing, "step_size": 1.0}
            assert SMART(**options)(model, x) > 0
            with pytest.raises(ValueError, match=f"{name} .*at least {spacing:.2g}, the spacing of {dtype}"):
                SMART(**{**options, name: 0.9 * spacing})(model, x)

    def test_padding_has_no_say_in_the_spacing(self, make, x):
        model, x = make(dtype=torch.bfloat16), x.bfloat16()
        x[:, 1:] = 1e4
        mask = torch.zeros(x.shape[:2])
        mask[:, 0] = 1
        smart = SMART(epsilon=0.1, noise_std=0.1)
        smart(partial(model, mask=mask), x, mask=mask)
        with pytest.raises(ValueError, match="spacing"):
            smart(model, x)


class TestRefusals:
    """One sentence that names the argument, the value and the remedy."""

    @pytest.mark.parametrize("option", [{"preset": "mt-dnn"}, {"dropout": "none"}, {"epsilon": 0.0}])
    def test_impossible_options(self, option):
        ((name, value),) = option.items()
        with pytest.raises(ValueError, match=f"{name} .*got {value!r}"):
            SMART(**option)

    def test_a_forward_that_does_not_use_its_embeddings(self, make, x):
        model = make()
        for forward in (lambda _: model(x), torch.no_grad()(model), lambda _: torch.zeros(4, 3)):
            with pytest.raises(ValueError, match="forward must compute its outputs from the embeddings"):
                SMART()(forward, x)

    def test_one_logit_under_the_default_divergence(self, make, x):
        with pytest.raises(ValueError, match="bernoulli_symmetric_kl"):
            SMART().penalize(make(1), x)

    @pytest.mark.parametrize("ids", [torch.ones(4, 5, dtype=torch.long), [1, 2], (), "text"])
    def test_what_is_no_embedding(self, make, ids):
        with pytest.raises(TypeError, match="embedding layer, not token ids"):
            SMART()(make(), ids)

    def test_masks_that_do_not_fit(self, make, x):
        for mask, message in (
            (torch.ones(4, 4), r"got \(4, 4\) for \(4, 5, 6\)"),
            (torch.ones(4, 5, 6), r"got \(4, 5, 6\)"),
            (torch.full((4, 5), -1e9), "not an additive one"),
            ((torch.ones(4, 5),), "structure of embeddings"),
        ):
            with pytest.raises(ValueError, match=message):
                SMART()(make(), x, mask=mask)

    def test_embeddings_of_different_batches(self, make, x):
        with pytest.raises(ValueError, match=r"with one B, got \[\(4, 5, 6\), \(3, 5, 6\)\]"):
            SMART()(make(), (x, x[:3]))


def test_a_penalty_that_is_not_finite_shows(make, x):
    model = make()
    nn.init.constant_(model.outer.weight, math.inf)
    assert not SMART()(model, x).isfinite()
