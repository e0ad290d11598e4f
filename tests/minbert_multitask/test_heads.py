"""The heads: their formulas written out, and their losses, gradients included, against torch's."""

from functools import partial

import pytest
import torch
from minbert_multitask.heads import (
    PARAPHRASE_HEADS,
    SIMILARITY_HEADS,
    AgreementParaphrase,
    AgreementSimilarity,
    CosineBesideSimilarity,
    CosineEmbeddingSimilarity,
    CosineFeaturesSimilarity,
    JointParaphrase,
    JointSimilarity,
    LinearSimilarity,
    ParaphraseHead,
    ScaledCosineSimilarity,
    SentimentHead,
)
from torch import nn

from smartreg import bernoulli_symmetric_kl, squared_error, symmetric_kl

D, B = 6, 9
HEADS = {
    "sentiment": SentimentHead,
    "paraphrase": ParaphraseHead,
    "paraphrase-agreement": AgreementParaphrase,
    "paraphrase-joint": JointParaphrase,
    **SIMILARITY_HEADS,
}
ONE_EMBEDDING = ("sentiment", "joint", "paraphrase-joint")
SIMILARITY = torch.tensor([0.0, 1.2, 2.4, 2.5, 2.6, 3.0, 4.0, 4.8, 5.0])
LABELS = {"sentiment": torch.arange(B) % 5}
LABELS |= dict.fromkeys(("paraphrase", "paraphrase-agreement", "paraphrase-joint"), torch.arange(B) % 2)


def embeddings(name, size=B):
    torch.manual_seed(0)
    return torch.randn(1 if name in ONE_EMBEDDING else 2, size, D, dtype=torch.float64, requires_grad=True)


def head_of(name):
    torch.manual_seed(1)
    return HEADS[name](D).double().eval()


def labels_of(name):
    return LABELS.get(name, SIMILARITY).float()  # as a batch holds them


# Outputs


def test_the_similarity_heads_are_the_tables():
    assert {
        "linear": LinearSimilarity,
        "cosine-embedding": CosineEmbeddingSimilarity,
        "cosine-d": CosineFeaturesSimilarity,
        "cosine-2d+1": CosineBesideSimilarity,
        "cosine-scaled": ScaledCosineSimilarity,
        "agreement": AgreementSimilarity,
        "joint": JointSimilarity,
    } == SIMILARITY_HEADS
    assert {
        "linear": ParaphraseHead,
        "agreement": AgreementParaphrase,
        "joint": JointParaphrase,
    } == PARAPHRASE_HEADS


def test_only_joint_heads_want_a_pair_in_one_row():
    assert {name for name, head in HEADS.items() if head.joint} == {"joint", "paraphrase-joint"}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("sentiment", [(5, D), (5,)]),
        ("paraphrase", [(1, 2 * D), (1,)]),
        ("linear", [(1, 2 * D), (1,)]),
        ("cosine-embedding", []),
        ("cosine-d", [(D, D), (D,)]),
        ("cosine-2d+1", [(1, 2 * D + 1), (1,)]),
        ("cosine-scaled", [(), ()]),
        ("agreement", [(1, 4 * D), (1,)]),
        ("joint", [(1, D), (1,)]),
        ("paraphrase-agreement", [(1, 4 * D), (1,)]),
        ("paraphrase-joint", [(1, D), (1,)]),
    ],
)
@pytest.mark.parametrize("size", [1, B])
def test_shapes(name, shapes, size):
    head = head_of(name)
    assert [tuple(parameter.shape) for parameter in head.parameters()] == shapes
    outputs = head(*embeddings(name, size))
    assert outputs.shape == ((size, 5) if name == "sentiment" else (size,))
    assert head.loss(outputs, labels_of(name)[:size]).shape == ()
    assert head.predict(outputs).shape == (size,)


def linear(head, features):
    return (features.unsqueeze(-2) * head.linear.weight).sum(-1) + head.linear.bias


def cosine(a, b):
    return (a * b).sum(-1) / ((a * a).sum(-1) * (b * b).sum(-1)).sqrt()


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sentiment", linear),
        ("paraphrase", lambda head, a, b: linear(head, torch.cat([a, b], -1))[:, 0]),
        ("linear", lambda head, a, b: linear(head, torch.cat([a, b], -1))[:, 0]),
        ("cosine-embedding", lambda head, a, b: cosine(a, b)),
        ("cosine-d", lambda head, a, b: 5 / (1 + torch.exp(-20 * cosine(linear(head, a), linear(head, b))))),
        ("cosine-2d+1", lambda head, a, b: linear(head, torch.cat([a, b, cosine(a, b)[:, None]], -1))[:, 0]),
        ("cosine-scaled", lambda head, a, b: 5 * cosine(a, b)),
        ("agreement", lambda head, a, b: linear(head, torch.cat([a, b, (a - b).abs(), a * b], -1))[:, 0]),
        ("joint", lambda head, pair: linear(head, pair)[:, 0]),
        (
            "paraphrase-agreement",
            lambda head, a, b: linear(head, torch.cat([a, b, (a - b).abs(), a * b], -1))[:, 0],
        ),
        ("paraphrase-joint", lambda head, pair: linear(head, pair)[:, 0]),
    ],
)
def test_outputs_are_the_formulas(name, formula):
    head, inputs = head_of(name), embeddings(name)
    torch.testing.assert_close(head(*inputs), formula(head, *inputs))


def test_the_linear_similarity_is_additive_in_the_two_embeddings():
    head, (a, b) = head_of("linear"), embeddings("linear")
    here, there = (head(a, other) - head(a.flip(0), other) for other in (b, b.flip(0)))
    torch.testing.assert_close(here, there)


@pytest.mark.parametrize("name", ["agreement", "cosine-2d+1", "cosine-scaled"])
def test_the_other_similarities_are_not(name):
    head, (a, b) = head_of(name), embeddings(name)
    here, there = (head(a, other) - head(a.flip(0), other) for other in (b, b.flip(0)))
    assert (here - there).abs().max() > 1e-3


def test_equal_sentences_have_the_highest_cosine_similarity():
    a, _ = embeddings("cosine-d")
    torch.testing.assert_close(head_of("cosine-d")(a, a), torch.full((B,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(head_of("cosine-embedding")(a, 3 * a), torch.ones(B, dtype=torch.float64))


# Losses and predictions


def cosine_embedding_loss(name, head, inputs):
    target = torch.where(SIMILARITY >= 2.5, 1.0, -1.0)
    return nn.CosineEmbeddingLoss(margin=0.0)(*inputs, target)


def on_outputs(loss, dtype, name, head, inputs):
    return loss(head(*inputs), LABELS.get(name, SIMILARITY).to(dtype))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("sentiment", partial(on_outputs, nn.CrossEntropyLoss(), torch.int64)),
        ("paraphrase", partial(on_outputs, nn.BCEWithLogitsLoss(), torch.float64)),
        ("linear", partial(on_outputs, nn.MSELoss(), torch.float64)),
        ("cosine-embedding", cosine_embedding_loss),
        ("cosine-d", partial(on_outputs, nn.MSELoss(), torch.float64)),
        ("cosine-2d+1", partial(on_outputs, nn.MSELoss(), torch.float64)),
        ("cosine-scaled", partial(on_outputs, nn.MSELoss(), torch.float64)),
        ("agreement", partial(on_outputs, nn.MSELoss(), torch.float64)),
        ("joint", partial(on_outputs, nn.MSELoss(), torch.float64)),
        ("paraphrase-agreement", partial(on_outputs, nn.BCEWithLogitsLoss(), torch.float64)),
        ("paraphrase-joint", partial(on_outputs, nn.BCEWithLogitsLoss(), torch.float64)),
    ],
)
def test_losses_and_their_gradients_are_torchs(name, loss):
    head, inputs = head_of(name), embeddings(name)
    found, expected = head.loss(head(*inputs), labels_of(name)), loss(name, head, inputs)
    torch.testing.assert_close(found, expected)
    leaves = [inputs, *head.parameters()]
    for a, b in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("similarity", "alike"), [(0.0, False), (2.4999, False), (2.5, True), (5.0, True)])
@pytest.mark.parametrize("value", [-0.5, 0.25])
def test_sentences_are_alike_from_two_and_a_half_on(similarity, alike, value):
    loss = head_of("cosine-embedding").loss(torch.tensor([value]), torch.tensor([similarity]))
    assert loss == (1 - value if alike else max(0, value))


@pytest.mark.parametrize("name", ["linear", "cosine-d", "cosine-2d+1"])
def test_outputs_in_half_precision_do_not_round_the_labels(name):
    outputs = torch.tensor([3.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor([3.333, 1.2])
    loss = head_of(name).loss(outputs, labels)
    torch.testing.assert_close(loss, torch.tensor((0.333**2 + 0.2**2) / 2))
    loss.backward()
    torch.testing.assert_close(outputs.grad, torch.tensor([-0.333, -0.2]).bfloat16())


@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_trains_under_autocast(name):
    head, inputs = head_of(name).float(), embeddings(name).float().detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.loss(head(*inputs), labels_of(name))
    loss.backward()
    exact = head_of(name)
    expected = exact.loss(exact(*inputs.double()), labels_of(name))
    torch.testing.assert_close(loss.double(), expected, rtol=0.03, atol=0.01)
    assert all(torch.isfinite(parameter.grad).all() for parameter in [inputs, *head.parameters()])


def test_predictions():
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    likeliest = [max(range(5), key=row.softmax(0).tolist().__getitem__) for row in logits]
    assert head_of("sentiment").predict(logits).tolist() == likeliest
    paraphrase = head_of("paraphrase").predict(logits[:, 0])
    assert paraphrase.tolist() == [int(p > 0.5) for p in logits[:, 0].sigmoid().tolist()]
    assert not paraphrase.is_floating_point()
    for name in SIMILARITY_HEADS:
        assert torch.equal(head_of(name).predict(logits[:, 0]), logits[:, 0])


# What SMART and dropout need


@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_has_the_divergence_of_its_loss(name):
    expected = {"sentiment": symmetric_kl, "paraphrase": bernoulli_symmetric_kl}
    assert head_of(name).divergence is expected.get(name.split("-")[0], squared_error)


@pytest.mark.parametrize("name", list(HEADS))
def test_dropout_takes_three_tenths_of_what_the_linear_layer_sees_but_for_the_baselines_similarity(name):
    torch.manual_seed(0)
    head = HEADS[name](D).train()
    inputs = torch.rand(1 if name in ONE_EMBEDDING else 2, 4000, D) + 0.5
    if name in ("linear", "cosine-embedding", "cosine-scaled"):
        assert torch.equal(head(*inputs), head.eval()(*inputs))
        return
    seen = []
    head.linear.register_forward_pre_hook(lambda _, features: seen.append(features[0]))
    head(*inputs)
    share = torch.cat(seen).eq(0).float().mean(0)  # of each feature, the cosine among them
    torch.testing.assert_close(share, torch.full_like(share, 0.3), rtol=0, atol=0.04)
    head.eval()(*inputs)
    assert not seen[-1].eq(0).any()
