"""Hooks on all modules: in a block within a block, after an error, and for functions that are compiled."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.modules import module as of_all_modules

from smartreg import SMART
from smartreg.hooks import hooked


def registered():
    kinds = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_forward_hooks_always_called")
    return [dict(getattr(of_all_modules, kind)) for kind in kinds]


class Failing(nn.Module):
    def forward(self, x):
        raise OverflowError


def test_a_block_calls_its_own_functions_and_leaves_none_behind():
    before, calls, x, layer = registered(), [], torch.ones(2), nn.Identity()
    with hooked(lambda module, _: calls.append(("outer", module))):
        layer(x)
        with hooked(
            lambda module, _: calls.append(("inner", module)),
            lambda module, _, result: calls.append(("after", module)),
        ):
            layer(x)
            failing = Failing()
            with pytest.raises(OverflowError):
                failing(x)
        layer(x)
    layer(x)
    names = [name for name, _ in calls]
    assert names == ["outer", "outer", "inner", "after", "outer", "inner", "after", "outer"]
    assert calls[5:7] == [("inner", failing), ("after", failing)]
    assert registered() == before


def test_hooks_have_the_same_names_each_time():
    found = []
    for _ in range(2):
        with hooked(print), hooked(print, print):
            found.append([list(hooks) for hooks in registered()])
    assert found[0] == found[1]


def test_a_compiled_function_is_not_compiled_anew_at_each_call():
    compilations = []

    def backend(graph, examples):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    encoder = torch.compile(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), backend=backend)
    x, counts = torch.randn(4, 5, 8), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the hook, which the README tells of
        for _ in range(4):
            outputs, penalty = SMART().penalize(lambda x: encoder(x).mean(1), x)
            (outputs.sum() + penalty).backward()
            counts.append(len(compilations))
    assert counts == [counts[0]] * 4
