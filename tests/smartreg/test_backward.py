"""The two-phase backward against the backward of the joint loss."""

from collections import namedtuple
from functools import partial
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from smartreg import SMART, bernoulli_symmetric_kl, squared_error, symmetric_kl

LABELS = torch.tensor([0, 2, 1, 0])
WEIGHT = 5.0


def gradients(embedding, model):
    return [p.grad.clone() for p in [*embedding.parameters(), *model.parameters()]]


def task_loss(outputs):
    if isinstance(outputs, dict):
        return F.cross_entropy(outputs["kind"], LABELS) + outputs["size"].square().mean()
    return F.cross_entropy(outputs, LABELS)


def several(model, embeddings):
    outputs = model(embeddings)
    return {"kind": outputs[:, :3], "size": outputs[:, 3], "cache": None}


def siamese(model, pair):
    return model(pair[0]) * model(pair[1])


FORMS = {
    "one": (lambda model, x: model(x), 3, symmetric_kl),
    "siamese": (siamese, 3, symmetric_kl),
    "several": (several, 4, {"kind": symmetric_kl, "size": squared_error}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("detach_clean", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**20),
    num_steps=st.sampled_from([1, 3]),
    dropout=st.sampled_from(["independent", "shared"]),
    options=st.sampled_from(
        [{}, {"epsilon": 0.1, "step_size": 0.1, "norm": "l2"}, {"preset": "smart-pytorch"}]
    ),
    rate=st.sampled_from([0.0, 0.3]),
    attached=st.booleans(),
)
def test_it_adds_the_gradients_of_the_joint_loss(
    make, x, mask, form, detach_clean, dtype, tolerance, seed, num_steps, dropout, options, rate, attached
):
    """Relative to the whole gradient; with dropout, and with embeddings that have parameters or not."""
    function, num_outputs, divergence = FORMS[form]
    model, embedding = make(num_outputs, rate, dtype), nn.Linear(6, 6, dtype=dtype)
    smart = SMART(
        divergence=divergence, num_steps=num_steps, dropout=dropout, detach_clean=detach_clean, **options
    )
    results = []
    for joint in (True, False):
        for parameter in [*embedding.parameters(), *model.parameters()]:
            parameter.grad = torch.zeros_like(parameter)
        torch.manual_seed(seed)
        embeddings, masks = embedding(x.to(dtype)), mask
        if form == "siamese":
            embeddings, masks = (embeddings, embedding(x.to(dtype).flip(-1))), (mask, None)
        if not attached:
            embeddings = tuple(e.detach() for e in embeddings) if form == "siamese" else embeddings.detach()
        forward = partial(function, model)
        if joint:
            outputs, penalty = smart.penalize(forward, embeddings, mask=masks)
            loss = task_loss(outputs)
            (loss + WEIGHT * penalty).backward()
        else:
            terms = smart.backward(forward, embeddings, task_loss, weight=WEIGHT, mask=masks)
            loss, penalty, outputs = terms.loss, terms.penalty, terms.outputs
            assert not any(t.requires_grad for t in (loss, penalty))
        results.append((gradients(embedding, model), loss, penalty, torch.get_rng_state()))
    (expected, *terms, rng), (found, *other_terms, other_rng) = results
    difference = sum((a - b).square().sum() for a, b in zip(expected, found, strict=True)).sqrt()
    assert difference <= tolerance * sum(a.square().sum() for a in expected).sqrt()
    torch.testing.assert_close(other_terms, terms)
    assert penalty > 0
    assert torch.equal(rng, other_rng)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**20),
    num_steps=st.sampled_from([1, 3]),
    options=st.sampled_from([{}, {"dropout": "shared"}, {"detach_clean": True}]),
    autocast=st.booleans(),
    epsilon=st.sampled_from([1e-5, 0.1]),
    batches=st.sampled_from([1, 3]),
)
def test_a_step_with_a_scaler_and_accumulation_is_that_of_the_joint_loss(
    make, x, mask, form, seed, num_steps, options, autocast, epsilon, batches
):
    """Relative to the whole gradient of the step, with dropout."""
    function, num_outputs, divergence = FORMS[form]
    smart = SMART(divergence=divergence, num_steps=num_steps, epsilon=epsilon, step_size=0.1, **options)
    results = []
    for joint in (True, False):
        model = make(num_outputs, 0.3, torch.float32)
        forward = partial(function, model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        torch.manual_seed(seed)
        for each in range(batches):
            embeddings, masks = x.float() + each, mask
            if form == "siamese":
                embeddings, masks = (embeddings, -embeddings), (mask, None)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                if joint:
                    outputs, penalty = smart.penalize(forward, embeddings, mask=masks)
                    loss = task_loss(outputs) + WEIGHT * penalty
                else:
                    scale = lambda value, scaler=scaler: scaler.scale(value / batches)  # noqa: E731
                    smart.backward(forward, embeddings, task_loss, weight=WEIGHT, mask=masks, scale=scale)
            if joint:
                scaler.scale(loss / batches).backward()
        scaler.unscale_(optimizer)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        before = [p.detach().clone() for p in model.parameters()]
        scaler.step(optimizer)
        results.append(gradient)
        for parameter, old in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(parameter.detach(), old - 0.1 * parameter.grad)
    expected, found = results
    # Above a radius of 1e-3 an autocast rounds, and each way sums other roundings.
    tolerance = 2.0**-7 if autocast and epsilon > 1e-3 else 1e-6
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("detach_clean", [False, True])
def test_a_scaler_skips_a_step_that_overflows(make, x, detach_clean):
    model = make(dtype=torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    terms = SMART(epsilon=0.1, detach_clean=detach_clean).backward(
        model, x.float(), lambda outputs: 100 * task_loss(outputs), weight=WEIGHT, scale=scaler.scale
    )
    assert all(value.isfinite() for value in (terms.loss, terms.penalty))
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(
        torch.cat([b.flatten() for b in before]), torch.cat([p.flatten() for p in model.parameters()])
    )
    assert scaler.get_scale() == 2.0**126


@pytest.mark.parametrize(
    ("detach_clean", "graphs"), [(False, [False, True, True, True, True]), (True, [True] * 4)]
)
def test_the_price_is_one_clean_forward_without_a_graph(make, x, detach_clean, graphs):
    model, calls = make(), []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    SMART(num_steps=2, detach_clean=detach_clean).backward(model, x, task_loss, weight=WEIGHT)
    assert calls == ([True] * 4 if detach_clean else [False, True, True, True, True])


@pytest.mark.parametrize("scale", [0.25, lambda value: value * 0.25])
@pytest.mark.parametrize("detach_clean", [False, True])
def test_scale_multiplies_both_terms_but_not_what_is_returned(make, x, scale, detach_clean):
    model, smart, results = make(), SMART(epsilon=0.1, step_size=0.1, detach_clean=detach_clean), []
    for factor in (None, scale):
        model.zero_grad()
        torch.manual_seed(0)
        terms = smart.backward(model, x, task_loss, weight=WEIGHT, scale=factor)
        results.append((terms, [p.grad.clone() for p in model.parameters()]))
    (terms, whole), (scaled_terms, scaled) = results
    torch.testing.assert_close(scaled, [0.25 * g for g in whole])
    assert (scaled_terms.loss, scaled_terms.penalty) == (terms.loss, terms.penalty)


def test_a_gradient_from_before_is_added_to(make, x):
    model, results = make(), []
    for before in (0.0, 1.0):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, before)
        torch.manual_seed(0)
        SMART(epsilon=0.1).backward(model, x, task_loss, weight=WEIGHT)
        results.append([p.grad - before for p in model.parameters()])
    torch.testing.assert_close(*results)


def test_a_weight_of_zero_leaves_the_task(make, x):
    model = make()
    SMART(epsilon=0.1).backward(model, x, task_loss, weight=0.0)
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    task_loss(model(x)).backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])


def test_attached_embeddings_receive_one_backward(make, x):
    table, received = x.clone().requires_grad_(), []
    embeddings = 2 * table
    embeddings.register_hook(received.append)
    SMART().backward(make(), embeddings, task_loss, weight=WEIGHT)
    assert len(received) == 1
    torch.testing.assert_close(table.grad, 2 * received[0])


def test_buffers_move_once(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(30), nn.Linear(30, 3)).double()
    SMART(num_steps=2).backward(model, x, task_loss, weight=WEIGHT)
    assert model[1].num_batches_tracked == 1
    torch.testing.assert_close(model[1].running_mean, 0.1 * x.flatten(1).mean(0))


def test_under_autocast_it_equals_the_joint_loss(make, x):
    model, x, results = make(dtype=torch.float32, dropout=0.2), x.float(), []
    for epsilon in (1e-5, 0.1):
        smart = SMART(epsilon=epsilon, step_size=0.1)
        for joint in (True, False):
            model.zero_grad()
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16):
                if joint:
                    outputs, penalty = smart.penalize(model, x)
                    loss = task_loss(outputs) + WEIGHT * penalty
                else:
                    smart.backward(model, x, task_loss, weight=WEIGHT)
            if joint:
                loss.backward()
            results.append([p.grad.clone() for p in model.parameters()])
        tolerance = 1e-6 if epsilon < 1e-3 else 2.0**-9  # float32 throughout, or bfloat16 summed otherwise
        torch.testing.assert_close(*results[-2:], rtol=2 * tolerance, atol=tolerance)


def test_bernoulli_outputs_of_any_shape(make, x):
    terms = SMART(divergence=bernoulli_symmetric_kl, epsilon=0.1).backward(
        make(1), x, lambda outputs: outputs.square().mean(), weight=WEIGHT
    )
    assert terms.outputs.shape == (4, 1)
    assert terms.penalty > 0


def test_a_forward_that_cannot_be_repeated_is_refused(make, x):
    model, generator = make(), torch.Generator().manual_seed(0)

    def forward(embeddings):
        return model(embeddings) * torch.rand(3, generator=generator, dtype=x.dtype)

    with pytest.raises(RuntimeError, match=r"same random state.*detach_clean=True"):
        SMART().backward(forward, x, task_loss, weight=WEIGHT)
    terms = SMART(detach_clean=True).backward(forward, x, task_loss, weight=WEIGHT)
    assert terms.penalty > 0


@pytest.mark.parametrize("fill", [0.0, -1e4, torch.finfo(torch.float64).min, -torch.inf])
def test_it_is_refused_too_where_some_logits_are_masked(make, x, fill):
    """What a mask fills is equal in both forwards, and far larger than the outputs that are not."""
    model, generator = make(), torch.Generator().manual_seed(0)

    def forward(embeddings, factor=1.0):
        logits = model(embeddings) * factor
        return torch.cat([logits, torch.full_like(logits, fill)], 1)

    def unlike(embeddings):
        return forward(embeddings, 1 + torch.rand(3, generator=generator, dtype=x.dtype))

    with pytest.raises(RuntimeError, match="same random state"):
        SMART().backward(unlike, x, task_loss, weight=WEIGHT)
    assert SMART().backward(forward, x, task_loss, weight=WEIGHT).penalty > 0


def test_it_is_refused_too_where_another_logit_is_masked(make, x):
    model, calls = make(), []

    def forward(embeddings):
        calls.append(1)
        logits = model(embeddings)
        return logits.masked_fill(torch.arange(3) == len(calls) % 3, -torch.inf)

    with pytest.raises(RuntimeError, match="same random state"):
        SMART(num_steps=0).backward(forward, x, lambda outputs: outputs[:, 0].mean(), weight=WEIGHT)


Named = namedtuple("Named", "first second")


@pytest.mark.parametrize("detach_clean", [False, True])
def test_the_outputs_keep_their_type_and_lose_their_graph(make, x, detach_clean):
    model = make()

    def forward(embeddings):
        logits = model(embeddings)
        hidden = (embeddings * model.inner.weight[0], [logits * 2], Named(logits, 3))
        return SequenceClassifierOutput(logits=logits, hidden_states=hidden)

    smart = SMART(divergence={"logits": symmetric_kl}, detach_clean=detach_clean)
    found = smart.backward(forward, x, lambda outputs: task_loss(outputs.logits), weight=WEIGHT).outputs
    expected = forward(x)
    assert type(found) is SequenceClassifierOutput
    assert found.loss is None
    assert found.logits is found["logits"]
    torch.testing.assert_close(found.logits, expected.logits.detach())
    first, (second,), named = found.hidden_states
    assert type(named) is Named
    assert named.second == 3
    assert not any(t.requires_grad for t in (found.logits, first, second, named.first))
    assert expected.logits.requires_grad


def test_outputs_of_a_mapping_that_cannot_be_written_to_are_a_dict(make, x):
    model = make()
    smart = SMART(divergence={"logits": symmetric_kl})
    terms = smart.backward(
        lambda e: MappingProxyType({"logits": model(e)}), x, lambda o: task_loss(o["logits"]), weight=WEIGHT
    )
    assert not terms.outputs["logits"].requires_grad


def test_an_output_without_elements_is_no_obstacle(make, x):
    model = make()

    def forward(embeddings):
        return {"logits": model(embeddings), "spans": embeddings[:, :0]}

    smart = SMART(divergence={"logits": symmetric_kl})
    terms = smart.backward(forward, x, lambda out: task_loss(out["logits"]), weight=WEIGHT)
    assert terms.penalty > 0


def test_no_grad_is_refused(make, x):
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"outside torch.no_grad\(\)"):
        SMART().backward(make(), x, task_loss, weight=WEIGHT)


@pytest.mark.parametrize("detach_clean", [False, True])
@pytest.mark.parametrize("frozen", ["branch", "whole"])
def test_a_frozen_output_is_no_obstacle(make, x, frozen, detach_clean):
    """A branch, or all of f below a head that the loss has of its own."""
    trained, fixed, head = make(3), make(2).requires_grad_(False), nn.Linear(3, 3).double()
    trained.requires_grad_(frozen == "branch")
    smart = SMART(
        divergence={"a": symmetric_kl, "b": squared_error},
        epsilon=1e-2,
        step_size=1.0,
        noise_std=1e-2,
        detach_clean=detach_clean,
    )

    def forward(x):
        return {"a": trained(x), "b": fixed(x)}

    def loss(outputs):
        return F.cross_entropy(head(outputs["a"]), LABELS)

    torch.manual_seed(0)
    outputs, penalty = smart.penalize(forward, x)
    (loss(outputs) + WEIGHT * penalty).backward()
    expected = [p.grad for p in (*trained.parameters(), *head.parameters())]
    trained.zero_grad()
    head.zero_grad()
    torch.manual_seed(0)
    terms = smart.backward(forward, x, loss, weight=WEIGHT)
    torch.testing.assert_close(terms.penalty, penalty.detach())
    assert expected[-1] is not None
    assert (expected[0] is None) == (frozen == "whole")
    torch.testing.assert_close([p.grad for p in (*trained.parameters(), *head.parameters())], expected)


def test_the_loss_may_reach_the_embeddings_by_itself(make, x):
    model, auxiliary, table = make(), make(seed=1), nn.Parameter(x.clone())
    smart = SMART(epsilon=1e-2, step_size=1.0, noise_std=1e-2)

    def embedded():
        return table.tanh()

    torch.manual_seed(0)
    at = embedded()
    outputs, penalty = smart.penalize(model, at)
    (task_loss(outputs) + task_loss(auxiliary(at)) + WEIGHT * penalty).backward()
    trained = [table, *model.parameters(), *auxiliary.parameters()]
    expected = [p.grad for p in trained]
    for parameter in trained:
        parameter.grad = None
    torch.manual_seed(0)
    at = embedded()
    smart.backward(model, at, lambda o: task_loss(o) + task_loss(auxiliary(at)), weight=WEIGHT)
    torch.testing.assert_close([p.grad for p in trained], expected)
