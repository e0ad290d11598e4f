"""A physics-informed network with two losses: u'' = -π² sin(πx) on [0, 1], and u(0) = u(1) = 0.

ConFIG (arXiv 2408.11104) was made for such networks; the solution, sin(πx), is known, so the error is too.
"""

import math

import torch
from torch import Tensor, nn

from gradsurgery import ConFIG

STEPS = 400


def losses(model: nn.Module) -> dict[str, Tensor]:
    """Returns how far the network is from the equation, and from the values at both ends."""
    x = torch.rand(64, 1, requires_grad=True)
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    residual = bend + math.pi**2 * torch.sin(math.pi * x)
    return {"equation": residual.square().mean(), "ends": model(torch.tensor([[0.0], [1.0]])).square().mean()}


def train(*, surgery: bool) -> tuple[float, torch.optim.Optimizer]:
    """Trains from one seed and returns the largest error of the solution, and the optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    if surgery:
        optimizer = ConFIG(optimizer, reduction="mean")
    for _ in range(STEPS):
        optimizer.zero_grad()
        if surgery:
            optimizer.backward(losses(model))
        else:
            sum(losses(model).values()).backward()
        optimizer.step()
    x = torch.linspace(0, 1, 101).unsqueeze(1)
    with torch.no_grad():
        return (model(x) - torch.sin(math.pi * x)).abs().max().item(), optimizer


if __name__ == "__main__":
    before, _ = train(surgery=False)
    after, optimizer = train(surgery=True)
    print("before, summed loss:", {"largest error": round(before, 4)})
    print("after, ConFIG:      ", {"largest error": round(after, 4)})
    print(optimizer.conflicts)
