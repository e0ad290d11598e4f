"""A plain torch loop: two targets that pull one trunk apart, trained on the summed loss and with PCGrad."""

import torch
from torch import nn

from gradsurgery import PCGrad

STEPS = 200


def train(*, surgery: bool) -> tuple[dict[str, float], torch.optim.Optimizer]:
    """Trains from one seed and returns the last loss of each task, and the optimizer."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
    heads = nn.ModuleDict({"slope": nn.Linear(16, 1), "bend": nn.Linear(16, 1)})
    model = nn.ModuleList([trunk, heads])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    if surgery:
        optimizer = PCGrad(optimizer)  # changed line 1: wrap the optimizer
    for _ in range(STEPS):
        x = torch.randn(64, 4)
        hidden = trunk(x)
        targets = {"slope": x[:, :1], "bend": 10 * x[:, :1].square()}
        losses = {t: nn.functional.mse_loss(heads[t](hidden), targets[t]) for t in targets}  # 2: unsummed
        optimizer.zero_grad()
        if surgery:
            optimizer.backward(losses)  # changed line 3: in place of loss.backward()
        else:
            sum(losses.values()).backward()
        optimizer.step()
    return {task: loss.item() for task, loss in losses.items()}, optimizer


if __name__ == "__main__":
    before, _ = train(surgery=False)
    after, optimizer = train(surgery=True)
    print("before, summed loss:", {task: round(loss, 3) for task, loss in before.items()})
    print("after, PCGrad:      ", {task: round(loss, 3) for task, loss in after.items()})
    print(optimizer.conflicts)
