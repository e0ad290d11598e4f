"""EmbeddingFunction over the field's models: the function is the model's, and nothing stays behind."""

import copy

import pytest
import torch
import transformers

from smartreg import SMART, EmbeddingFunction, symmetric_kl

SIZES = {"vocab_size": 99, "num_labels": 3}
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LOGITS = {"logits": symmetric_kl}
WEIGHT = 5.0

TRANSFORMERS = {
    # By model: its class, its configuration, its embedding block and its word lookup.
    "bert": ("BertForSequenceClassification", WIDE, "bert.embeddings", "word_embeddings"),
    "roberta": (
        "RobertaForSequenceClassification",
        {**WIDE, "pad_token_id": 0},
        "roberta.embeddings",
        "word_embeddings",
    ),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        "distilbert.embeddings",
        "word_embeddings",
    ),
    "deberta": (
        "DebertaForSequenceClassification",
        {**WIDE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 2},
        "deberta.embeddings",
        "word_embeddings",
    ),
    "deberta-v2": (
        "DebertaV2ForSequenceClassification",
        {**WIDE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 2},
        "deberta.embeddings",
        "word_embeddings",
    ),
    # GPT-2 has no embedding block: x is the output of the dropout that follows the sum.
    "gpt2": (
        "GPT2ForSequenceClassification",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 20, "pad_token_id": 0},
        "transformer.drop",
        "transformer.wte",
    ),
}


def build(name):
    """Returns a tiny model with dropout, its embedding block and its word lookup."""
    kind, options, block, word = TRANSFORMERS[name]
    torch.manual_seed(0)
    kind = getattr(transformers, kind)
    model = kind(kind.config_class(**SIZES, **options, initializer_range=0.3))
    block = model.get_submodule(block)
    return model.train(), block, model.get_submodule(word) if "." in word else block.get_submodule(word)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(11) < torch.tensor([11, 9, 4, 2])[:, None]).long()
    return {
        "input_ids": torch.randint(1, 99, (4, 11), generator=generator) * mask,
        "attention_mask": mask,
        "labels": torch.tensor([0, 1, 2, 1]),
    }


def gradients(model, loss=None):
    """Returns the gradients by name, of a loss, or those that are there."""
    if loss is not None:
        model.zero_grad(set_to_none=True)
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_near(found, expected, tolerance=1e-6):
    """Asserts equality relative to the whole gradient."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).double().square().sum() for name in expected)
    assert difference.sqrt() <= tolerance * sum(g.double().square().sum() for g in expected.values()).sqrt()


@pytest.mark.parametrize("place", ["block", "word lookup"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_at_its_own_embeddings_it_is_the_model(name, place, batch):
    """To the last bit, with dropout on: binding takes nothing from the random state."""
    model, block, word = build(name)
    function = EmbeddingFunction(model, block if place == "block" else word)
    torch.manual_seed(0)
    expected = model(**batch)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    forward, x = function.bind(**batch)
    outputs = forward(x)
    assert x.shape == (4, 11, 32)
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(torch.get_rng_state(), state)
    assert_near(gradients(model, outputs.loss), gradients(model, expected.loss), 1e-6)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_at_the_word_lookup_it_is_the_model_of_inputs_embeds(name, batch):
    """A second way to the same function, without a hook; positions and types stay those of the arguments."""
    model, _, word = build(name)
    model.eval()
    if name == "gpt2":  # whose last token of a row is the last that is no padding by its id
        batch["input_ids"] = batch["input_ids"].clamp(min=1)
    if name in ("bert", "deberta", "deberta-v2"):
        batch["token_type_ids"] = (torch.arange(11) > 2).long().expand(4, -1)
    if name in ("bert", "distilbert", "gpt2"):
        batch["position_ids"] = torch.arange(11).flip(0).expand(4, -1)
    rest = {key: value for key, value in batch.items() if key != "input_ids"}
    if name == "roberta":  # which derives positions from the ids
        rest["position_ids"] = batch["attention_mask"].cumsum(1) * batch["attention_mask"]
    if name == "distilbert":  # whose encoder alone takes positions
        del batch["position_ids"], rest["position_ids"]

    def by_hand(embeddings):
        return model(inputs_embeds=embeddings, **rest)

    forward, x = EmbeddingFunction(model, word).bind(**batch)
    moved = (x + 0.1 * torch.randn(x.shape)).requires_grad_()
    torch.testing.assert_close(forward(moved).logits, by_hand(moved).logits)
    ours = torch.autograd.grad(forward(moved).loss, moved)
    torch.testing.assert_close(ours, torch.autograd.grad(by_hand(moved).loss, moved), rtol=1e-4, atol=1e-6)
    smart, penalties = SMART(divergence=LOGITS, epsilon=0.1, step_size=0.1), []
    for each in (forward, by_hand):
        torch.manual_seed(0)
        penalties.append(smart(each, x, mask=batch["attention_mask"]).item())
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-3)
    assert penalties[0] > 1e-5


def test_a_lookup_of_words_and_types_is_called_twice(batch):
    """GPT-2 looks its types up among its words; a mask of zeros leaves them where they are."""
    model, _, word = build("gpt2")
    model.eval()
    batch["input_ids"] = batch["input_ids"].clamp(min=1)
    batch["token_type_ids"] = (torch.arange(11) > 2).long().expand(4, -1)
    forward, x = EmbeddingFunction(model, word, calls=2).bind(**batch)
    assert torch.equal(x[1], word(batch["token_type_ids"]))
    rest = {key: value for key, value in batch.items() if key != "input_ids"}
    smart, mask, penalties = SMART(divergence=LOGITS, epsilon=0.1, step_size=0.1), batch["attention_mask"], []
    for each, embeddings, masks in (
        (forward, x, (mask, torch.zeros_like(mask))),
        (lambda words: model(inputs_embeds=words, **rest), x[0], mask),
    ):
        torch.manual_seed(0)
        penalties.append(smart(each, embeddings, mask=masks).item())
    assert penalties[0] == pytest.approx(penalties[1], rel=1e-3)


@pytest.mark.parametrize("part", ["position_embeddings", "token_type_embeddings"])
def test_positions_and_types_are_embeddings_too(part, batch):
    model, block, _ = build("bert")
    model.eval()
    forward, x = EmbeddingFunction(model, block.get_submodule(part)).bind(**batch)
    assert x.shape[1:] == (11, 32)
    moved, lookup = x + 0.1, block.get_submodule(part)
    expected = copy.deepcopy(model)
    expected.get_submodule(f"bert.embeddings.{part}").weight.data += 0.1
    torch.testing.assert_close(forward(moved).logits, expected(**batch).logits)
    smart = SMART(divergence=LOGITS, epsilon=0.1, step_size=0.1)
    terms = smart.backward(forward, x, lambda out: out.loss, weight=WEIGHT)
    assert terms.penalty > 1e-5
    assert lookup.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("place", ["block", "word lookup"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_low_memory_backward_is_the_joint_losses(name, place, batch):
    """With dropout on, relative to the whole gradient, the embedding's parameters among it."""
    model, block, word = build(name)
    embedding = block if place == "block" else word
    forward, x = EmbeddingFunction(model, embedding).bind(**batch)
    smart = SMART(divergence=LOGITS, epsilon=0.1, step_size=0.1)
    torch.manual_seed(0)
    outputs, penalty = smart.penalize(forward, x, mask=batch["attention_mask"])
    expected = gradients(model, outputs.loss + WEIGHT * penalty)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    terms = smart.backward(forward, x, lambda out: out.loss, weight=WEIGHT, mask=batch["attention_mask"])
    assert penalty > 1e-5
    torch.testing.assert_close(terms.penalty, penalty.detach())
    assert_near(gradients(model), expected)
    assert any(p is word.weight for p in model.parameters() if p.grad is not None)
