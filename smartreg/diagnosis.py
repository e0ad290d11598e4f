"""What the penalty measures at a batch, and the ε at which it weighs what it should."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .buffers import preserved_buffers
from .divergences import OutputMask, Outputs, compare
from .inputs import Embeddings, Inputs, Mask
from .rng import RNGState

if TYPE_CHECKING:
    from .regularizer import SMART

GRID_POINTS = 13
BISECTIONS = 12
MEASURED = ("adversarial", "random", "dropout", "saturated", "lost", "gradient_share")


@dataclass(frozen=True)
class Diagnosis:
    """What R consists of at one batch, as means over several draws.

    Attributes:
        adversarial: R at the perturbation found, with the dropout masks of the clean forward.
        random: The same at random points of the same radius.
        dropout: R without a perturbation, with dropout masks of its own; 0 in evaluation mode.
        gain: ``adversarial / random``; about 1 where the search finds nothing.
        saturated: The share of coordinates (in L2, of samples or tokens) within a tenth of the ball's edge.
        lost: The share of coordinates where ``x + δ`` is ``x`` in the embeddings' precision.
        verdict: What to make of it, in one line.
        gradient_share: ``λ ‖∇R‖ / ‖∇L‖`` over the parameters; None without a loss.
    """

    adversarial: float
    random: float
    dropout: float
    gain: float
    saturated: float
    lost: float
    verdict: str
    gradient_share: float | None = None


def diagnose(
    self: "SMART",
    forward: Callable[[Embeddings], Outputs],
    embeddings: Embeddings,
    *,
    loss: Callable[[Any], Tensor] | None = None,
    parameters: Iterable[Tensor] | None = None,
    weight: float = 1.0,
    mask: Mask = None,
    output_mask: OutputMask = None,
    samples: int = 4,
) -> Diagnosis:
    """Measures what R consists of; gradients, buffers and the random state are left as they were.

    Args:
        self: The regularizer.
        forward: See :meth:`SMART.penalize`; in the mode, training or evaluation, that is to be measured.
        embeddings: See :meth:`SMART.penalize`.
        loss: From the outputs to L, for ``gradient_share``.
        parameters: The parameters whose gradients ``gradient_share`` compares; frozen ones are left out.
        weight: λ.
        mask: See :meth:`SMART.penalize`.
        output_mask: See :meth:`SMART.penalize`.
        samples: How many draws of noise and dropout the means are over.

    Raises:
        ValueError: If only one of ``loss`` and ``parameters`` is given, or ``samples`` is not positive.
    """
    if (loss is None) != (parameters is None):
        raise ValueError(
            "loss and parameters must be given together, got"
            f" {'parameters' if loss is None else 'loss'} alone: gradient_share compares both terms'"
            " gradients"
        )
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples!r}: take 4")
    inputs = self._check(embeddings, mask).detach()
    RNGState.check_device(inputs.device)
    cut, chosen, before = inputs.pack(), list(parameters or ()), RNGState.capture()
    draws: list[list[float]] = []
    try:
        with preserved_buffers(forward), torch.enable_grad():
            for _ in range(samples):
                draws.append(_measure(self, forward, inputs, output_mask))
                if loss is not None:
                    outputs, penalty = self.penalize(forward, cut, mask=mask, output_mask=output_mask)
                    draws[-1].append(weight * _ratio(penalty, loss(outputs), chosen))
    finally:
        before.restore()
    columns = dict(zip(MEASURED, zip(*draws, strict=True), strict=False))
    means = {name: sum(column) / samples for name, column in columns.items()}
    adversarial, random = means["adversarial"], means["random"]
    means["gain"] = adversarial / random if random else math.inf if adversarial else 1.0
    return Diagnosis(**means, verdict=_verdict(self, means))


def calibrate(
    self: "SMART",
    forward: Callable[[Embeddings], Outputs],
    embeddings: Embeddings,
    *,
    loss: Callable[[Any], Tensor],
    parameters: Iterable[Tensor],
    weight: float,
    mask: Mask = None,
    output_mask: OutputMask = None,
    target: float = 0.1,
    bracket: tuple[float, float] = (1e-6, 1.0),
) -> "SMART":
    """Returns a regularizer with the smallest ε at which ``λ ‖∇R‖ / ‖∇L‖`` is the target.

    η and σ keep their ratio to ε. Noise and dropout masks are the same at every ε; gradients, buffers and the
    random state are left as they were. The first crossing is looked for on a grid of 13 values of ε, evenly
    spaced in its logarithm, and then bisected.

    Args:
        self: The regularizer, of the preset ``"paper"``.
        forward: See :meth:`SMART.penalize`.
        embeddings: See :meth:`SMART.penalize`.
        loss: From the outputs to L.
        parameters: The parameters whose gradients are compared; frozen ones are left out.
        weight: λ.
        mask: See :meth:`SMART.penalize`.
        output_mask: See :meth:`SMART.penalize`.
        target: The share that is looked for.
        bracket: The least and the greatest ε.

    Raises:
        ValueError: If no ε in the bracket has this share, or the preset has no ball.
    """
    if not self.perturbation.project:
        raise ValueError("calibrate() needs preset='paper', got 'smart-pytorch': its epsilon is no radius")
    low, high = bracket
    if not 0 < low < high < math.inf:
        raise ValueError(f"bracket must be two positive numbers in order, got {bracket!r}: take (1e-6, 1.0)")
    cut, chosen, before = Inputs.check(embeddings, mask).detach().pack(), list(parameters), RNGState.capture()

    def share(smart: "SMART") -> float:
        before.restore()
        outputs, penalty = smart.penalize(forward, cut, mask=mask, output_mask=output_mask)
        return weight * _ratio(penalty, loss(outputs), chosen)

    try:
        with preserved_buffers(forward), torch.enable_grad():
            below, least, greatest = None, math.inf, 0.0
            for step in range(GRID_POINTS):
                smart = _scaled(self, low * (high / low) ** (step / (GRID_POINTS - 1)))
                found = share(smart)
                least, greatest = min(least, found), max(greatest, found)
                if found >= target:
                    break
                below = smart
            if greatest < target or below is None:
                reason = (
                    f"the greatest share in it is {greatest:.3g}: take a greater weight, or a smaller target"
                    if greatest < target
                    else f"the least epsilon gives {least:.3g}: take dropout='shared', or a smaller weight"
                )
                raise ValueError(f"target must be reached in bracket={bracket}, got {target:g}, but {reason}")
            for _ in range(BISECTIONS):
                middle = _scaled(self, math.sqrt(below.perturbation.epsilon * smart.perturbation.epsilon))
                below, smart = (below, middle) if share(middle) >= target else (middle, smart)
            return smart
    finally:
        before.restore()


def _scaled(smart: "SMART", epsilon: float) -> "SMART":
    other, search = copy.copy(smart), smart.perturbation
    factor = epsilon / search.epsilon
    other.perturbation = replace(
        search,
        epsilon=epsilon,
        step_size=factor * search.step_size,
        noise_std=factor * search.noise_std,
    )
    return other


@torch.no_grad()
def _measure(
    smart: "SMART", forward: Callable[[Embeddings], Outputs], inputs: Inputs, output_mask: OutputMask
) -> list[float]:
    """Returns one draw of adversarial, random, dropout, saturated and lost."""
    with smart._precision(inputs):
        rng = RNGState.capture()
        clean = forward(inputs.pack())
        dropout = compare(smart.divergence, forward(inputs.pack()), clean, output_mask)
        adversarial = smart._search(forward, inputs, clean, rng, output_mask)
        points = (adversarial, smart.perturbation.random(inputs))
        values = []
        for deltas in points:
            with rng.replay():
                values.append(
                    compare(smart.divergence, forward(inputs.add(deltas)), clean, output_mask).item()
                )
    ones = inputs.keep([torch.ones_like(delta) for delta in adversarial])
    still = [(x + d).to(x.dtype) == x for x, d in zip(inputs.tensors, adversarial, strict=True)]
    lost = sum(float((one * t).sum()) for one, t in zip(ones, still, strict=True))
    lost /= sum(float(one.sum()) for one in ones)
    return [*values, dropout.item(), smart.perturbation.saturated(adversarial, inputs), lost]


def _ratio(penalty: Tensor, loss: Tensor, parameters: Sequence[Tensor]) -> float:
    """Returns ``‖∇R‖ / ‖∇L‖``."""
    trained = [p for p in parameters if p.requires_grad]
    norms = []
    for term in (penalty, loss):
        found = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
        norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None)))
    return norms[0] / norms[1] if norms[1] else math.inf


def _verdict(smart: "SMART", diagnosis: dict[str, float]) -> str:
    adversarial, dropout, gain = (diagnosis[name] for name in ("adversarial", "dropout", "gain"))
    if diagnosis["lost"] > 0.5:
        return (
            f"rounding loses {diagnosis['lost']:.0%} of the perturbation: take a larger epsilon, or float32"
        )
    if smart.dropout == "independent" and dropout > adversarial:
        return (
            f"dropout alone gives R = {dropout:.2g}, the perturbation {adversarial:.2g}: this acts as R-Drop;"
            " for SMART take dropout='shared', or a larger epsilon"
        )
    if gain < 1.5:
        return f"the search gains {gain:.2g} over random points: take more or larger steps"
    share = diagnosis.get("gradient_share")
    if share is not None and not 0.01 <= share <= 1.0:
        size = "hardly moves the parameters" if share < 0.01 else "outweighs the task"
        return f"the penalty {size}, at a share of {share:.2g}: calibrate epsilon, or change the weight"
    return f"the perturbation is adversarial, {gain:.2g} times as strong as random points"
