"""What a penalty leaves as it was, what dropout does in it, and what rounding may not do."""

import copy
import warnings

import pytest
import torch
from torch import nn

from smartreg import SMART, RNGState


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

    @pytest.mark.parametrize("way", ["penalize", "backward", "diagnose"])
    def test_a_model_in_half_precision_is_called_under_autocast_as_without(self, make, x, way):
        """As a trainer calls a model that was loaded in bfloat16: float32 embeddings would not fit."""
        model, x = make(dtype=torch.bfloat16), x.bfloat16()
        smart = SMART(epsilon=0.5, step_size=1.0, noise_std=0.5)
        found = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                if way == "penalize":
                    found.append(smart.penalize(model, x)[1].item())
                elif way == "backward":
                    found.append(
                        smart.backward(model, x, lambda y: y.square().sum(), weight=1.0).penalty.item()
                    )
                else:
                    found.append(smart.diagnose(model.forward, x, samples=1).adversarial)
        assert found[1] == pytest.approx(found[0], rel=0.05)
        assert found[0] > 0

    def test_rounding_makes_no_penalty_under_autocast(self, make, x):
        model, x = make(dtype=torch.float32), x.float()
        penalties = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                penalties.append(SMART()(model, x).item())
        assert penalties[0] == penalties[1] > 0

    def test_an_autocast_inside_the_forward_is_warned_of(self, make, x):
        model, smart = make(dtype=torch.float32), SMART(epsilon=1e-5)

        def forward(x):
            with torch.autocast("cpu", torch.bfloat16):
                return model(x)

        with pytest.warns(
            UserWarning, match="got outputs of 16 bits, whose rounding outweighs a perturbation"
        ):
            smart.penalize(forward, x.float())
        with pytest.warns(UserWarning, match="got outputs of 16 bits"):
            smart.backward(forward, x.float(), lambda outputs: outputs.float().sum(), weight=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SMART(epsilon=0.1, step_size=0.1).penalize(forward, x.float())
            with torch.autocast("cpu", torch.bfloat16):
                smart.penalize(model, x.float())

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
