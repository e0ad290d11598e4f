"""Masked language modelling: what is hidden and how, the head against transformers', and that it learns."""

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask import masked_lm
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.inputs import DataSource
from minbert_multitask.run import run
from minbert_multitask.run_folder import Job
from minbert_multitask.settings import Settings
from minbert_multitask.tokenizer import SPECIAL_TOKENS, Tokenizer

WORDS = [f"word{i}" for i in range(200)]
TOKENIZER = Tokenizer([*SPECIAL_TOKENS, *WORDS])
SPECIAL = len(SPECIAL_TOKENS)
MASK = TOKENIZER.vocabulary.index("[MASK]")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def rows(seed, shape, *, special=0.3):
    ids = torch.randint(SPECIAL, SPECIAL + len(WORDS), shape, generator=generator(seed))
    hide = torch.rand(shape, generator=generator(seed + 1)) < special
    return torch.where(hide, torch.randint(SPECIAL, shape, generator=generator(seed + 2)), ids)


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 12))
def test_special_tokens_are_never_chosen_and_what_is_not_chosen_stays(seed, batch, length):
    ids = rows(seed, (batch, length))
    ids[0, 0] = SPECIAL  # one that may be chosen
    hidden, chosen = masked_lm.mask_tokens(ids, TOKENIZER, generator(seed))
    assert chosen.any()
    assert (ids[chosen] >= SPECIAL).all()
    assert torch.equal(hidden[~chosen], ids[~chosen])


def test_the_shares_are_berts():
    ids = rows(1, (400, 500), special=0.0)
    hidden, chosen = masked_lm.mask_tokens(ids, TOKENIZER, generator(3))
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.003)
    masked, kept = (hidden == MASK)[chosen], (hidden == ids)[chosen]
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=0.01)
    others = hidden[chosen][~masked & ~kept]
    assert others.unique().numel() > 0.9 * len(WORDS)


def test_the_head_is_that_of_transformers():
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "max_position_embeddings": 12,
    }
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    encoder = BertModel(BertConfig(**sizes)).eval()
    found = encoder.load_state_dict(theirs.bert.state_dict(), strict=False)
    assert all(name.startswith("pooler.") for name in found.missing_keys)
    ours = masked_lm.MaskedLanguageModel(encoder).eval()
    head = theirs.cls.predictions
    ours.dense.load_state_dict(head.transform.dense.state_dict())
    ours.norm.load_state_dict(head.transform.LayerNorm.state_dict())
    torch.nn.init.normal_(head.bias)
    ours.bias = head.bias
    ids = torch.randint(1, 40, (3, 7))
    mask = torch.ones_like(ids)
    chosen = torch.rand(3, 7) < 0.4
    torch.testing.assert_close(
        ours(ids, mask, chosen), theirs(ids, mask).logits[chosen], rtol=1e-4, atol=1e-5
    )


@pytest.fixture
def settings(small_weights):
    return Settings(
        weights=str(small_weights),
        epochs=2,
        iterations=20,
        batch_size=8,
        lr=1e-2,
        device="cpu",
        probe_every=0,
    )


def test_it_learns_the_same_for_the_same_seed(small_inputs, settings):
    def trained(seed):
        torch.manual_seed(0)
        encoder = BertModel.from_pretrained(small_inputs.weights)
        found = masked_lm.pretrain(
            encoder, small_inputs.tokens, small_inputs.tokenizer, replace(settings, seed=seed)
        )
        return encoder.state_dict(), found

    (first, found), (second, again), (third, _) = trained(1), trained(1), trained(2)
    assert found == again
    assert found.iterations == 40
    assert found.last_loss < 0.8 * found.first_loss
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_a_loss_that_is_not_finite_is_refused(small_inputs, settings):
    encoder = BertModel.from_pretrained(small_inputs.weights)
    with pytest.raises(ValueError, match=r"left the finite with lr 1e\+30; choose a lower --lr"):
        masked_lm.pretrain(encoder, small_inputs.tokens, small_inputs.tokenizer, replace(settings, lr=1e30))


def test_the_row_pretrains_before_it_trains(small_inputs, small_data, settings, tmp_path):
    few = replace(settings, epochs=1, iterations=2, train_eval_size=0)

    def losses(name):
        job = Job(
            experiment=EXPERIMENTS[name],
            settings=few,
            source=DataSource("small", small_data),
            folder=tmp_path / name,
        )
        job.claim(small_inputs)
        result = run(job, small_inputs, lambda event: None)
        return result.epochs[0].train_loss, (job.folder / "log.txt").read_text()

    (plain, _), (pretrained, log) = losses("multitask"), losses("masked-lm")
    assert plain != pretrained
    assert "after 2 iterations of masked language modelling, loss " in log
