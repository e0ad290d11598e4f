"""What other packages do once the T gradients exist, until ``.grad`` holds the result.

Each peer is a function of a problem; it prepares what is not timed and returns the call that is.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import TypeAlias

import torch
from torch import Tensor, nn

from gradsurgery import PCGrad, kernels

from . import shapes as models


class Problem:
    """T gradients for parameters, as autograd would have made them.

    Args:
        shapes: Shapes of the parameters.
        tasks: T.
        device: Where they lie.
    """

    def __init__(self, shapes: list[models.Shape], tasks: int, device: torch.device) -> None:
        self.device = device
        self.parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
        self.rows = list(models.rows(shapes, tasks, device))
        self.size = sum(p.numel() for p in self.parameters)
        self._first = [g.clone() for g in self.rows[0]]

    def restore(self) -> None:
        """Puts the first row back, which a peer may have overwritten, and empties every ``.grad``."""
        torch._foreach_copy_(self.rows[0], self._first)
        for parameter in self.parameters:
            parameter.grad = None

    def matrix(self) -> Tensor:
        """Returns the gradients as one matrix ``(T, P)``, in memory of its own."""
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in self.rows])

    def losses(self) -> list["Loss"]:
        """Returns one loss a task."""
        return [Loss(self.parameters, row) for row in self.rows]

    def module(self) -> nn.Module:
        """Returns a module that has the parameters and nothing else."""
        return nn.ParameterList(self.parameters)

    def inner(self) -> torch.optim.Optimizer:
        """Returns the optimizer for those that go around one."""
        return torch.optim.SGD(self.parameters, lr=0.1)

    def literal(self) -> Tensor:
        """Returns the result of PCGrad's Algorithm 1 on whole vectors in float64, ``(P,)``."""
        rows = [torch.cat([g.flatten() for g in row]).double() for row in self.rows]
        total = torch.zeros_like(rows[0])
        for i, own in enumerate(rows):
            g = own.clone()
            for j, other in enumerate(rows):
                product = torch.dot(g, other)
                if j != i and product < 0:
                    g -= product / torch.dot(other, other) * other
            total += g
        return total

    def error(self, right: Tensor) -> float:
        """Returns the largest difference of ``.grad`` from what is right, in units of its largest element."""
        worst = 0.0
        for parameter, part in zip(
            self.parameters, right.split([p.numel() for p in self.parameters]), strict=True
        ):
            if parameter.grad is None:
                return float("inf")
            worst = max(worst, (parameter.grad.flatten() - part).abs().max().item())
        return worst / right.abs().max().item()


class Loss:
    """Stands for a loss: its backward hands over the gradient that there is."""

    def __init__(self, parameters: list[nn.Parameter], row: list[Tensor]) -> None:
        self._pairs = list(zip(parameters, row, strict=True))

    def backward(self, **_: bool) -> None:
        for parameter, gradient in self._pairs:
            parameter.grad = gradient


Peer: TypeAlias = Callable[[Problem], Callable[[], object]]


def gradsurgery(problem: Problem) -> Callable[[], object]:
    optimizer, tasks = PCGrad(problem.inner()), [loss.backward for loss in problem.losses()]
    return lambda: optimizer.backward(tasks)


def gradsurgery_compiled(problem: Problem) -> Callable[[], object]:
    surgery = gradsurgery(problem)
    _library()

    def run() -> None:
        with compiled_kernels():
            surgery()

    return run


@contextmanager
def compiled_kernels() -> Iterator[None]:
    """Lets the surgeries in the body use the kernel, and no others."""
    kernels._loaded.append(_library())
    try:
        yield
    finally:
        kernels._loaded.clear()


@cache
def _library() -> CDLL:
    kernels.compile_kernels()
    return kernels._loaded.pop()


def torchjd_jac_to_grad(problem: Problem, **options: bool) -> Callable[[], object]:
    from torchjd import aggregation, autojac

    method = aggregation.PCGrad()
    for k, parameter in enumerate(problem.parameters):
        parameter.jac = torch.stack([row[k] for row in problem.rows])
    return lambda: autojac.jac_to_grad(problem.parameters, method, **options)


def torchjd_optimized(problem: Problem) -> Callable[[], object]:
    return torchjd_jac_to_grad(problem, optimize_gramian_computation=True)


def torchjd_stacked(problem: Problem) -> Callable[[], object]:
    """Starts from gradients as autograd makes them, one tensor a task, as the packages but torchjd do."""
    from torchjd import aggregation, autojac

    method = aggregation.PCGrad()

    def run() -> None:
        for k, parameter in enumerate(problem.parameters):
            parameter.jac = torch.stack([row[k] for row in problem.rows])
        autojac.jac_to_grad(problem.parameters, method, optimize_gramian_computation=True)

    return run


def torchjd_matrix(problem: Problem) -> Callable[[], object]:
    """Takes the gradients as one matrix and leaves the result as one vector."""
    from torchjd import aggregation

    method = aggregation.PCGrad()
    matrix = problem.matrix()

    def run() -> None:
        parts = method(matrix).split([p.numel() for p in problem.parameters])
        for parameter, part in zip(problem.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    return run


def pytorch_optimizer(problem: Problem) -> Callable[[], object]:
    from pytorch_optimizer import PCGrad as Wrapper

    optimizer, losses = Wrapper(problem.inner(), reduction="sum"), problem.losses()
    return lambda: optimizer.pc_backward(losses)


def conflictfree(problem: Problem) -> Callable[[], object]:
    from conflictfree.grad_operator import PCGradOperator
    from conflictfree.utils import get_gradient_vector

    operator, module, losses = PCGradOperator(), problem.module(), problem.losses()
    # It writes into the gradients that are there, which would be the last task's.
    place = Loss(problem.parameters, [torch.zeros_like(p) for p in problem.parameters])

    def run() -> None:
        vectors = []
        for loss in losses:
            loss.backward()
            vectors.append(get_gradient_vector(module))
        place.backward()
        operator.update_gradient(module, vectors)

    return run


def libmtl(problem: Problem) -> Callable[[], object]:
    if "LibMTL" not in sys.modules:
        # Its own __init__ loads models of a torchvision that is long gone; the weightings need none.
        specification = find_spec("LibMTL")
        if specification is None or specification.submodule_search_locations is None:
            raise ModuleNotFoundError("No module named 'LibMTL'")
        package = ModuleType("LibMTL")
        package.__path__ = list(specification.submodule_search_locations)
        sys.modules["LibMTL"] = package
    from LibMTL.weighting.PCGrad import PCGrad as Weighting

    method, losses = Weighting(), problem.losses()
    method.rep_grad, method.task_num, method.device = False, len(losses), problem.device
    method.get_share_params = lambda: iter(problem.parameters)
    zeros = [torch.zeros_like(p) for p in problem.parameters]
    place = Loss(problem.parameters, zeros)

    def zero_gradients() -> None:
        torch._foreach_zero_(zeros)
        place.backward()

    method.zero_grad_share_params = zero_gradients
    return lambda: method.backward(losses)


PLAIN, COMPILED = "gradsurgery", "gradsurgery, compile_kernels()"
OURS = (PLAIN, COMPILED)

PEERS: dict[str, tuple[str, Peer]] = {
    PLAIN: ("gradsurgery", gradsurgery),
    COMPILED: ("gradsurgery", gradsurgery_compiled),
    "torchjd jac_to_grad, optimized Gramian": ("torchjd", torchjd_optimized),
    "torchjd jac_to_grad, optimized Gramian, stacked first": ("torchjd", torchjd_stacked),
    "torchjd jac_to_grad": ("torchjd", torchjd_jac_to_grad),
    "torchjd PCGrad of a matrix": ("torchjd", torchjd_matrix),
    "libmtl": ("LibMTL", libmtl),
    "pytorch_optimizer": ("pytorch_optimizer", pytorch_optimizer),
    "conflictfree": ("conflictfree", conflictfree),
}
"""By label, the package and the peer."""
