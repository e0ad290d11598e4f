"""Forwards without a graph, of which nothing is left for those with one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.utils import parametrize


@contextmanager
def graphless() -> Iterator[None]:
    """Runs the block under ``torch.no_grad()``, and without the caches of autocast and parametrizations.

    Autocast casts a weight once and keeps the copy until it is left. That of a pass without a graph has none
    either, and torch 2.4 hands it to the next forward, from which the weight then gets no gradient.
    """
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad(), parametrized_anew():
            yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


@contextmanager
def parametrized_anew() -> Iterator[None]:
    """Computes parametrized weights in each forward of the block, also inside ``parametrize.cached()``.

    It keeps a weight with the graph of the forward that has computed it, which has none, or which a backward
    frees before the next forward.
    """
    enabled, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = enabled
