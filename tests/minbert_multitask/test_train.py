"""The training loop against a plain one, its state, and its best epoch."""

import io
from dataclasses import replace

import pytest
import torch
from minbert_multitask.batches import Batches
from minbert_multitask.bert import BertModel
from minbert_multitask.experiments import EXPERIMENTS, TASKS
from minbert_multitask.inference import point_scores, predict_split, predictor
from minbert_multitask.model import MultitaskModel
from minbert_multitask.settings import Settings
from minbert_multitask.train import Trainer, epoch_iterations

SMALL = Settings(
    epochs=2, iterations=3, batch_size=4, lr=1e-3, seed=5, device="cpu", train_eval_size=6, probe_every=2
)


def new_model(inputs, row):
    torch.manual_seed(SMALL.seed)
    return MultitaskModel(BertModel.from_pretrained(inputs.weights), EXPERIMENTS[row])


def new_trainer(inputs, row, settings=SMALL, report=lambda done, note: None):
    model = new_model(inputs, row)
    return Trainer(EXPERIMENTS[row], settings, model=model, tokens=inputs.tokens, report=report)


def train(trainer):
    trainer.train(save=lambda: None)
    return trainer


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_multitask_equals_a_plain_loop(small_inputs):
    trainer = train(new_trainer(small_inputs, "multitask", replace(SMALL, probe_every=0)))
    model = new_model(small_inputs, "multitask").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0)
    losses = []
    for epoch in range(2):
        for iteration in range(3):
            optimizer.zero_grad()
            total = 0.0
            for task in TASKS:
                examples = small_inputs.tokens[task, "train"]
                batch = Batches(examples, task=task, batch_size=4, seed=5).at(epoch, iteration)
                loss = model.heads[task].loss(model(task, batch), batch.labels)
                total = total + loss
                losses.append((epoch, task, loss.item()))
            total.backward()
            optimizer.step()
    for name, value in model.state_dict().items():
        if not name.endswith("key.bias"):  # no loss depends on it, so that Adam scales up mere rounding
            torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    for epoch in trainer.epochs:
        for task in TASKS:
            mean = sum(x for e, t, x in losses if (e, t) == (epoch.epoch, task)) / 3
            assert epoch.train_loss[task] == pytest.approx(mean, rel=1e-4)


def test_the_rows_differ_only_in_what_they_declare(small_inputs):
    rows = ("baseline", "multitask", "gs", "gse", "gse-reuse", "smart", "smart-bregman", "smart-calibrated")
    trained = [train(new_trainer(small_inputs, row)).model.state_dict() for row in rows]
    for i, first in enumerate(trained):
        for second in trained[:i]:
            assert any(not torch.equal(first[name], second[name]) for name in first)


def test_three_times_the_iterations(small_inputs):
    seen = []
    trainer = train(new_trainer(small_inputs, "gse-3x", report=lambda done, note: seen.append(done)))
    assert [epoch.iterations for epoch in trainer.epochs] == [9, 9]
    assert sorted(set(seen)) == list(range(1, 19))
    assert epoch_iterations(EXPERIMENTS["zero-shot"], SMALL) == 0


def test_a_learning_rate_that_falls_is_torchs_linear_one(small_inputs):
    settings = replace(SMALL, probe_every=0, iterations=1)
    trainer = train(new_trainer(small_inputs, "best", settings))
    model = new_model(small_inputs, "best").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=24)
    for epoch in range(2):
        for iteration in range(12):
            optimizer.zero_grad()
            for task in TASKS:
                batch = Batches(small_inputs.tokens[task, "train"], task=task, batch_size=4, seed=5)
                batch = batch.at(epoch, iteration)
                model.heads[task].loss(model(task, batch), batch.labels).backward()
            optimizer.step()
            decay.step()
    for name, value in model.state_dict().items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "row",
    [
        "baseline",
        "multitask",
        "gs",
        "gse",
        "cosine-2d+1-mean",
        "smart",
        "gse-3x",
        "gse-reuse",
        "smart-library",
        "smart-gse-bregman",
        "smart-calibrated",
        "best",
    ],
)
def test_from_any_checkpoint_on_the_end_is_the_same_to_the_last_bit(small_inputs, row):
    settings = replace(SMALL, checkpoint_every=1)
    checkpoints = []
    whole = new_trainer(small_inputs, row, settings)

    def save():
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        checkpoints.append(buffer.getvalue())

    whole.train(save)
    assert len(checkpoints) == 2 * epoch_iterations(EXPERIMENTS[row], settings)
    for content in checkpoints[:: 1 if row == "gse" else 3]:
        torch.manual_seed(99)  # another process has other generators
        resumed = new_trainer(small_inputs, row, settings)
        resumed.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
        train(resumed)
        assert_equal(resumed.model.state_dict(), whole.model.state_dict())
        assert_equal(resumed.best, whole.best)
        assert resumed.conflicts == whole.conflicts
        assert resumed.task_loss.epsilons == whole.task_loss.epsilons
        if whole.task_loss.proximal is not None:
            assert resumed.task_loss.proximal.updates == 2 * 3
            assert_equal(
                dict(resumed.task_loss.proximal.teacher.state_dict()),
                dict(whole.task_loss.proximal.teacher.state_dict()),
            )
        for a, b in zip(resumed.epochs, whole.epochs, strict=True):
            assert (a.train_loss, a.dev, a.train) == (b.train_loss, b.dev, b.train)
        for task in TASKS:
            assert (resumed.best_dev[task].predicted == whole.best_dev[task].predicted).all()


def test_the_best_epoch_is_the_highest_overall_on_dev_and_its_weights_are_kept(small_inputs):
    settings = replace(SMALL, epochs=4, lr=0.02)
    trainer = train(new_trainer(small_inputs, "multitask", settings))
    overall = [epoch.dev["overall"] for epoch in trainer.epochs]
    assert trainer.best_epoch() == overall.index(max(overall))
    assert len(set(overall)) > 1
    trainer.model.load_state_dict(trainer.best)
    found = predict_split(predictor(trainer.model, settings), small_inputs.tokens, "dev")
    assert point_scores(found) == trainer.epochs[trainer.best_epoch()].dev
    for task in TASKS:
        assert (found[task].predicted == trainer.best_dev[task].predicted).all()


def test_probing_the_conflict_changes_nothing(small_inputs):
    without = replace(SMALL, probe_every=0)
    with_probes, plain = (
        train(new_trainer(small_inputs, "gse")),
        train(new_trainer(small_inputs, "gse", without)),
    )
    assert_equal(with_probes.model.state_dict(), plain.model.state_dict())
    assert [(s.epoch, s.iteration) for s in with_probes.conflicts] == [(0, 0), (0, 2), (1, 0), (1, 2)]
    for sample in with_probes.conflicts:
        assert sample.cosines.keys() == {"sst-qqp", "sst-sts", "qqp-sts"}
        assert all(-1 <= cosine <= 1 for cosine in (*sample.cosines.values(), *sample.null.values()))
    assert not plain.conflicts


def test_a_diverged_run_stops_and_names_the_remedy(small_inputs):
    settings = replace(SMALL, lr=1e30, checkpoint_every=2)
    saved = []
    with pytest.raises(
        ValueError, match=r"training loss of \w+ became nan in epoch 0 with lr 1e\+30; .*lower --lr"
    ):
        new_trainer(small_inputs, "multitask", settings).train(save=lambda: saved.append(1))
    assert not saved


def test_bf16_trains_under_autocast(small_inputs):
    settings = replace(SMALL, precision="bf16")
    trainer = new_trainer(small_inputs, "gse", settings)
    dtypes = set()
    layer = trainer.model.encoder.encoder.layer[0].attention.self.query
    layer.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    train(trainer)
    assert dtypes == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
