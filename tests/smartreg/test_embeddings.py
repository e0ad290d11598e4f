"""EmbeddingFunction on transformers' BERT, siamese, compiled and data-parallel models."""

import copy
import pickle

import pytest
import torch
import transformers
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smartreg import SMART, EmbeddingFunction, symmetric_kl

LOGITS = {"logits": symmetric_kl}


@pytest.fixture
def bert():
    """Two layers with dropout, and three labels."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        num_hidden_layers=2,
        vocab_size=99,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(11) < torch.tensor([11, 9, 4, 1])[:, None]).long()
    return {
        "input_ids": torch.randint(1, 99, (4, 11), generator=generator) * mask,
        "attention_mask": mask,
        "labels": torch.tensor([0, 1, 2, 1]),
    }


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, first, second):
        return self.head(torch.tanh(self.table(first)).mean(1) * torch.tanh(self.table(second)).mean(1))


@pytest.fixture
def siamese():
    torch.manual_seed(0)
    return Siamese()


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randint(0, 50, (4, length), generator=generator) for length in (5, 7))


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_at_its_own_embeddings_it_is_the_model(bert, batch):
    """With dropout on: binding takes nothing from the random state."""
    function = EmbeddingFunction(bert, bert.bert.embeddings)
    torch.manual_seed(0)
    expected = bert(**batch)
    torch.manual_seed(0)
    forward, embeddings = function.bind(**batch)
    outputs = forward(embeddings)
    assert embeddings.shape == (4, 11, 32)
    assert not embeddings.requires_grad
    assert torch.equal(outputs.logits, expected.logits)
    ours, theirs = gradients(bert, outputs.loss), gradients(bert, expected.loss)
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs)


def test_it_is_the_model_with_its_embeddings_replaced(bert, batch):
    """transformers takes the word lookup's output in place of ids: a second way to the same function."""
    bert.eval()
    function = EmbeddingFunction(bert, bert.bert.embeddings.word_embeddings)
    forward, embeddings = function.bind(**batch)
    moved = (embeddings + 0.1 * torch.randn(embeddings.shape)).requires_grad_()
    by_hand = bert(inputs_embeds=moved, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(forward(moved).logits, by_hand)
    ours = torch.autograd.grad(forward(moved).logits.square().sum(), moved)
    theirs = torch.autograd.grad(by_hand.square().sum(), moved)
    torch.testing.assert_close(ours, theirs)


def test_the_embedding_keeps_its_gradient_from_every_forward(bert, batch):
    bert.eval()
    function = EmbeddingFunction(bert, bert.bert.embeddings)
    forward, embeddings = function.bind(**batch)
    torch.manual_seed(0)
    penalty = SMART(divergence=LOGITS, epsilon=0.1, step_size=0.1)(forward, embeddings)
    attached = bert.bert.embeddings(batch["input_ids"])
    torch.manual_seed(0)
    expected = SMART(epsilon=0.1, step_size=0.1)(
        lambda e: bert.classifier(bert.bert.pooler(bert.bert.encoder(e, _additive(batch))[0])), attached
    )
    torch.testing.assert_close(penalty, expected)
    ours, theirs = gradients(bert, penalty), gradients(bert, expected)
    assert "bert.embeddings.word_embeddings.weight" in ours
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-7)


def _additive(batch):
    return (1.0 - batch["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min


def test_outside_of_its_functions_the_model_is_untouched(bert, batch):
    expected = copy.deepcopy(bert.eval())(**batch).logits
    function = EmbeddingFunction(bert, bert.bert.embeddings)
    forward, embeddings = function.bind(**batch)
    forward(embeddings + 1)
    assert torch.equal(bert(**batch).logits, expected)
    assert bert.state_dict().keys() == copy.deepcopy(bert).state_dict().keys()
    function.remove()
    with pytest.raises(RuntimeError, match="ran 0 times"):
        function.bind(**batch)


def test_a_failing_forward_leaves_the_model_untouched(siamese, pair):
    """It fails after the first of two calls, when a perturbation is still to come."""
    function = EmbeddingFunction(siamese, siamese.table, calls=2)
    expected = siamese(*pair)
    forward, embeddings = function.bind(*pair)
    moved = tuple(e + 1.0 for e in embeddings)
    handle = siamese.table.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        forward(moved)
    handle.remove()
    assert torch.equal(siamese(*pair), expected)
    with pytest.raises(ValueError, match="zip"):
        forward(moved[:1])


def test_a_siamese_model_has_a_tuple_of_embeddings(siamese, pair):
    function = EmbeddingFunction(siamese, siamese.table, calls=2)
    forward, embeddings = function.bind(*pair)
    assert [e.shape for e in embeddings] == [(4, 5, 8), (4, 7, 8)]
    moved = tuple(e + 0.1 * i for i, e in enumerate(embeddings, start=1))
    means = [torch.tanh(e).mean(1) for e in moved]
    torch.testing.assert_close(forward(moved), siamese.head(means[0] * means[1]))
    smart = SMART(epsilon=0.1, step_size=0.1)
    assert smart.penalize(forward, embeddings)[1] > 0
    assert smart.backward(forward, embeddings, lambda o: o.square().mean(), weight=1.0).penalty > 0


def test_binding_costs_the_embedding_and_no_more(bert, batch):
    calls = []
    bert.bert.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    bert.bert.embeddings.register_forward_hook(lambda *_: calls.append("embeddings"))
    EmbeddingFunction(bert, bert.bert.embeddings).bind(**batch)
    assert "encoder" not in calls


@pytest.mark.filterwarnings("error:Using `torch.compile")
@pytest.mark.parametrize("mode", ["wrapper", "in place"])
def test_compiled_models_are_perturbed_too(bert, batch, mode):
    bert.eval()
    smart = SMART(divergence=LOGITS, epsilon=0.1, step_size=0.1, num_steps=2)
    plain = copy.deepcopy(bert)
    reference = EmbeddingFunction(plain, plain.bert.embeddings)
    function = EmbeddingFunction(bert, bert.bert.embeddings)
    if mode == "wrapper":
        function.model = torch.compile(bert, backend="eager")
    else:
        bert.compile(backend="eager")
    penalties = []
    for each in (reference, function):
        for seed in range(2):
            torch.manual_seed(seed)
            forward, embeddings = each.bind(**batch)
            penalties.append(smart(forward, embeddings, mask=batch["attention_mask"]))
    torch.testing.assert_close(penalties[2:], penalties[:2], rtol=1e-2, atol=0)
    assert penalties[0] > 1e-6


@pytest.mark.parametrize("two_phases", [False, True])
@pytest.mark.parametrize("find_unused", [False, True])
@pytest.mark.usefixtures("process_group")
def test_data_parallel_models_average_their_gradients_once(siamese, pair, two_phases, find_unused):
    """Which DistributedDataParallel checks itself: it refuses a second reduction, and one left unfinished."""
    smart = SMART(epsilon=0.1, step_size=0.1, num_steps=2)
    plain, wrapped = (
        copy.deepcopy(siamese),
        DistributedDataParallel(siamese, find_unused_parameters=find_unused),
    )
    reductions = []

    def reduce(_, bucket):
        reductions.append(bucket.is_last())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    wrapped.register_comm_hook(None, reduce)
    results = []
    for model, module in ((plain, plain), (wrapped, siamese)):
        function = EmbeddingFunction(model, module.table, calls=2)
        for seed in range(3):
            module.zero_grad()
            torch.manual_seed(seed)
            forward, embeddings = function.bind(*pair)
            if two_phases:
                smart.backward(forward, embeddings, lambda o: o.square().mean(), weight=5.0)
            else:
                outputs, penalty = smart.penalize(forward, embeddings)
                (outputs.square().mean() + 5.0 * penalty).backward()
        results.append([p.grad.clone() for p in module.parameters()])
    torch.testing.assert_close(*results)
    assert sum(reductions) == 3


def test_a_bound_function_goes_with_a_copied_or_pickled_model(siamese, pair):
    function = EmbeddingFunction(siamese, siamese.table, calls=2)
    for other in (copy.deepcopy(function), pickle.loads(pickle.dumps(function))):
        forward, embeddings = other.bind(*pair)
        assert torch.equal(forward(embeddings), siamese(*pair))


def test_bad_arguments_are_refused(siamese, pair):
    with pytest.raises(ValueError, match="got a Linear that is none"):
        EmbeddingFunction(siamese, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="calls must be positive, got 0"):
        EmbeddingFunction(siamese, siamese.table, calls=0)
    function = EmbeddingFunction(siamese, siamese.table)
    forward, embeddings = function.bind(*pair)
    with pytest.raises(RuntimeError, match="must run 1 times in a forward, it ran 2 times"):
        forward(embeddings)
    with pytest.raises(RuntimeError, match="ran 2 times"):
        EmbeddingFunction(siamese, siamese.table, calls=3).bind(*pair)
    lstm = nn.LSTM(4, 4)
    with pytest.raises(TypeError, match="got tuple from LSTM"):
        EmbeddingFunction(lstm, lstm).bind(torch.zeros(2, 3, 4))
