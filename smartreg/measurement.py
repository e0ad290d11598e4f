"""What the penalty's terms are at one batch and one ε, measured without a trace."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .divergences import OutputMask, Outputs, compare
from .forward import Forward
from .graphless import graphless
from .inputs import Embeddings, Inputs, Mask
from .losses import Loss, check_loss, evaluate
from .parallel import no_sync
from .rng import RNGState

if TYPE_CHECKING:
    from .regularizer import SMART


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One draw of noise and dropout; see :class:`Diagnosis` for what each is."""

    adversarial: float
    random: float
    dropout: float
    saturated: float
    lost: float
    gradient_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a penalty is measured at, and from which random state.

    Attributes:
        forward: See :meth:`SMART.penalize`.
        embeddings: x, cut from its graph.
        loss: From the outputs to L, where gradients are compared.
        parameters: The parameters whose gradients are compared.
        weight: λ.
        mask: See :meth:`SMART.penalize`.
        output_mask: See :meth:`SMART.penalize`.
        rng: The random state that every measurement begins with.
    """

    forward: Callable[[Embeddings], Outputs]
    embeddings: Embeddings
    loss: Loss | None
    parameters: tuple[Tensor, ...]
    weight: float
    mask: Mask
    output_mask: OutputMask
    rng: RNGState

    @classmethod
    def of(
        cls,
        forward: Callable[[Embeddings], Outputs],
        embeddings: Embeddings,
        *,
        loss: Loss | None,
        parameters: Iterable[Tensor] | None,
        weight: float,
        mask: Mask,
        output_mask: OutputMask,
        generator: torch.Generator | None,
    ) -> "Batch":
        """Returns the batch, whose random state is the present one, also of the regularizer's generator.

        Frozen parameters are left out.

        Raises:
            TypeError: If ``loss`` is no function.
            ValueError: If only one of ``loss`` and ``parameters`` is given, no parameter requires a gradient,
                or one is divided among ranks.
        """
        trained = tuple(p for p in parameters or () if p.requires_grad)
        if (loss is None) != (parameters is None):
            raise ValueError(
                "loss and parameters must be given together, got"
                f" {'parameters' if loss is None else 'loss'} alone: gradient_share compares both terms'"
                " gradients"
            )
        if loss is not None:
            check_loss(loss)
            if not trained:
                raise ValueError(
                    "parameters must hold one that requires a gradient, got none: pass"
                    " list(model.parameters()), for an iterator is used up at its first use"
                )
        if any(hasattr(parameter, "device_mesh") for parameter in trained):
            raise ValueError(
                "parameters must be whole, got a DTensor, whose gradient a backward alone makes: measure"
                " before the model is sharded, or leave loss and parameters out"
            )
        inputs = Inputs.check(embeddings, mask, forward).detach()
        RNGState.check_device(inputs.device)
        return cls(
            forward=forward,
            embeddings=inputs.pack(),
            loss=loss,
            parameters=trained,
            weight=weight,
            mask=mask,
            output_mask=output_mask,
            rng=RNGState.capture(generator),
        )

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Leaves the random state and reducers as they were before the block."""
        try:
            with no_sync(self.forward), torch.enable_grad():
                yield
        finally:
            self.rng.restore()

    def draws(self, smart: "SMART", samples: int) -> list[Terms]:
        """Returns several draws; another ε gives them the same noise and dropout masks."""
        self.rng.restore()
        draws = []
        for _ in range(samples):
            terms = self._terms(smart)
            draws.append(terms if self.loss is None else replace(terms, gradient_share=self._share(smart)))
        return draws

    def adversarial(self, smart: "SMART", samples: int) -> float:
        """Returns the mean adversarial term of several draws."""
        self.rng.restore()
        return sum(self._terms(smart).adversarial for _ in range(samples)) / samples

    def share(self, smart: "SMART") -> float:
        """Returns ``λ ‖∇R‖ / ‖∇L‖`` of the first draw."""
        self.rng.restore()
        return self._share(smart)

    def _share(self, smart: "SMART") -> float:
        assert self.loss is not None
        inputs, forward = smart._check(self.forward, self.embeddings, self.mask), Forward(self.forward)
        outputs, penalty = smart._joint(forward.again, forward, inputs, self.output_mask)
        norms = []
        for term in (penalty, evaluate(self.loss, outputs)):
            with forward.lent():
                reached = torch.autograd.grad(term, self.parameters, retain_graph=True, allow_unused=True)
            found = [gradient for gradient in reached if gradient is not None]
            norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in found)))
        if not found:
            raise ValueError(
                f"parameters must hold one that the loss depends on, got {len(reached)} without a gradient:"
                " pass those of the model that forward calls, above the embeddings"
            )
        return self.weight * norms[0] / norms[1] if norms[1] else math.inf

    @graphless()
    def _terms(self, smart: "SMART") -> Terms:
        inputs, forward = smart._check(self.forward, self.embeddings, self.mask), Forward(self.forward)
        with smart._precision(inputs):
            rng = RNGState.capture()
            with inputs.unchanged():
                clean = forward.again(inputs.pack())
            dropout = compare(smart.divergence, forward.again(inputs.pack()), clean, self.output_mask)
            found = smart._search(forward, inputs, clean, rng, self.output_mask)
            values = []
            for deltas in (found, smart.perturbation.random(inputs)):
                with rng.replay():
                    outputs = forward.again(inputs.add(deltas))
                values.append(compare(smart.divergence, outputs, clean, self.output_mask).item())
        real = inputs.keep([torch.ones_like(delta) for delta in found])
        still = [(x + d).to(x.dtype) == x for x, d in zip(inputs.tensors, found, strict=True)]
        lost = sum(float((one * t).sum()) for one, t in zip(real, still, strict=True))
        return Terms(
            adversarial=values[0],
            random=values[1],
            dropout=dropout.item(),
            saturated=smart.perturbation.saturated(found, inputs),
            lost=lost / sum(float(one.sum()) for one in real),
        )


def scaled(smart: "SMART", epsilon: float) -> "SMART":
    """Returns the regularizer with another ε, whose η and σ keep their ratio to it."""
    other, search = copy.copy(smart), smart.perturbation
    factor = epsilon / search.epsilon
    other.perturbation = replace(
        search,
        epsilon=epsilon,
        step_size=factor * search.step_size,
        noise_std=factor * search.noise_std,
    )
    return other


def crossing(
    value: Callable[[float], float],
    target: float,
    bracket: tuple[float, float],
    *,
    points: int,
    halvings: int,
) -> tuple[float | None, list[float]]:
    """Looks for the smallest ε at which a value has reached the target.

    The first crossing is looked for on a grid, evenly spaced in the logarithm of ε, and then bisected.

    Returns:
        The ε, None where no point reaches the target; and the values on the grid, up to the first that does.
    """
    (low, high), seen = bracket, list[float]()
    below = above = low
    for step in range(points):
        below, above = above, low * (high / low) ** (step / (points - 1))
        seen.append(value(above))
        if seen[-1] >= target:
            break
    if not seen[-1] >= target:
        return None, seen
    for _ in range(halvings if above > low else 0):
        middle = math.sqrt(below * above)
        below, above = (below, middle) if value(middle) >= target else (middle, above)
    return above, seen
