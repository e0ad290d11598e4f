"""Without padding: the same outputs and gradients, counted work, and other code left alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.packing import NoPacking, Packing
from torch.utils.flop_counter import FlopCounterMode

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.3,
)

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def batch_of(lengths):
    ids = torch.randint(1, CONFIG.vocab_size, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BertModel(CONFIG).double().train()


def encoded(model, batch, *, packed):
    """The outputs at real positions, and every parameter's gradient of a sum with fixed weights."""
    ids, mask = batch
    model.packed = packed
    model.zero_grad()
    outputs = model(ids, mask)
    real = outputs.last_hidden_state[mask.bool()]
    weights = torch.arange(real.numel(), dtype=torch.float64).reshape(real.shape).cos()
    (real * weights).sum().backward(retain_graph=True)
    outputs.pooler_output.sum().backward()
    return [real.detach(), outputs.pooler_output.detach(), *(p.grad.clone() for p in model.parameters())]


@given(lengths)
def test_packing_changes_neither_outputs_nor_gradients(model, lengths):
    batch = batch_of(lengths)
    for found, expected in zip(
        encoded(model, batch, packed=True), encoded(model, batch, packed=False), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@given(lengths)
def test_packing_takes_the_real_positions_and_puts_them_back(lengths):
    _, mask = batch_of(lengths)
    padded = torch.randn(*mask.shape, 3)
    packing = Packing(mask)
    assert torch.equal(packing.pack(padded), padded[mask.bool()])
    assert torch.equal(packing.unpack(packing.pack(padded)), padded * mask.unsqueeze(-1))


def test_no_packing_leaves_all_as_it_is():
    padded = torch.randn(2, 3, 4)
    assert NoPacking().pack(padded) is padded
    assert NoPacking().unpack(padded) is padded


def test_the_linear_layers_work_on_real_positions_alone(model):
    ids, mask = batch_of([9, 1, 1, 1])

    def linear_flops(packed):
        model.packed = packed
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode(model.embed(ids), mask)
        total = counter.get_flop_counts()["Global"]
        pooler = 2 * len(ids) * CONFIG.hidden_size**2
        return total[torch.ops.aten.addmm] - pooler

    assert linear_flops(packed=True) * mask.numel() == linear_flops(packed=False) * mask.sum()


def test_evaluation_is_never_packed(model):
    ids, mask = batch_of([9, 2])
    model.packed = True
    try:
        model.eval()
        with torch.no_grad():
            packed = model(ids, mask).last_hidden_state
        model.packed = False
        with torch.no_grad():
            assert torch.equal(model(ids, mask).last_hidden_state, packed)  # at padding too
    finally:
        model.train()
