"""Misuse: one sentence that names the argument, the value and the remedy."""

import math
import re
from contextlib import contextmanager

import pytest
import torch

from smartreg import SMART, bernoulli_symmetric_kl, squared_error, symmetric_kl


@contextmanager
def refused(error, message):
    """Expects an error of one sentence that holds what was received, and in which the pattern is found."""
    with pytest.raises(error, match=message) as caught:
        yield
    text = str(caught.value)
    assert "got" in text
    assert "\n" not in text
    assert not re.search(r"[.!?](\s+[A-Z]|$)", text)


@pytest.mark.parametrize(
    "option",
    [
        {"preset": "mt-dnn"},
        {"dropout": "none"},
        {"epsilon": 0.0},
        {"epsilon": math.nan},
        {"noise": "cauchy"},
        {"noise_std": 0.0},
        {"search_radius": math.inf},
    ],
)
def test_impossible_options(option):
    ((name, value),) = option.items()
    with refused(ValueError, f"{name} .*got {value!r}"):
        SMART(**option)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"preset": "r3f", "step_size": math.inf}, "step_size"),
        ({"preset": "r3f", "search_radius": 0.1}, "search_radius"),
        ({"preset": "vat", "epsilon": math.inf}, "step_size"),
        ({"preset": "smart-pytorch", "noise_std": math.inf}, "noise_std"),
        ({"preset": "smart-pytorch", "epsilon": math.inf}, "epsilon"),
        ({"preset": "r-drop", "num_steps": 1}, "noise_std"),
        ({"preset": "r-drop", "dropout": "shared"}, "dropout"),
    ],
)
def test_options_that_do_not_go_together(options, name):
    with refused(ValueError, f"^{name} must be"):
        SMART(**options)


def test_a_forward_that_does_not_use_its_embeddings(make, x):
    model = make()
    for forward in (lambda _: model(x), torch.no_grad()(model), lambda _: torch.zeros(4, 3)):
        with refused(ValueError, "forward must compute its outputs from the embeddings"):
            SMART()(forward, x)
    with refused(ValueError, "without a gradient of 1 of 2"):
        SMART()(lambda pair: model(pair[0]), (x, x))


def test_one_logit_under_the_default_divergence(make, x):
    for divergence in (None, {"logits": symmetric_kl}):
        with refused(ValueError, "bernoulli_symmetric_kl"):
            model = make(1)
            forward = model if divergence is None else lambda e, model=model: {"logits": model(e)}
            SMART(divergence=divergence).penalize(forward, x)


@pytest.mark.parametrize("ids", [torch.ones(4, 5, dtype=torch.long), [1, 2], (), "text"])
def test_what_is_no_embedding(make, ids):
    with refused(TypeError, "embedding layer, not token ids"):
        SMART()(make(), ids)


def test_masks_that_do_not_fit(make, x):
    for mask, message in (
        (torch.ones(4, 4), r"got \(4, 4\) for \(4, 5, 6\)"),
        (torch.ones(4, 5, 6), r"got \(4, 5, 6\)"),
        (torch.full((4, 5), -1e9), "not an additive one"),
        ((torch.ones(4, 5),), "structure of embeddings"),
    ):
        with refused(ValueError, message):
            SMART()(make(), x, mask=mask)
    with refused(ValueError, r"got \(4, 5\) for \(4, 3\)"):
        SMART()(make(), x, output_mask=torch.ones(4, 5))


def test_smart_pytorch_has_no_output_mask(make, x):
    for num_steps in (0, 1):
        with refused(ValueError, r"output_mask has no counterpart .* divergence=symmetric_kl"):
            SMART(preset="smart-pytorch", num_steps=num_steps)(make(), x, output_mask=torch.ones(4))


def test_an_empty_batch_has_no_penalty(make, x):
    empty, mask = x[:0], torch.ones(0, x.shape[1])
    assert SMART()(make(), empty, mask=mask, output_mask=torch.ones(0)) == 0


def test_embeddings_of_different_batches(make, x):
    with refused(ValueError, r"with one B, got \[\(4, 5, 6\), \(3, 5, 6\)\]"):
        SMART()(make(), (x, x[:3]))


@pytest.mark.parametrize("divergence", [symmetric_kl, bernoulli_symmetric_kl, lambda p, q: (p - q).sum()])
def test_outputs_that_differ_between_calls(make, x, divergence):
    """Also for a divergence of the caller's own, which would broadcast."""
    model, calls = make(), []

    def forward(embeddings):
        calls.append(1)
        return model(embeddings)[: 1 if len(calls) > 1 else 4]

    with refused(ValueError, r"got \(1, 3\) and \(4, 3\): make forward return outputs of the same shape"):
        SMART(divergence=divergence)(forward, x)
    calls.clear()
    with refused(TypeError, "'kind'"):
        named = {"kind": squared_error}
        SMART(divergence=named)(
            lambda e: {"kind" if calls.append(1) or len(calls) == 1 else "other": model(e)}, x
        )


class TestModes:
    """Where evaluation mode or no_grad would change what the penalty is."""

    def test_r_drop_without_dropout_would_be_zero(self, make, x):
        model = make(dropout=0.5)
        assert SMART(preset="r-drop")(model, x) > 0
        with torch.no_grad():
            assert SMART(preset="r-drop")(model, x) > 0
        for still in (model.eval(), make()):
            with refused(RuntimeError, r"call model.train\(\) first"):
                SMART(preset="r-drop")(still, x)

    def test_outputs_without_a_graph_would_halve_the_gradient(self, make, x):
        model = make()
        with torch.no_grad():
            outputs = model(x)
            assert SMART()(model, x, outputs) > 0
        for without_graph in (outputs, model(x).detach()):
            with refused(ValueError, r"outside torch.no_grad\(\), or take detach_clean=True"):
                SMART()(model, x, without_graph)
            assert SMART(detach_clean=True)(model, x, without_graph).requires_grad

    def test_a_frozen_model_has_no_gradient_to_halve(self, make, x):
        model = make().requires_grad_(False)
        assert SMART()(model, x, model(x)) > 0

    def test_inference_mode_forbids_the_search_alone(self, make, x):
        model = make(dropout=0.5)
        with torch.inference_mode():
            assert SMART(preset="r3f")(model, x) > 0
            assert SMART(preset="r-drop")(model, x) > 0
            with refused(RuntimeError, r"take torch.no_grad\(\)"):
                SMART()(model, x)


class TestSpacing:
    """ε and σ below what the embeddings' type can represent."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_a_perturbation_that_would_be_lost(self, make, x, dtype, norm):
        model, x = make(dtype=dtype), (x / x.square().mean().sqrt() * 1.5).to(dtype)
        spacing = torch.finfo(dtype).eps  # between 1 and 2
        options = {"epsilon": 8 * spacing, "noise_std": spacing, "step_size": 1.0, "norm": norm}
        assert SMART(**options)(model, x) > 0
        for name in ("epsilon", "noise_std"):
            with refused(ValueError, f"{name} must be at least {spacing:.2g}, the spacing of {dtype}"):
                SMART(**{**options, name: 0.9 * spacing})(model, x)

    def test_the_radius_of_the_search_over_all_coordinates(self, make, x):
        """In L2 the start of the search spreads it: 1e-6, as VAT has been published, over 30 coordinates."""
        model, x = make(dtype=torch.float32), (x / x.square().mean().sqrt() * 1.5).float()
        spacing = torch.finfo(torch.float32).eps
        with refused(ValueError, f"search_radius must be at least {30**0.5 * spacing:.2g}, 5.48 times the"):
            SMART(preset="vat", search_radius=5 * spacing)(model, x)
        assert SMART(preset="vat", search_radius=6 * spacing)(model, x) > 0

    def test_padding_has_no_say(self, make, x):
        model, x = make(dtype=torch.bfloat16), x.bfloat16()
        x[:, 1:] = 1e4
        mask = torch.zeros(x.shape[:2])
        mask[:, 0] = 1
        smart = SMART(epsilon=0.1, noise_std=0.1)
        smart(lambda e: model(e, mask), x, mask=mask)
        with refused(ValueError, "spacing"):
            smart(model, x)

    def test_without_a_perturbation_there_is_nothing_to_lose(self, make, x):
        model = make(dropout=0.5, dtype=torch.bfloat16)
        assert SMART(preset="r-drop")(model, x.bfloat16()) > 0
        with torch.autocast("cpu", torch.bfloat16):
            outputs, _ = SMART(preset="r-drop").penalize(make(dropout=0.5, dtype=torch.float32), x.float())
        assert outputs.dtype == torch.bfloat16


@pytest.mark.parametrize("detach_clean", [False, True])
@pytest.mark.parametrize("way", ["backward", "diagnose"])
@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (torch.ones(()), TypeError, "loss must be a function of the outputs, got Tensor"),
        (lambda outputs: outputs.sum().item(), TypeError, "loss must return a tensor, got float"),
        (
            lambda outputs: outputs.square().flatten()[:3],
            ValueError,
            r"loss must return one number with a graph, got shape \(3,\)",
        ),
        (lambda outputs: outputs.detach().sum(), ValueError, "one number with a graph, got one without"),
    ],
)
def test_a_loss_that_is_not_one_number_of_the_outputs(make, x, loss, error, message, way, detach_clean):
    smart, model = SMART(detach_clean=detach_clean), make()
    with refused(error, message):
        if way == "backward":
            smart.backward(model, x, loss, weight=1.0)
        else:
            smart.diagnose(model, x, loss=loss, parameters=model.parameters(), samples=1)
