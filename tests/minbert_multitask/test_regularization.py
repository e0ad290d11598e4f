"""The loss of a row: the head's, and with SMART five times the penalty of the algorithm written out."""

import copy
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from minbert_multitask import ranks
from minbert_multitask.batches import Batch
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.model import MultitaskModel
from minbert_multitask.regularization import Point, TaskLoss
from smart_pytorch import SMARTLoss, kl_loss, sym_kl_loss

TASKS = ("sst", "qqp", "sts")
CONFIG = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
    initializer_range=0.3,
)
EPSILON, STEP, NOISE = 1e-5, 1e-3, 1e-5


def model_of(row):
    torch.manual_seed(0)
    return MultitaskModel(BertModel(CONFIG), EXPERIMENTS[row]).double().eval()


def batch_of(task):
    generator = torch.Generator().manual_seed(1)
    ids, ids2 = torch.randint(4, 20, (2, 3, 6), generator=generator)
    mask, mask2 = torch.ones(2, 3, 6, dtype=torch.long)
    for each, lengths in ((mask, (6, 2, 4)), (mask2, (3, 6, 1))):
        for row, length in enumerate(lengths):
            each[row, length:] = 0
    pair = {} if task == "sst" else {"input_ids2": ids2, "attention_mask2": mask2}
    labels = {"sst": [4.0, 0.0, 2.0], "qqp": [1.0, 0.0, 1.0], "sts": [0.5, 5.0, 3.3]}
    return Batch(
        ids=("a", "b", "c"), labels=torch.tensor(labels[task]), input_ids=ids, attention_mask=mask, **pair
    )


def plain_divergence(task, perturbed, clean):
    if task == "sts":
        return ((perturbed - clean) ** 2).mean()
    if task == "qqp":
        perturbed, clean = (
            torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (perturbed, clean)
        )
    log_p, log_q = perturbed.log_softmax(-1), clean.log_softmax(-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean()


def plain_terms(model, task, batch, *, project=True):
    """The task's loss and SMART's penalty (without a ball: smart-pytorch's), from torch's generator."""
    embeddings, masks = model.embed(task, batch)
    clean = model.outputs(task, embeddings, masks)
    loss = model.head(task).loss(clean, batch.labels)
    x, real = ((embeddings,), (masks,)) if task == "sst" else (embeddings, masks)
    real = [mask.unsqueeze(-1).double() for mask in real]

    def divergence(deltas, x, clean):
        moved = tuple(each + delta for each, delta in zip(x, deltas, strict=True))
        return plain_divergence(task, model.outputs(task, moved[0] if task == "sst" else moved, masks), clean)

    deltas = []
    for each, mask in zip(x, real, strict=True):  # the numbers go to the real positions, in their order
        numbers = NOISE * torch.randn_like(each).flatten(0, 1)
        deltas.append(torch.zeros_like(each).masked_scatter(mask.bool(), numbers[: int(mask.sum())]))
    leaves = [delta.detach().requires_grad_() for delta in deltas]
    g = torch.autograd.grad(divergence(leaves, [each.detach() for each in x], clean.detach()), leaves)
    g = [gradient * mask for gradient, mask in zip(g, real, strict=True)]
    if project:  # the paper's step, its norm over all of a sample
        for b in range(3):
            norm = max(float(gradient[b].abs().max()) for gradient in g)
            for delta, gradient in zip(deltas, g, strict=True):
                delta[b] = (delta[b] + STEP * gradient[b] / norm).clamp(-EPSILON, EPSILON)
    else:  # smart-pytorch's, its norm over a token, and 1e-6 against a division by zero
        steps = [delta + STEP * gradient for delta, gradient in zip(deltas, g, strict=True)]
        deltas = [step / (step.abs().amax(-1, keepdim=True) + 1e-6) for step in steps]
    return loss, divergence(deltas, x, clean if project else clean.detach())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("row", ["multitask", "cosine-2d+1-mean"])
def test_without_smart_the_loss_is_the_heads(row, task):
    model, batch = model_of(row), batch_of(task)
    expected = model.head(task).loss(model(task, batch), batch.labels)
    assert torch.equal(TaskLoss(model, EXPERIMENTS[row])(task, batch), expected)


def test_smart_on_pairs_in_one_row_is_refused_on_several_ranks(monkeypatch):
    joint = replace(EXPERIMENTS["smart"], similarity="joint")
    model = MultitaskModel(BertModel(CONFIG), joint)
    TaskLoss(model, joint)
    monkeypatch.setattr(ranks, "world", lambda: 2)
    with pytest.raises(ValueError, match="pairs in one row must be trained by one process, got 2 ranks"):
        TaskLoss(model, joint)
    TaskLoss(model, replace(joint, smart=None))


PENALISED = [(row, task) for row in ("smart", "smart-gse", "smart-library") for task in TASKS]
PENALISED.remove(("smart-library", "qqp"))


@pytest.mark.parametrize("weight", [5.0, 1e9])
@pytest.mark.parametrize(("row", "task"), PENALISED)
def test_with_smart_the_penalty_is_the_algorithms_written_out(row, task, weight):
    experiment, model, batch = replace(EXPERIMENTS[row], smart_weight=weight), model_of(row), batch_of(task)
    parameters = list(model.parameters())
    torch.manual_seed(5)
    found = TaskLoss(model, experiment)(task, batch)
    torch.manual_seed(5)
    loss, penalty = plain_terms(model, task, batch, project=row != "smart-library")
    assert penalty > 1e-18
    # With λ = 1e9 the penalty is most of it, with 5 the loss is.
    torch.testing.assert_close(found, loss + weight * penalty, rtol=1e-5 if weight > 5 else 1e-12, atol=0)
    torch.testing.assert_close((found - loss) / weight, penalty, rtol=1e-4, atol=1e-15)
    gradients = (
        torch.autograd.grad(x, parameters, allow_unused=True) for x in (found, loss + weight * penalty)
    )
    ours, theirs = (torch.cat([g.flatten() for g in each if g is not None]) for each in gradients)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


def test_the_row_of_the_table_weighs_the_penalty_with_five():
    assert EXPERIMENTS["smart"].smart_weight == 5.0


def test_the_library_has_no_penalty_on_one_logit():
    model, batch = model_of("smart-library"), batch_of("qqp")
    logits = model("qqp", batch).unsqueeze(-1)  # (B, 1), as that package takes them
    assert SMARTLoss(lambda x: logits + x.sum(), kl_loss, sym_kl_loss)(logits.detach(), logits) == 0
    found = TaskLoss(model, EXPERIMENTS["smart-library"])("qqp", batch)
    assert torch.equal(found, model.head("qqp").loss(model("qqp", batch), batch.labels))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("row", ["multitask", "smart", "smart-library"])
def test_the_loss_and_the_penalty_share_one_clean_forward(row, task):
    model, batch = model_of(row), batch_of(task)
    forwards = 3 if (row, task) in PENALISED else 1
    encoder = model.encoder
    with (
        patch.object(encoder, "encode", wraps=encoder.encode) as encode,
        patch.object(encoder, "embed", wraps=encoder.embed) as embed,
        patch.object(model.head(task), "loss", wraps=model.head(task).loss) as loss,
    ):
        TaskLoss(model, EXPERIMENTS[row])(task, batch)
    assert encode.call_count == forwards  # clean, and for SMART the inner step's and the perturbed one
    assert embed.call_count == loss.call_count == 1


def test_in_training_the_loss_is_that_of_the_clean_forward_with_its_dropout():
    model, batch = model_of("smart").train(), batch_of("sst")
    seen = []
    real = model.head("sst").loss
    with patch.object(
        model.head("sst"), "loss", lambda outputs, labels: seen.append(outputs) or real(outputs, labels)
    ):
        torch.manual_seed(5)
        TaskLoss(model, EXPERIMENTS["smart"])("sst", batch)
    torch.manual_seed(5)
    torch.testing.assert_close(seen[0], model("sst", batch))  # the first forward after the seed


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_left_behind_and_everything_is_reached(task):
    model, batch = model_of("smart").train(), batch_of(task)
    loss = TaskLoss(model, EXPERIMENTS["smart"])(task, batch)
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    expected = {
        n for n, _ in model.named_parameters() if n.startswith(("encoder.embeddings", "encoder.encoder"))
    }
    expected |= {f"heads.{task}.{n}" for n, _ in model.head(task).named_parameters()}
    assert reached == expected
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.training


@pytest.mark.parametrize(("row", "task"), [pair for pair in PENALISED if pair[0] != "smart-gse"])
def test_real_positions_are_perturbed_and_padding_is_not(row, task):
    model, batch = model_of(row), batch_of(task)
    with patch.object(model.encoder, "encode", wraps=model.encoder.encode) as encode:
        TaskLoss(model, EXPERIMENTS[row])(task, batch)
    (clean, mask), (perturbed, _) = encode.call_args_list[0].args, encode.call_args_list[-1].args
    moved = (perturbed != clean).any(-1)
    assert torch.equal(moved, mask.bool())
    largest = (perturbed - clean).abs().max()
    assert largest <= EPSILON * (1 + 1e-6) if row == "smart" else largest > 0.5


@pytest.mark.parametrize("task", TASKS)
def test_the_proximal_point_compares_with_where_the_teacher_is(task):
    """Its penalty is the head's divergence from the teacher, which has not followed yet."""
    experiment, model, batch = EXPERIMENTS["smart-bregman"], model_of("smart-bregman"), batch_of(task)
    assert experiment.bregman_weight == 1.0  # μ of the paper
    loss = TaskLoss(model, replace(experiment, smart=None, bregman_weight=7.0))
    start = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    found = loss(task, batch)
    outputs = model(task, batch)
    penalty = plain_divergence(task, outputs, start(task, batch).detach())
    torch.testing.assert_close(found, model.head(task).loss(outputs, batch.labels) + 7.0 * penalty)
    assert penalty > 1e-6


def test_with_smart_both_penalties_are_added():
    experiment, model, batch = EXPERIMENTS["smart-bregman"], model_of("smart-bregman"), batch_of("sst")
    parts = [
        TaskLoss(model, replace(experiment, smart=smart, bregman_weight=weight))
        for smart, weight in (("paper", 1.0), ("paper", 0.0), (None, 1.0), (None, 0.0))
    ]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    values = []
    for part in parts:
        torch.manual_seed(5)
        values.append(part("sst", batch).item())
    both, smart, proximal, neither = values
    assert both == pytest.approx(smart + proximal - neither, rel=1e-9)
    assert both > smart
    assert proximal > neither


def test_the_teacher_follows_with_the_papers_momentum():
    """β is .99 for the first tenth of the updates, and .999 from there on."""
    model = model_of("smart-bregman")
    loss = TaskLoss(model, EXPERIMENTS["smart-bregman"])
    expected = [p.detach().clone() for p in model.parameters()]
    for update in range(1, 21):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        loss.update(update / 20)
        beta = 0.99 if update <= 2 else 0.999
        pairs = zip(expected, model.parameters(), strict=True)
        expected = [beta * old + (1 - beta) * new.detach() for old, new in pairs]
    torch.testing.assert_close([p.detach() for p in loss.proximal.teacher.parameters()], expected)


@pytest.mark.parametrize("task", TASKS)
def test_the_calibrated_epsilon_makes_the_penaltys_gradient_a_tenth_of_the_tasks(task):
    experiment, model = EXPERIMENTS["smart-calibrated"], model_of("smart-calibrated")
    batches = {each: [batch_of(each)] for each in TASKS}
    loss = TaskLoss(model, experiment)
    torch.manual_seed(5)
    loss.calibrate(batches)
    assert loss.epsilons.keys() == set(TASKS)
    smart = loss.regularizers[task]
    search = smart.perturbation
    assert smart.dropout == "shared"
    assert (search.epsilon, search.step_size, search.noise_std) == pytest.approx(
        (loss.epsilons[task], 100 * loss.epsilons[task], loss.epsilons[task])
    )
    point = Point.of(model, task, batches[task][0])
    torch.manual_seed(5)
    x = point.embeddings.detach() if task == "sst" else tuple(e.detach() for e in point.embeddings)
    outputs, penalty = smart.penalize(point.forward, x, mask=point.masks)
    norms = []
    for term in (experiment.smart_weight * penalty, point.loss(outputs)):
        found = torch.autograd.grad(term, list(model.parameters()), retain_graph=True, allow_unused=True)
        norms.append(torch.cat([g.flatten() for g in found if g is not None]).norm())
    assert norms[0] / norms[1] == pytest.approx(0.1, rel=0.01)


def test_epsilon_is_the_geometric_mean_over_batches():
    model = model_of("smart-calibrated")  # without dropout, each batch has one ε
    first = batch_of("sst")
    second = replace(first, labels=first.labels.flip(0))
    found = []
    for batches in ([first], [second], [first, second]):
        loss = TaskLoss(model, EXPERIMENTS["smart-calibrated"])
        torch.manual_seed(5)
        loss.calibrate({task: batches if task == "sst" else [batch_of(task)] for task in TASKS})
        found.append(loss.epsilons["sst"])
    assert found[0] != pytest.approx(found[1], rel=1e-3)
    assert found[2] == pytest.approx((found[0] * found[1]) ** 0.5)


def test_other_rows_calibrate_nothing():
    loss = TaskLoss(model_of("smart"), EXPERIMENTS["smart"])
    loss.calibrate({})
    assert loss.epsilons == {}
    assert {smart.perturbation.epsilon for smart in loss.regularizers.values()} == {EPSILON}
