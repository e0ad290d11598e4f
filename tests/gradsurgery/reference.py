"""The algorithm as the paper prints it, and losses for it: with prescribed gradients, or of a small model."""

import itertools

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from gradsurgery.projection import random_order

QUARTER = settings(max_examples=settings().max_examples // 4)


def algorithm1(rows, order):
    """Yu et al. 2020, Algorithm 1, on whole vectors in float64.

    Args:
        rows: The task gradients, (T, P).
        order: For each task, the others in their order.
    """
    rows = [row.double() for row in rows]
    total = torch.zeros_like(rows[0])
    for i, own in enumerate(rows):
        g = own.clone()
        for j in order[i]:
            product = torch.dot(g, rows[j])
            if product < 0:
                g = g - product / torch.dot(rows[j], rows[j]) * rows[j]
        total += g
    return total


def parameters_like(row, sizes=None, dtype=None):
    """Returns zero parameters whose concatenation is as long as the row."""
    sizes = [len(row)] if sizes is None else sizes
    return [nn.Parameter(torch.zeros(n, dtype=dtype or row.dtype)) for n in sizes]


def losses_with(rows, parameters):
    """Returns losses whose gradients, over all the parameters, are the rows (T, P)."""
    sizes = [p.numel() for p in parameters]
    return [
        sum((p * part).sum() for p, part in zip(parameters, row.split(sizes), strict=True)) for row in rows
    ]


def operate(method, rows, *, sizes=None, **options):
    """Returns the combined gradient (P,) of rows (T, P), and the optimizer that made it."""
    parameters = parameters_like(rows[0], sizes)
    optimizer = method(torch.optim.SGD(parameters, lr=1.0), **options)
    optimizer.backward(losses_with(rows, parameters))
    return torch.cat([p.grad for p in parameters]), optimizer


def matrices(*, tasks=(1, 5), width=(1, 12), dtype=torch.float64, low=-4.0):
    """Strategy of task gradients (T, P), with zeros, equal rows and opposite rows among them."""

    @st.composite
    def draw_matrix(draw):
        t, p = draw(st.integers(*tasks)), draw(st.integers(*width))
        element = st.one_of(st.sampled_from([low, 0.0, 1.0]), st.floats(low, 4.0, width=16))
        rows = [draw(st.lists(element, min_size=p, max_size=p)) for _ in range(t)]
        for k in range(1, t):
            kind = draw(st.sampled_from(["own", "own", "own", "equal", "opposite"]))
            if kind == "equal":
                rows[k] = list(rows[0])
            elif kind == "opposite" and low < 0:
                rows[k] = [-x for x in rows[0]]
        return torch.tensor(rows, dtype=dtype)

    return draw_matrix()


@st.composite
def hard_matrices(draw, *, tasks=(1, 2, 3, 8, 32), spread=20, near=1e-5):
    """Strategy of float64 task gradients (T, P) of few directions, dependent and nearly so, of any length.

    Args:
        draw: Hypothesis's.
        tasks: What T may be.
        spread: By how many powers of ten the length of a row may be below or above another's, or all may be.
        near: How far from opposite the nearly opposite are.
    """
    t = draw(st.sampled_from(tasks))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    p = draw(st.sampled_from([1, 2, max(t - 1, 1), t + 1, 2 * t]))
    J = torch.randn(t, p, generator=generator, dtype=torch.float64)
    kinds = ["own", "own", "zero", "equal", "opposite", "nearly opposite", "sum"]
    for k in range(1, t):
        kind = draw(st.sampled_from(kinds))
        if kind == "zero":
            J[k] = 0
        elif kind == "equal":
            J[k] = J[k - 1]
        elif kind == "opposite":
            J[k] = -J[0]
        elif kind == "nearly opposite":
            J[k] = -J[k - 1] + near * J[k]
        elif kind == "sum":
            J[k] = -J[:k].sum(0)
    exponents = draw(st.sampled_from([0, 3, spread])) * (
        2 * torch.rand(t, 1, generator=generator, dtype=torch.float64) - 1
    )
    return J * 10**exponents * 10.0 ** draw(st.sampled_from([-spread, 0, 0, spread]))


def subsets(count):
    """Returns the sets of indices below count that are not empty, as lists."""
    return [list(s) for size in range(1, count + 1) for s in itertools.combinations(range(count), size)]


def projected(vector, J):
    """Returns the nearest vector in conflict with no row: on the face of the cone that some rows bound."""
    rows = J[J.any(dim=1)]
    rows = rows / rows.norm(dim=1, keepdim=True)
    candidates = [vector]
    for chosen in subsets(len(rows)):
        face = rows[chosen]
        candidates.append(vector - torch.linalg.pinv(face, rtol=1e-9) @ (face @ vector))
    allowed = [c for c in candidates if (rows @ c >= -1e-10 * vector.norm()).all()]
    return min(allowed, key=lambda candidate: (candidate - vector).norm().item())


def products_with_units(J, weights):
    """Returns what the update's products with the unit gradients (T,) are, over what they could be at most.

    That is the sum of the lengths of what the update is the sum of, the scale of all rounding.
    """
    lengths = J.norm(dim=1)
    largest = lengths.max()
    units = J / lengths.where(lengths > 0, 1.0).unsqueeze(1)
    shares = weights * (lengths / largest)
    return units @ (units.T @ shares) / shares.abs().sum().clamp(min=1e-300)


class Model(nn.Module):
    """A trunk under three heads."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 3)
        self.heads = nn.ModuleList(nn.Linear(3, 1) for _ in range(3))

    def loss(self, k, x, y):
        return nn.functional.mse_loss(self.heads[k](torch.tanh(self.trunk(x))), y)


def batches(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(count, 4, generator=generator).double(),
            4 * torch.randn(count, 1, generator=generator).double(),
        )
        for _ in range(3)
    ]


def tasks(model, data):
    return {f"task{k}": lambda k=k: model.loss(k, *data[k]) for k in range(3)}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def written_out(model, data, *, seed=67280421310721, scope="shared", share=1.0):
    """Returns the gradients that PCGrad must leave, by autograd.grad and Algorithm 1 on flat vectors."""
    parameters = list(model.parameters())
    rows = [
        torch.autograd.grad(model.loss(k, *data[k]), parameters, materialize_grads=True, allow_unused=True)
        for k in range(3)
    ]
    chosen = slice(0, 2) if scope == "shared" else slice(None)
    order = random_order(3, torch.Generator().manual_seed(seed)).tolist()
    flat = algorithm1([torch.cat([g.flatten() for g in row[chosen]]) for row in rows], order)
    total = [sum(column) for column in zip(*rows, strict=True)]
    operated = flat.split([p.numel() for p in parameters[chosen]])
    total[chosen] = [g.view_as(p) for g, p in zip(operated, parameters[chosen], strict=True)]
    return [g * share for g in total]


def same(a, b, **tolerances):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **tolerances)
