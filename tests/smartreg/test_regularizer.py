"""SMART's masks, cost and structure."""

import math
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from smartreg import SMART, bernoulli_symmetric_kl, symmetric_kl


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


class TestStructure:
    """Several embeddings of a sample, several outputs."""

    def test_a_tuple_equals_the_one_tensor_that_joins_it(self, make, x):
        """The pair is one sample: its norms cover both sides."""
        head, joined = make(), x.repeat(1, 2, 1) + 0.1
        first, second = joined.chunk(2, dim=1)
        options = {
            "epsilon": 1e-2,
            "step_size": 1e-3,
            "noise_std": 1e-12,
        }  # next to no noise: its order differs

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


def test_a_penalty_that_is_not_finite_shows(make, x):
    model = make()
    nn.init.constant_(model.outer.weight, math.inf)
    assert not SMART()(model, x).isfinite()
