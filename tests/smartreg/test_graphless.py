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
