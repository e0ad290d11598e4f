"""GSE's two updates written out with torch alone."""

import torch
from torch import nn

from tests.gradsurgery.reference import algorithm1


class Problem:
    """Two tasks, whose order is no choice, on a trunk with heads."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.trunk = nn.Linear(4, 3).double()
        self.heads = nn.ModuleList(nn.Linear(3, 1).double() for _ in range(2))
        self.modules = nn.ModuleList([self.trunk, *self.heads])
        self.calls = 0

    def tasks(self, step=0):
        def task(k):
            generator = torch.Generator().manual_seed(10 * step + k)
            x = torch.randn(8, 4, generator=generator).double()
            y = 5 * torch.randn(8, 1, generator=generator).double()

            def loss():
                self.calls += 1
                return nn.functional.mse_loss(self.heads[k](torch.tanh(self.trunk(x))), y)

            return loss

        return {"a": task(0), "b": task(1)}

    @property
    def parameters(self):
        return list(self.modules.parameters())

    def gradients(self, losses, share=1.0):
        """Returns PCGrad's gradient times the share, and the summed loss's."""
        grad = torch.autograd.grad
        rows = [grad(task(), self.parameters, allow_unused=True, materialize_grads=True) for task in losses]
        flat = algorithm1([torch.cat([g.flatten() for g in row[:2]]) for row in rows], [[1], [0]])
        plain = [a + b for a, b in zip(*rows, strict=True)]
        operated = [g.view_as(p) for g, p in zip(flat.split([12, 3]), plain, strict=False)]
        return [share * g for g in [*operated, *plain[2:]]], plain

    def weights(self):
        return [p.detach().clone() for p in self.parameters]


def adam(problem):
    return torch.optim.AdamW(problem.parameters, lr=0.03)


def update(problem, optimizer, gradients):
    for p, g in zip(problem.parameters, gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()


def written_out(second, steps=4, share=0.5):
    problem = Problem()
    optimizer = adam(problem)
    for step in range(steps):
        losses = list(problem.tasks(step).values())
        operated, plain = problem.gradients(losses, share)
        update(problem, optimizer, operated)
        if second == "recompute":
            _, plain = problem.gradients(losses)
        update(problem, optimizer, plain)
    return problem.weights()


def train(problem, optimizer, steps=range(4)):
    for step in steps:
        optimizer.zero_grad()
        optimizer.backward(problem.tasks(step))
        optimizer.step()
    return problem.weights()


def same(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)
