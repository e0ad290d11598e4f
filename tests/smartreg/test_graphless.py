"""Passes without a graph leave nothing for those with one, where torch keeps weights between forwards."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from smartreg import SMART, EmbeddingFunction


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = weight_norm(nn.Embedding(9, 6))
        self.head = weight_norm(nn.Linear(6, 3))

    def forward(self, ids):
        return self.of(self.embedding(ids))

    def of(self, embeddings):
        return self.head(embeddings.mean(1))


def of_embeddings(model, ids):
    return model.of, model.embedding(ids)


def bound(model, ids):
    return EmbeddingFunction(model, model.embedding).bind(ids)


def low_memory(smart, forward, x):
    smart.backward(forward, x, lambda outputs: outputs.square().sum(), weight=2.0)


def joint(smart, forward, x):
    outputs, penalty = smart.penalize(forward, x)
    (outputs.square().sum() + 2 * penalty).backward()


@pytest.mark.parametrize("way", [low_memory, joint])
@pytest.mark.parametrize("bind", [of_embeddings, bound])
def test_weights_that_parametrizations_keep_get_their_gradient(bind, way):
    torch.manual_seed(0)
    model, ids = Classifier().double(), torch.randint(9, (4, 5))
    smart = SMART(epsilon=1e-2, step_size=1.0, noise_std=1e-2)
    found = []
    for cached in (nullcontext, parametrize.cached):
        model.zero_grad()
        torch.manual_seed(1)
        with cached():
            way(smart, *bind(model, ids))
            assert bool(parametrize._cache_enabled) == (cached is parametrize.cached)
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("call", ["diagnose", "sweep"])
def test_a_measurement_leaves_no_kept_weight_without_a_graph(call, share):
    torch.manual_seed(0)
    model, ids = Classifier(), torch.randint(9, (4, 5))
    smart = SMART(epsilon=1e-2, step_size=1.0, noise_std=1e-2)
    shared = {"loss": torch.sum, "parameters": list(model.head.parameters()), "weight": 1.0}
    with parametrize.cached():
        getattr(smart, call)(*of_embeddings(model, ids), **shared if share else {})
        model(ids).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_transformer_layers_compute_without_a_graph_what_they_do_with_one():
    """In evaluation torch takes another way without a graph, which puts zeros where positions are padded."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(4, 5, 16)
    mask = torch.ones(4, 5)
    mask[:, 3:] = 0

    def forward(embeddings):
        return encoder(embeddings, src_key_padding_mask=mask == 0)

    found = []
    for way in ("joint", "backward", "diagnose"):
        smart = SMART(epsilon=0.1, step_size=1.0, noise_std=0.1, generator=torch.Generator().manual_seed(0))
        if way == "joint":
            found.append(smart.penalize(forward, x, mask=mask)[1].item())
        elif way == "backward":
            terms = smart.backward(
                forward, x, lambda o: o[mask.bool()].square().mean(), weight=1.0, mask=mask
            )
            found.append(terms.penalty.item())
        else:
            found.append(smart.diagnose(forward, x, mask=mask, samples=1).adversarial)
        assert torch.backends.mha.get_fastpath_enabled()
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
