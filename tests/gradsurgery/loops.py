"""Every optimizer of torch, and problems of one task on which the wrapped must do what the bare one does."""

import torch
from torch import nn, optim

SCHEDULABLE = 0.05
"""Learning rate at which all of them move the parameters and none diverges."""


def matrices(parameters):
    return [p for p in parameters if p.dim() == 2]


VARIANTS = {
    "SGD": [
        {},
        {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01, "foreach": False},
        {"momentum": 0.9, "nesterov": True, "maximize": True, "foreach": True},
        {"momentum": 0.9, "fused": True},
    ],
    "Adam": [{"amsgrad": True}, {"foreach": True}, {"fused": True}, {"maximize": True}],
    "AdamW": [{"foreach": False}, {"foreach": True}, {"fused": True}, {"amsgrad": True}],
    "Adafactor": [{}, {"foreach": False}],
    "Muon": [{}],
    "RMSprop": [{"momentum": 0.9, "centered": True, "foreach": False}, {"foreach": True}],
    "Adagrad": [{"lr_decay": 0.1, "foreach": False}, {"foreach": True}, {"fused": True}],
    "Adadelta": [{"foreach": False}, {"foreach": True}],
    "Adamax": [{"foreach": False}, {"foreach": True}],
    "NAdam": [{"foreach": False}, {"foreach": True, "decoupled_weight_decay": True, "weight_decay": 0.1}],
    "RAdam": [{"foreach": False}, {"foreach": True}],
    "Rprop": [{"foreach": False}, {"foreach": True}],
    "ASGD": [{"foreach": False, "t0": 20}, {"foreach": True}],
}
REFUSED = {"LBFGS", "SparseAdam"}


def optimizer_of(name, options):
    """Returns a function that makes the optimizer of parameters; Muon takes matrices alone."""

    def make(parameters):
        chosen = matrices(parameters) if name == "Muon" else list(parameters)
        return getattr(optim, name)(chosen, lr=SCHEDULABLE, **options)

    return make


OPTIMIZERS = {
    f"{name} {options}": optimizer_of(name, options)
    for name, variants in VARIANTS.items()
    if hasattr(optim, name)  # some are younger than the oldest torch that is supported
    for options in variants
}


class Network(nn.Module):
    """A network of one task; its loss at a step is on that step's batch."""

    def __init__(self, device="cpu"):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(device)

    def loss(self, step):
        generator = torch.Generator().manual_seed(step)
        device = self.layers[0].weight.device
        x = torch.randn(6, 4, generator=generator).to(device)
        y = torch.randn(6, 2, generator=generator).to(device)
        return nn.functional.mse_loss(self.layers(x), y)


class Quadratics(nn.Module):
    """A parameter of each dtype, a matrix that is pulled towards each step's own place."""

    def __init__(self, dtypes):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        places = [torch.randn(3, 2, generator=generator).to(dtype) for dtype in dtypes]
        self.places = nn.ParameterList(places)

    def loss(self, step):
        generator = torch.Generator().manual_seed(step)
        target = torch.randn(3, 2, generator=generator)
        distances = [(place - target.to(place)).abs().square().sum() for place in self.places]
        return sum(distance.double() for distance in distances)


FLOATS = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
PROBLEMS = {
    "dtypes": lambda: Quadratics(FLOATS),
    "complex": lambda: Quadratics([torch.complex64, torch.float32]),
}


def result(problem, optimizer):
    """Returns copies of the parameters and of all that the optimizer remembers of them."""
    found = [p.detach().clone() for p in problem.parameters()]
    for parameter in problem.parameters():
        state = optimizer.state.get(parameter, {})
        found += [torch.as_tensor(state[key]).clone() for key in sorted(state) if state[key] is not None]
    return found


def bit_equal(a, b):
    """Returns whether the tensors agree in every bit, nan included."""
    return len(a) == len(b) and all(
        x.dtype == y.dtype and torch.equal(_bytes(x), _bytes(y)) for x, y in zip(a, b, strict=True)
    )


def _bytes(tensor):
    return tensor.cpu().contiguous().view(-1).view(torch.uint8)
