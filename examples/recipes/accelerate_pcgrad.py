"""Accelerate, on any number of ranks: `accelerate launch --cpu --num_processes 2` and this script."""

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradsurgery import GradientSurgery, PCGrad, Sum


class Model(nn.Module):
    """Two heads on one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        self.slope, self.bend = nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the loss of each head, of inputs ``(B, 4)``."""
        hidden, first = self.trunk(x), x[:, :1]
        mse = nn.functional.mse_loss
        return {"slope": mse(self.slope(hidden), first), "bend": mse(self.bend(hidden), 10 * first**2)}


def train(
    accelerator: Accelerator, method: type[GradientSurgery]
) -> tuple[dict[str, float], GradientSurgery]:
    """Trains from one seed and returns the last losses, means over the ranks, and the optimizer."""
    torch.manual_seed(0)
    model, x = Model(), torch.randn(12_800, 4)
    optimizer = method(torch.optim.AdamW(model.parameters(), lr=3e-3))
    data = DataLoader(TensorDataset(x), batch_size=64)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    surgery = optimizer.optimizer  # below the wrapper that accelerate puts around it
    for (batch,) in data:
        with accelerator.accumulate(model):
            losses = model(batch)
            parts = {task: loss / accelerator.gradient_accumulation_steps for task, loss in losses.items()}
            surgery.backward(parts, accumulate=not accelerator.sync_gradients)
            optimizer.step()
            optimizer.zero_grad()
    return {task: accelerator.reduce(loss.detach(), "mean").item() for task, loss in losses.items()}, surgery


if __name__ == "__main__":
    split = DataLoaderConfiguration(split_batches=True)  # a batch is that of all ranks
    accelerator = Accelerator(gradient_accumulation_steps=2, dataloader_config=split)
    before, _ = train(accelerator, Sum)
    after, surgery = train(accelerator, PCGrad)
    accelerator.print("before, summed loss:", {task: round(loss, 3) for task, loss in before.items()})
    accelerator.print("after, PCGrad:      ", {task: round(loss, 3) for task, loss in after.items()})
    accelerator.print(surgery.conflicts)
    accelerator.end_training()
