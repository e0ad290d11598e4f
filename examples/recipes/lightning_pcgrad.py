"""Lightning, on any number of ranks: `torchrun --standalone --nproc_per_node=2` and this script."""

import os

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from gradsurgery import GradientSurgery, PCGrad, Sum

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun


class Model(LightningModule):
    """Two heads on one trunk."""

    def __init__(self, method: type[GradientSurgery]) -> None:
        super().__init__()
        self.automatic_optimization = False  # the step below makes its own backward
        self.method = method
        self.trunk = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        self.slope, self.bend = nn.Linear(16, 1), nn.Linear(16, 1)

    def configure_optimizers(self) -> GradientSurgery:
        """Returns the optimizer, wrapped."""
        return self.method(torch.optim.AdamW(self.parameters(), lr=3e-3))

    def training_step(self, batch: list[Tensor], _: int) -> None:
        """Makes one step."""
        x, mse = batch[0], nn.functional.mse_loss
        hidden, first = self.trunk(x), x[:, :1]
        losses = {"slope": mse(self.slope(hidden), first), "bend": mse(self.bend(hidden), 10 * first**2)}
        optimizer = self.optimizers()
        optimizer.zero_grad()
        optimizer.optimizer.backward(losses)  # of the surgery itself, in place of manual_backward(loss)
        optimizer.step()
        self.log_dict(losses, sync_dist=True)


def train(method: type[GradientSurgery]) -> tuple[dict[str, float], Trainer]:
    """Trains from one seed and returns the last losses, means over the ranks, and the trainer."""
    torch.manual_seed(0)
    model, data = Model(method), TensorDataset(torch.randn(12_800, 4))
    mine = DistributedSampler(data, RANKS, RANK, shuffle=False)  # Lightning's own would shuffle
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    ranks = {"accelerator": "cpu", "devices": RANKS, "strategy": "ddp" if RANKS > 1 else "auto"}
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **ranks, **quiet)
    trainer.fit(model, DataLoader(data, batch_size=64 // RANKS, sampler=mine))
    return {task: loss.item() for task, loss in trainer.callback_metrics.items()}, trainer


if __name__ == "__main__":
    before, _ = train(Sum)
    after, trainer = train(PCGrad)
    if trainer.is_global_zero:
        print("before, summed loss:", {task: round(loss, 3) for task, loss in before.items()})
        print("after, PCGrad:      ", {task: round(loss, 3) for task, loss in after.items()})
        print(trainer.optimizers[0].conflicts)
