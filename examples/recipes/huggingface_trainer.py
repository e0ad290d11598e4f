"""Hugging Face's Trainer: one method of a subclass gives the optimizer each task's loss, not their sum."""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from gradsurgery import GradientSurgery, PCGrad, Sum


def task_losses(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Returns each task's loss: is there a token below 5, and what is the tokens' mean?"""
    low, mean = model(input_ids=inputs["input_ids"]).logits.split([2, 1], dim=1)
    return {"low": cross_entropy(low, inputs["low"]), "mean": mse_loss(mean.squeeze(1), inputs["mean"])}


class SurgeryTrainer(Trainer):
    """A Trainer with one backward for each task."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """Back-propagates a micro-batch; the surgery comes with the last one before a step."""
        with self.compute_loss_context_manager():
            losses = task_losses(model.train(), self._prepare_inputs(inputs))
        losses = {task: loss / self.current_gradient_accumulation_steps for task, loss in losses.items()}
        surgery = self.optimizer.optimizer  # below the wrapper that the Trainer puts around it
        surgery.backward(losses, accumulate=not self.accelerator.sync_gradients)
        return sum(losses.values()).detach()


def train(method: type[GradientSurgery]) -> tuple[dict[str, float], GradientSurgery]:
    """Trains from one seed and returns the losses of both tasks on 64 examples, and the optimizer."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 48, "num_hidden_layers": 2, "initializer_range": 0.2}
    model = BertForSequenceClassification(BertConfig(**shape, intermediate_size=64, num_labels=3))
    optimizer = method(torch.optim.AdamW(model.parameters(), lr=3e-3))
    ids = torch.randint(50, (512, 8))
    data = [{"input_ids": row, "low": (row < 5).any().long(), "mean": row.float().mean() / 10} for row in ids]
    batch = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2}
    quiet = {"report_to": [], "save_strategy": "no", "remove_unused_columns": False, "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **batch, **quiet, dataloader_pin_memory=False)
        SurgeryTrainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train()
    examples = torch.utils.data.default_collate(data[:64])
    return {task: loss.item() for task, loss in task_losses(model.eval(), examples).items()}, optimizer


if __name__ == "__main__":
    before, _ = train(Sum)
    after, optimizer = train(PCGrad)
    print("before, summed loss:", {task: round(loss, 3) for task, loss in before.items()})
    print("after, PCGrad:      ", {task: round(loss, 3) for task, loss in after.items()})
    print(optimizer.conflicts)
