"""Small models from embeddings to outputs, and batches for them."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

B, L, D = 4, 5, 6


class Encoder(nn.Module):
    """Masked mean pooling between two layers, so that samples stay apart and padding does not count."""

    def __init__(self, num_outputs=3, dropout=0.0):
        super().__init__()
        self.inner = nn.Linear(D, 8)
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(8, num_outputs)

    def forward(self, embeddings, mask=None):
        hidden = self.dropout(torch.tanh(self.inner(embeddings)))  # (B, L, 8)
        weight = torch.ones(hidden.shape[:2]) if mask is None else mask
        weight = weight.to(hidden.dtype).unsqueeze(-1)
        return self.outer((hidden * weight).sum(1) / weight.sum(1))  # (B, num_outputs)


@pytest.fixture(scope="session")
def make():
    """Makes an encoder with weights large enough to matter, in float64 unless told."""

    def build(num_outputs=3, dropout=0.0, dtype=torch.float64, seed=0):
        torch.manual_seed(seed)
        model = Encoder(num_outputs, dropout)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        return model.to(dtype)

    return build


@pytest.fixture(scope="session")
def x():
    """Embeddings ``(B, L, D)`` in float64."""
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="session")
def mask():
    """From a full row of L positions to a row of one."""
    return (torch.arange(L) < torch.tensor([L, 3, 2, 1])[:, None]).long()


@pytest.fixture
def process_group(tmp_path):
    """One process that is all of a group."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
