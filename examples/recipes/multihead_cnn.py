"""A CNN with a head a task, one task in memory at a time: where is a square, and how bright and large?"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from gradsurgery import GradientSurgery, PCGrad, Sum

LOSSES = {"place": cross_entropy, "brightness": mse_loss, "area": mse_loss}


class MultiHead(nn.Module):
    """A shared trunk of convolutions, and by task one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        self.trunk = nn.Sequential(*convolutions, nn.Flatten())
        self.heads = nn.ModuleDict({t: nn.Linear(256, 4 if t == "place" else 1) for t in LOSSES})

    def loss(self, task: str, images: Tensor, target: Tensor) -> Tensor:
        """Returns one task's loss on images ``(B, 1, 16, 16)``."""
        return LOSSES[task](self.heads[task](self.trunk(images)).squeeze(1), target)


def batch() -> tuple[Tensor, dict[str, Tensor]]:
    """Returns images with one square each, and by task what is to be found."""
    place, size, light = torch.randint(4, (32,)), torch.randint(2, 8, (32, 1)), torch.rand(32)
    rows, columns = (torch.arange(16) - 8 * half.unsqueeze(1) for half in (place // 2, place % 2))
    rows, columns = ((at >= 0) & (at < size) for at in (rows, columns))
    squares = torch.einsum("b,bi,bj->bij", light, rows.float(), columns.float()).unsqueeze(1)
    area = size.squeeze(1).square() / 16
    return squares + 0.1 * torch.randn(squares.shape), {"place": place, "brightness": light, "area": area}


def train(method: type[GradientSurgery]) -> tuple[dict[str, float], GradientSurgery]:
    """Trains from one seed and returns the last loss of each task, and the optimizer."""
    torch.manual_seed(0)
    model = MultiHead()
    optimizer = method(torch.optim.AdamW(model.parameters(), lr=3e-3))
    for _ in range(60):
        images, targets = batch()
        optimizer.zero_grad()
        losses = optimizer.backward({t: partial(model.loss, t, images, targets[t]) for t in targets})
        optimizer.step()
    return {task: loss.item() for task, loss in losses.items()}, optimizer


if __name__ == "__main__":
    before, _ = train(Sum)
    after, optimizer = train(PCGrad)
    print("before, summed loss:", {task: round(loss, 3) for task, loss in before.items()})
    print("after, PCGrad:      ", {task: round(loss, 3) for task, loss in after.items()})
    print(optimizer.conflicts)
