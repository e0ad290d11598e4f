"""Divergences between the outputs at perturbed and at clean embeddings.

Every function takes ``(perturbed, clean)``, two tensors of one shape, and returns their divergence averaged
over the output positions, 0-d; gradients flow into both arguments. They compute in float32 at least, in forms
without cancellation: near ``perturbed = clean`` the textbook ``Σ p (log p - log q)`` is all rounding error.
"""

import copy
import math
from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor


class Divergence(Protocol):
    """Called as ``divergence(perturbed, clean)``, with ``mask=`` beside an output mask; returns a scalar."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the divergence, 0-d."""


Divergences: TypeAlias = Divergence | Mapping[str, Divergence]
"""One divergence, or one for each output that is compared; the penalty is then their sum."""
Outputs: TypeAlias = Tensor | Mapping[str, Tensor]
"""What a model's forward returns."""
OutputMask: TypeAlias = Tensor | Mapping[str, Tensor] | None
"""Which output positions count, with the structure of the outputs."""


def symmetric_kl(
    perturbed: Tensor,
    clean: Tensor,
    *,
    mask: Tensor | None = None,
    detach_clean: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Returns ``KL(p‖q) + KL(q‖p)`` of ``p = softmax(perturbed)`` and ``q = softmax(clean)``.

    SMART's ``ℓ_s`` for classification (Jiang et al. 2020, section 2.1), as ``Σ (p + q) d tanh(d/2)`` with
    ``d = log p - log q``, a sum of terms that are never negative.

    Args:
        perturbed: Logits ``(..., C)`` at the perturbed embeddings.
        clean: Logits ``(..., C)`` at the clean embeddings.
        mask: 1 or True for the positions ``(...)`` that count; ignored labels are ``labels != -100``.
        detach_clean: Whether ``clean`` is a constant target, which halves the gradient in expectation.
        temperature: T > 0: the distributions are ``softmax(logits / T)``. Near ``perturbed = clean`` the
            divergence falls with T², and nothing makes up for it.

    Raises:
        ValueError: If the shapes differ, if there is only one logit, whose softmax is constant, or if the
            temperature is not positive.
    """
    perturbed, clean = _prepare(perturbed, clean, mask, detach_clean, temperature)
    log_p, log_q = _log_softmax(perturbed), _log_softmax(clean)
    d = log_p - log_q
    terms = (log_p.exp() + log_q.exp()) * d * torch.tanh(d / 2)
    return _mean(terms.sum(-1), mask)


def kl(
    perturbed: Tensor,
    clean: Tensor,
    *,
    mask: Tensor | None = None,
    detach_clean: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Returns ``KL(q‖p)`` of ``q = softmax(clean)`` from ``p = softmax(perturbed)``: VAT's divergence.

    Miyato et al. 2018, arXiv 1704.03976, equation 5. For the arguments see :func:`symmetric_kl`.
    """
    perturbed, clean = _prepare(perturbed, clean, mask, detach_clean, temperature)
    return _mean(_kl(_log_softmax(clean), _log_softmax(perturbed)), mask)


def jensen_shannon(
    perturbed: Tensor,
    clean: Tensor,
    *,
    mask: Tensor | None = None,
    detach_clean: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Returns ``(KL(p‖m) + KL(q‖m)) / 2`` with ``m = (p + q) / 2``, at most ``log 2``.

    For the arguments see :func:`symmetric_kl`.
    """
    perturbed, clean = _prepare(perturbed, clean, mask, detach_clean, temperature)
    log_p, log_q = _log_softmax(perturbed), _log_softmax(clean)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return _mean((_kl(log_p, log_m) + _kl(log_q, log_m)) / 2, mask)


def bernoulli_symmetric_kl(
    perturbed: Tensor,
    clean: Tensor,
    *,
    mask: Tensor | None = None,
    detach_clean: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Returns the symmetric KL of Bernoulli distributions given by ONE logit each.

    It is ``(σ(a) - σ(b)) (a - b)``, :func:`symmetric_kl` of the logits ``(a, 0)`` and ``(b, 0)``: the
    divergence for a head trained with binary cross entropy.

    Args:
        perturbed: Logits of any shape, such as ``(B,)`` or ``(B, 1)``, each of its own Bernoulli variable.
        clean: Logits of the same shape.
        mask: 1 or True for the positions that count, shaped as the leading dimensions of the logits.
        detach_clean: Whether ``clean`` is a constant target, which halves the gradient in expectation.
        temperature: See :func:`symmetric_kl`.

    Raises:
        ValueError: If the shapes differ, or if the temperature is not positive.
    """
    a, b = _prepare(perturbed, clean, mask, detach_clean, temperature)
    d = a - b
    terms = d * torch.tanh(d / 2) * (a.sigmoid() * (-b).sigmoid() + b.sigmoid() * (-a).sigmoid())
    return _mean(terms, mask)


def squared_error(
    perturbed: Tensor, clean: Tensor, *, mask: Tensor | None = None, detach_clean: bool = False
) -> Tensor:
    """Returns ``(perturbed - clean)²``, SMART's ``ℓ_s`` for regression, averaged over all elements.

    For the arguments see :func:`bernoulli_symmetric_kl`; a temperature has no meaning here.
    """
    perturbed, clean = _prepare(perturbed, clean, mask, detach_clean)
    return _mean((perturbed - clean).square(), mask)


def compare(divergence: Divergences, perturbed: Outputs, clean: Outputs, mask: OutputMask = None) -> Tensor:
    """Returns the divergence of two outputs, 0-d; of mappings, the sum over the names in ``divergence``.

    Raises:
        TypeError: If the outputs do not have the structure of ``divergence``.
        ValueError: If two outputs differ in shape, or their divergence is not a scalar.
    """
    if isinstance(divergence, Mapping):
        parts = []
        for name, part in divergence.items():
            part_mask = None if mask is None else _named(mask, name)
            parts.append(compare(part, _named(perturbed, name), _named(clean, name), part_mask))
        return torch.stack(parts).sum()
    if not isinstance(perturbed, Tensor) or not isinstance(clean, Tensor):
        raise TypeError(
            f"outputs must be a tensor for a single divergence, got {type(perturbed).__name__} and"
            f" {type(clean).__name__}: return the logits from forward, or a mapping of outputs for a"
            ' mapping of divergences such as {"logits": symmetric_kl}'
        )
    _check_shapes(perturbed, clean)
    value = divergence(perturbed, clean) if mask is None else divergence(perturbed, clean, mask=mask)
    if value.dim():
        raise ValueError(f"divergence must return a scalar, got shape {tuple(value.shape)}: take its mean")
    return value


def detach(outputs: Outputs, *, requires_grad: bool = False) -> Outputs:
    """Returns the outputs cut from their graph; of a mapping, those that are tensors, as a dict."""
    if isinstance(outputs, Mapping):
        return {k: _cut(v, requires_grad) for k, v in outputs.items() if isinstance(v, Tensor)}
    return _cut(outputs, requires_grad) if isinstance(outputs, Tensor) else outputs


def without_graph(outputs: Any) -> Any:
    """Returns outputs of the same type, with the tensors in it, and in containers in it, detached."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, MutableMapping):
        twin = copy.copy(outputs)  # of transformers' ModelOutput, too
        for name, value in outputs.items():
            twin[name] = without_graph(value)
        return twin
    if isinstance(outputs, Mapping):
        return {name: without_graph(value) for name, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        parts = map(without_graph, outputs)
        return type(outputs)(*parts) if hasattr(outputs, "_fields") else type(outputs)(parts)
    return outputs


def tensors(outputs: Outputs) -> list[Tensor]:
    """Returns the outputs that are tensors, in order."""
    values = outputs.values() if isinstance(outputs, Mapping) else [outputs]
    return [value for value in values if isinstance(value, Tensor)]


def has_graph(outputs: Outputs) -> bool:
    """Returns whether any of the outputs is attached to a graph."""
    return any(value.requires_grad for value in tensors(outputs))


def in_half_precision(outputs: Outputs) -> bool:
    """Returns whether any of the outputs has 16 bits a number."""
    return any(value.dtype in {torch.float16, torch.bfloat16} for value in tensors(outputs))


def _cut(output: Tensor, requires_grad: bool) -> Tensor:
    return output.detach().requires_grad_(requires_grad and output.is_floating_point())


def _check_shapes(perturbed: Tensor, clean: Tensor) -> None:
    if perturbed.shape != clean.shape:
        raise ValueError(
            f"perturbed and clean must have one shape, got {tuple(perturbed.shape)} and {tuple(clean.shape)}:"
            " make forward return outputs of the same shape at every call"
        )


def _named(outputs: Outputs, name: str) -> Tensor:
    if not isinstance(outputs, Mapping) or name not in outputs:
        got = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise TypeError(
            f"outputs and output_mask must be mappings that hold {name!r}, got {got}: give each divergence"
            " the name of the output that it compares"
        )
    return outputs[name]


def _prepare(
    perturbed: Tensor, clean: Tensor, mask: Tensor | None, detach_clean: bool, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Returns both in float32 at least, zero (equal, so without divergence or gradient) where masked out."""
    _check_shapes(perturbed, clean)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}: take 1.0")
    dtype = torch.promote_types(torch.promote_types(perturbed.dtype, clean.dtype), torch.float32)
    perturbed, clean = perturbed.to(dtype), (clean.detach() if detach_clean else clean).to(dtype)
    if temperature != 1:
        perturbed, clean = perturbed / temperature, clean / temperature
    if mask is None:
        return perturbed, clean
    _check_mask(mask, perturbed)
    if mask.is_floating_point() and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "mask must be 1 for output positions that count and 0 for others, got values from"
            f" {float(mask.min()):g} to {float(mask.max()):g}: pass labels != -100, not an additive mask"
        )
    keep = _expand(mask, perturbed)
    return torch.where(keep, perturbed, 0.0), torch.where(keep, clean, 0.0)


def _check_mask(mask: Tensor, positions: Tensor) -> None:
    if mask.shape != positions.shape[: mask.dim()]:
        raise ValueError(
            f"mask must have the leading shape of the output positions, got {tuple(mask.shape)} for"
            f" {tuple(positions.shape)}: pass one entry for each position, of logits one for all classes"
        )


def _expand(mask: Tensor, like: Tensor) -> Tensor:
    return mask.bool().reshape(*mask.shape, *[1] * (like.dim() - mask.dim()))


def _log_softmax(logits: Tensor) -> Tensor:
    if logits.dim() < 2 or logits.shape[-1] == 1:
        raise ValueError(
            f"logits must have shape (..., C) with C > 1, got {tuple(logits.shape)}: a softmax over one logit"
            " is constant, so take bernoulli_symmetric_kl for a one-logit classifier, squared_error for"
            " regression"
        )
    # A class ruled out by -inf in both branches then differs by 0 instead of inf - inf.
    return torch.log_softmax(logits, dim=-1).clamp(min=torch.finfo(logits.dtype).min)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Returns ``KL(a‖b)`` over the last dimension as ``Σ a (d + e^-d - 1)``, d = log a - log b, all >= 0."""
    a, d = log_a.exp(), log_a - log_b
    near = d.abs() < 1  # beyond, e^-d could overflow and nothing cancels
    small = torch.where(near, d, 0.0)
    return torch.where(near, a * (small + torch.expm1(-small)), a * d + log_b.exp() - a).sum(-1)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean()
    _check_mask(mask, values)
    count = _expand(mask, values).expand_as(values).sum()
    return values.sum() / count.clamp(min=1)
