"""Forwards without a graph, which compute what those with one do and leave nothing for them."""

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
        with torch.no_grad(), as_with_a_graph():
            yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


@contextmanager
def as_with_a_graph() -> Iterator[None]:
    """Computes each forward of the block by itself, and with a graph or without one alike.

    ``parametrize.cached()`` keeps a weight with the graph of the forward that has computed it, which has
    none, or which a backward frees before the next forward. And without a graph torch's transformer layers
    take another way in evaluation, which puts zeros where positions are padded.
    """
    enabled, parametrize._cache_enabled = parametrize._cache_enabled, 0
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        parametrize._cache_enabled = enabled
        torch.backends.mha.set_fastpath_enabled(fast)
