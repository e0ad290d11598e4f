"""What is given to a function of the caller's, and needed afterwards, must be as it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smartreg import SMART

LABELS = torch.tensor([0, 2, 1, 0])
SMOOTH = {"epsilon": 0.1, "noise_std": 0.1, "step_size": 1.0}
WAYS = {
    "penalize": lambda smart, forward, x: smart.penalize(forward, x),
    "backward": lambda smart, forward, x: smart.backward(forward, x, task_loss, weight=1.0),
    "diagnose": lambda smart, forward, x: smart.diagnose(forward, x, samples=1),
}


def task_loss(outputs):
    return F.cross_entropy(outputs, LABELS)


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(4, 6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("detach_clean", [False, True])
def test_a_forward_that_writes_to_its_embeddings_is_refused(x, way, detach_clean):
    """δ would be added to what the clean forward has left there."""
    smart = SMART(**SMOOTH, detach_clean=detach_clean)
    with pytest.raises(RuntimeError, match=r"forward must leave .* x = x.clone\(\)"):
        WAYS[way](smart, nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)), x.clone())
    WAYS[way](smart, nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), x)


def test_a_forward_may_write_to_a_copy(x):
    layer, found = nn.Linear(6, 3), []
    for forward in (lambda e: layer(e.clone().mul_(2).tanh()), lambda e: layer((e * 2).tanh())):
        torch.manual_seed(1)
        found.append(SMART(**SMOOTH).penalize(forward, x)[1])
    assert torch.equal(*found)
    assert found[0] > 0


def test_embeddings_of_inference_mode_are_taken(x):
    with torch.inference_mode():
        inside = x * 1
    smart = SMART(**SMOOTH, num_steps=0)
    with torch.no_grad():
        assert smart.penalize(nn.Linear(6, 3), inside)[1] > 0


@pytest.mark.parametrize("detach_clean", [False, True])
def test_a_loss_that_writes_to_the_outputs_is_refused(x, detach_clean):
    smart, layer = SMART(**SMOOTH, detach_clean=detach_clean), nn.Linear(6, 3)
    with pytest.raises(RuntimeError, match=r"loss must leave .* outputs.clone\(\)"):
        smart.backward(layer, x, lambda outputs: task_loss(outputs.div_(0.5)), weight=1.0)
