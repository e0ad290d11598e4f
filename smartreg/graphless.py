"""Forwards without a graph, of which nothing is left for those with one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def graphless() -> Iterator[None]:
    """Runs the block under ``torch.no_grad()``, and without autocast's cache.

    Autocast casts a weight once and keeps the copy until it is left. That of a pass without a graph has none
    either, and torch 2.4 hands it to the next forward, from which the weight then gets no gradient.
    """
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
