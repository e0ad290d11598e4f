"""EmbeddingFunction over modules of every other kind: convolutional, tied, compiled, data-parallel."""

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smartreg import SMART, EmbeddingFunction, symmetric_kl
from tests.versions import ddp_runs_batch_norm_twice

LABELS = torch.tensor([0, 2, 1, 0])
WEIGHT = 5.0
STRONG = {"epsilon": 0.1, "step_size": 0.1}


def task_loss(outputs):
    return F.cross_entropy(outputs, LABELS)


def joint_and_low_memory(smart, model, forward, x, loss=task_loss, **masks):
    """Returns the gradients of both ways from one seed, and the penalties."""
    found = []
    for joint in (True, False):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        if joint:
            outputs, penalty = smart.penalize(forward, x, **masks)
            (loss(outputs) + WEIGHT * penalty).backward()
        else:
            penalty = smart.backward(forward, x, loss, weight=WEIGHT, **masks).penalty
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((penalty.item(), gradients))
    return found


def assert_same(found, expected, tolerance=1e-6):
    """Asserts equal penalties, and equal gradients relative to the whole gradient."""
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1].keys() == expected[1].keys()
    difference = sum((found[1][name] - g).double().square().sum() for name, g in expected[1].items())
    assert (
        difference.sqrt() <= tolerance * sum(g.double().square().sum() for g in expected[1].values()).sqrt()
    )


class Words(nn.Module):
    """A plain classifier: lookup, dropout, mean, linear."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8, padding_idx=0)
        self.body = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        real = (ids != 0).float().unsqueeze(-1)
        return self.head((self.body(self.table(ids)) * real).sum(1) / real.sum(1))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class ResNet(nn.Module):
    """torchvision's in small: stem, residual blocks with batch norm and in-place ReLU, pooling, linear."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, images):
        hidden = self.layer1(self.relu(self.bn1(self.conv1(images))))
        return self.fc(self.avgpool(hidden).flatten(1))


@pytest.fixture
def ids():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (4, 7), generator=generator)
    return ids * (torch.arange(7) < torch.tensor([7, 5, 3, 1])[:, None])


@pytest.fixture
def words():
    torch.manual_seed(0)
    return Words()


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    return ResNet()


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_plain_classifier_equals_the_same_split_by_hand(words, ids):
    def split(x):
        real = (ids != 0).float().unsqueeze(-1)
        return words.head((words.body(x) * real).sum(1) / real.sum(1))

    smart, mask, found = SMART(**STRONG), ids != 0, []
    forward, x = EmbeddingFunction(words, words.table).bind(ids)
    for function, embeddings in ((forward, lambda: x), (split, lambda: words.table(ids))):
        words.zero_grad()
        torch.manual_seed(0)
        outputs, penalty = smart.penalize(function, embeddings(), mask=mask)
        (task_loss(outputs) + WEIGHT * penalty).backward()
        found.append((penalty.item(), {name: p.grad.clone() for name, p in words.named_parameters()}))
    assert_same(*found, tolerance=1e-5)  # x + (x̃ - x) rounds
    assert found[0][0] > 1e-6
    assert_same(*joint_and_low_memory(smart, words, forward, x, mask=mask))


@pytest.mark.parametrize("place", ["images", "conv1", "layer1.0"])
def test_a_convolutional_network(resnet, images, place):
    """Its input is an argument, and any of its layers an embedding; its running statistics move once."""
    if place == "images":
        forward, x = resnet, images
    else:
        forward, x = EmbeddingFunction(resnet, resnet.get_submodule(place)).bind(images)
    plain = copy.deepcopy(resnet)
    plain(images)
    twice = copy.deepcopy(plain)
    twice(images)
    found = joint_and_low_memory(SMART(**STRONG, num_steps=2), resnet, forward, x)
    assert_same(*found)
    assert found[0][0] > 1e-6
    torch.testing.assert_close(dict(resnet.named_buffers()), dict(twice.named_buffers()))  # once for each way
    assert resnet.bn1.num_batches_tracked == 2


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "BertForMaskedLM"])
def test_tied_embeddings_get_the_gradient_of_both_of_their_uses(kind):
    """Outputs for each token, some of which do not count; the table is the output layer's, too."""
    torch.manual_seed(0)
    kind = getattr(transformers, kind)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = kind(kind.config_class(vocab_size=20, **sizes, tie_word_embeddings=True, initializer_range=0.3))
    table = model.get_input_embeddings()
    assert model.get_output_embeddings().weight is table.weight
    ids = torch.randint(1, 20, (3, 6))
    labels = torch.where(torch.arange(6) < torch.tensor([6, 4, 2])[:, None], ids, -100)
    forward, x = EmbeddingFunction(model, table).bind(ids, labels=labels)
    model.eval()
    smart = SMART(divergence={"logits": symmetric_kl}, **STRONG)
    keep = {"output_mask": {"logits": labels != -100}}
    found = joint_and_low_memory(smart, model, forward, x, loss=lambda out: out.loss, **keep)
    assert_same(*found)

    class Untied(nn.Module):
        """The input's table is another leaf of the same values: by hand, the two uses apart."""

        def __init__(self):
            super().__init__()
            self.table, self.rest = copy.deepcopy(table), model

        def forward(self, embeddings):
            return self.rest(inputs_embeds=embeddings, labels=labels)

    untied = Untied()
    untied.zero_grad()
    torch.manual_seed(0)
    outputs, penalty = smart.penalize(untied, untied.table(ids), **keep)
    (outputs.loss + WEIGHT * penalty).backward()
    both = untied.table.weight.grad + table.weight.grad
    (name,) = (name for name, p in model.named_parameters() if p is table.weight)
    torch.testing.assert_close(found[0][1][name], both, rtol=1e-3, atol=1e-5)
    assert untied.table.weight.grad.abs().max() > 1e-3 < table.weight.grad.abs().max()


def test_an_encoder_and_a_decoder():
    """T5's, whose two lookups and output layer have one table."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config)
    ids, labels = torch.randint(1, 20, (3, 6)), torch.randint(1, 20, (3, 4))
    shared = model.encoder.embed_tokens is model.decoder.embed_tokens  # by transformers 4
    bound = EmbeddingFunction(model, model.encoder.embed_tokens, calls=2 if shared else 1)
    forward, x = bound.bind(ids, labels=labels)
    smart = SMART(divergence={"logits": symmetric_kl}, **STRONG)
    found = joint_and_low_memory(smart, model, forward, x, loss=lambda out: out.loss)
    assert_same(*found)
    assert found[0][0] > 1e-6


def test_checkpointed_layers_above_the_embedding(words, ids):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = words

        def forward(self, ids):
            hidden = torch.utils.checkpoint.checkpoint(words.body, words.table(ids), use_reentrant=False)
            return words.head(hidden.mean(1))

    model = Checkpointed()
    forward, x = EmbeddingFunction(model, words.table).bind(ids)
    assert_same(*joint_and_low_memory(SMART(**STRONG), model, forward, x))


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),  # dropout draws what it draws without
    "compiled in place": lambda model: (model.compile(backend="eager"), model)[1],
    "data-parallel": DistributedDataParallel,
    "compiled and data-parallel": lambda model: DistributedDataParallel(
        torch.compile(model, backend="eager"), find_unused_parameters=True
    ),
}


@pytest.mark.filterwarnings("error:Using `torch.compile", "ignore:find_unused_parameters")
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("kind", ["words", "resnet"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_modules(kind, wrapper, request, ids, images):
    """Gradients, penalties and running statistics are those of the module that is wrapped."""
    model, batch, place = (
        (request.getfixturevalue("words"), ids, "table")
        if kind == "words"
        else (request.getfixturevalue("resnet"), images, "conv1")
    )
    plain = copy.deepcopy(model)
    if kind == "resnet" and "data-parallel" in wrapper and not ddp_runs_batch_norm_twice():
        pytest.skip("this torch's DDP changes running statistics that the joint form's backward needs")
    smart, results = SMART(**STRONG), []
    for each, called in ((plain, plain), (model, WRAPPERS[wrapper](model))):
        forward, x = EmbeddingFunction(called, each.get_submodule(place)).bind(batch)
        results.append(joint_and_low_memory(smart, each, forward, x))
    for found, expected in zip(*results, strict=True):
        assert_same(found, expected)
    assert_same(*results[1])
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_a_hook_after_the_first_compiled_call_is_never_silently_without_effect(words, ids):
    """Whether torch compiles anew for it is up to its version."""
    words.eval()
    expected = copy.deepcopy(words)
    expected.table.weight.data += 1
    compiled = torch.compile(words, backend="eager")
    compiled(ids)
    function = EmbeddingFunction(compiled, words.table)
    try:
        forward, x = function.bind(ids)
        outputs = forward(x + 1)
    except RuntimeError as error:
        if "before the model's first compiled call" not in str(error):
            raise
    else:
        torch.testing.assert_close(outputs, expected(ids))
