"""Hooks on all modules for the time of a block, under the same names each time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as of_all_modules
from torch.utils.hooks import RemovableHandle

_names: list[tuple[int, int]] = []
"""For each block in a block. A function that is compiled is compiled anew for hooks of other names."""


@contextmanager
def hooked(
    before: Callable[[nn.Module, Any], None],
    after: Callable[[nn.Module, Any, Any], None] | None = None,
) -> Iterator[None]:
    """Calls functions before and after the forward of any module in the block, even of one that fails.

    Args:
        before: Of a module and its positional arguments.
        after: Of a module, its positional arguments and its result.
    """
    pre_hooks, post_hooks = of_all_modules._global_forward_pre_hooks, of_all_modules._global_forward_hooks
    always = of_all_modules._global_forward_hooks_always_called
    free = (names for names in _names if names[0] not in pre_hooks)
    if (found := next(free, None)) is None:
        found = RemovableHandle(pre_hooks).id, RemovableHandle(post_hooks).id
        _names.append(found)
    first, last = found
    pre_hooks[first] = before
    if after is not None:
        post_hooks[last], always[last] = after, True
    try:
        yield
    finally:
        del pre_hooks[first]
        if after is not None:
            del post_hooks[last], always[last]
