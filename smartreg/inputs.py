"""The embeddings of one call: one tensor or several of the same samples, with their masks, checked once."""

import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .forward import modules_of
from .unchanged import unchanged

Embeddings: TypeAlias = Tensor | tuple[Tensor, ...]
"""``(B, L, D)``, or generally ``(B, ...)``; a tuple where a sample is embedded more than once."""
Mask: TypeAlias = Tensor | tuple[Tensor | None, ...] | None
"""1 or True for real positions ``(B, L)``; a tuple beside a tuple of embeddings."""


@dataclass(frozen=True)
class Inputs:
    """Embeddings as a tuple of tensors, whatever the caller passed.

    Attributes:
        tensors: The embeddings, each ``(B, ...)``, under autocast in float32 at least, unless the parameters
            are of 16 bits, too.
        masks: For each, which coordinates are real, broadcastable over its last dimensions, or None for all.
        is_tuple: Whether ``forward`` takes them as a tuple.
    """

    tensors: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    is_tuple: bool

    @classmethod
    def check(cls, embeddings: Embeddings, mask: Mask, forward: object = None) -> "Inputs":
        """Returns the checked inputs of ``forward``; parameters of modules out of sight count as float32.

        Raises:
            TypeError: If the embeddings are not tensors of floating point.
            ValueError: If shapes do not fit each other, or a mask is not made of 0 and 1.
        """
        is_tuple = not isinstance(embeddings, Tensor)
        tensors = tuple(embeddings) if is_tuple else (embeddings,)
        if not tensors or not all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
            got = [getattr(t, "dtype", type(t).__name__) for t in tensors]
            raise TypeError(
                f"embeddings must be a floating point tensor or a tuple of them, got {got}:"
                " pass the output of the embedding layer, not token ids"
            )
        if any(t.dim() < 2 or t.shape[0] != tensors[0].shape[0] for t in tensors):
            raise ValueError(
                f"embeddings must have shape (B, ..., D) with one B, got {[tuple(t.shape) for t in tensors]}:"
                " put the samples first"
            )
        inputs = cls(tensors, _check_masks(tensors, mask, is_tuple), is_tuple)
        if not inputs.autocasts() or _is_of_16_bits(forward):
            return inputs
        widened = tuple(t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors)
        return replace(inputs, tensors=widened)

    @property
    def device(self) -> torch.device:
        """The embeddings' device."""
        return self.tensors[0].device

    def autocasts(self) -> bool:
        """Returns whether a forward would now run under autocast."""
        return torch.is_autocast_enabled(self.device.type)

    def full_precision(self) -> AbstractContextManager[object]:
        """Returns the context in which forwards run in the parameters' own precision."""
        return torch.autocast(self.device.type, enabled=False)

    def refuse_below_spacing(self, lengths: Mapping[str, tuple[float, float]]) -> None:
        """Refuses lengths that could not move the embeddings in their own precision.

        In float32 and float64 only a length that looks too small is compared, since the comparison makes a
        GPU wait: one below the spacing at 64.

        Args:
            lengths: By name the length, and of how many spacings it must be.

        Raises:
            ValueError: If one is less than that many spacings of the embeddings' type at their root mean
                square.
        """
        for x, mask in zip(self.tensors, self.masks, strict=True):
            eps = torch.finfo(x.dtype).eps
            half = x.dtype in {torch.float16, torch.bfloat16}
            if not half and all(length >= 64 * eps * count for length, count in lengths.values()):
                continue
            real = x.detach() if mask is None else x.detach()[mask.expand_as(x)]
            size = real.to(torch.promote_types(x.dtype, torch.float32)).square().mean().sqrt().item()
            spacing = eps * 2.0 ** math.floor(math.log2(size)) if 0 < size < math.inf else 0.0
            for name, (length, count) in lengths.items():
                if length < count * spacing:
                    times = "" if count == 1 else f"{count:.3g} times "
                    remedy = "keep the model in float32, under autocast if you like, or " if half else ""
                    raise ValueError(
                        f"{name} must be at least {count * spacing:.2g}, {times}the spacing of {x.dtype} at"
                        f" the embeddings' root mean square {size:.2g}, got {length:g}: {remedy}take a larger"
                        " one"
                    )

    def detach(self) -> "Inputs":
        """Returns the same embeddings, cut from the graph that made them."""
        return replace(self, tensors=tuple(t.detach() for t in self.tensors))

    def leaves(self) -> "Inputs":
        """Returns the same embeddings as leaves that gather the gradients of those that have a graph."""
        return replace(self, tensors=tuple(t.detach().requires_grad_(t.requires_grad) for t in self.tensors))

    def keep(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns tensors of the embeddings' shapes with zeros, whatever was there, at masked positions."""
        pairs = zip(tensors, self.masks, strict=True)
        return [t if mask is None else torch.where(mask, t, 0.0) for t, mask in pairs]

    def pack(self) -> Embeddings:
        """Returns the embeddings as ``forward`` takes them."""
        return self.tensors if self.is_tuple else self.tensors[0]

    def unchanged(self) -> AbstractContextManager[None]:
        """Refuses a forward that writes to the embeddings, which are perturbed as they were before it."""
        return unchanged(
            self.tensors,
            "forward must leave its embeddings as they are, got them changed in place: let it begin with"
            " x = x.clone(), or take inplace=False in its first layer",
        )

    def add(self, deltas: Sequence[Tensor]) -> Embeddings:
        """Returns ``x + δ`` as ``forward`` takes it, differentiable in both."""
        moved = tuple((x + delta).to(x.dtype) for x, delta in zip(self.tensors, deltas, strict=True))
        return moved if self.is_tuple else moved[0]


def _is_of_16_bits(forward: object) -> bool:
    known = modules_of(forward)
    modules = _named_in(forward) if known is None else known
    parameters = (p for module in modules for p in module.parameters(recurse=False))
    return any(p.dtype in {torch.float16, torch.bfloat16} for p in parameters)


def _named_in(forward: object) -> list[nn.Module]:
    """Returns the modules, and theirs, that a function's text names or the object whose method it is has."""
    values: list[object] = []
    while isinstance(forward, partial):
        values += [*forward.args, *forward.keywords.values()]
        forward = forward.func
    for each in (forward, getattr(forward, "__self__", None)):
        values += getattr(each, "__dict__", {}).values()
    function = getattr(forward, "__func__", forward)
    if inspect.isfunction(function):
        values += [function.__globals__.get(name) for name in function.__code__.co_names]
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # a cell that is not filled yet
                values.append(cell.cell_contents)
    return [part for value in values if isinstance(value, nn.Module) for part in value.modules()]


def _check_masks(tensors: tuple[Tensor, ...], mask: Mask, is_tuple: bool) -> tuple[Tensor | None, ...]:
    if mask is None:
        return (None,) * len(tensors)
    masks = (mask,) if isinstance(mask, Tensor) else tuple(mask)
    if is_tuple == isinstance(mask, Tensor) or len(masks) != len(tensors):
        raise ValueError(
            f"mask must have the structure of embeddings, got {len(masks)} for {len(tensors)}:"
            " pass a tuple of masks beside a tuple of embeddings, a tensor beside a tensor"
        )
    return tuple(None if m is None else _check_mask(m, t) for m, t in zip(masks, tensors, strict=True))


def _check_mask(mask: Tensor, embeddings: Tensor) -> Tensor:
    if mask.shape != embeddings.shape[: mask.dim()] or mask.dim() == embeddings.dim():
        raise ValueError(
            f"mask must have the embeddings' shape without the last dimension, got {tuple(mask.shape)} for"
            f" {tuple(embeddings.shape)}: pass the tokenizer's attention mask (B, L)"
        )
    if mask.is_floating_point() and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"mask must be 1 for real positions and 0 for padding, got values from {float(mask.min()):g} to"
            f" {float(mask.max()):g}: pass the tokenizer's attention mask, not an additive one"
        )
    return mask.bool().reshape(*mask.shape, *[1] * (embeddings.dim() - mask.dim()))
