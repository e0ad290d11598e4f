"""What the penalty of a batch consists of, and what to do about it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from .calibration import refuse_without_ball
from .divergences import OutputMask, Outputs
from .inputs import Embeddings, Mask
from .losses import Loss
from .measurement import Batch, Terms, crossing, scaled

if TYPE_CHECKING:
    from .regularizer import SMART

EPSILONS = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 1))
"""From 1e-6 to 1, two a decade."""
INERT, TARGET, EXCESSIVE = 0.01, 0.1, 1.0
"""Gradient shares: what moves the parameters too little, what to aim at, what outweighs the task."""
INERT_PART = 0.1
"""The part of dropout's term below which the adversarial one is inert."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What R consists of at one batch, as means over several draws.

    Attributes:
        epsilon: ε.
        adversarial: R at the perturbation found, with the dropout masks of the clean forward.
        random: The same at random points of the same radius.
        dropout: R without a perturbation, with dropout masks of its own; 0 in evaluation mode.
        gain: ``adversarial / random``; about 1 where the search finds nothing.
        saturated: The share of coordinates (in L2, of samples or tokens) within a tenth of the ball's edge.
        lost: The share of coordinates where ``x + δ`` is ``x`` in the embeddings' precision.
        gradient_share: ``λ ‖∇R‖ / ‖∇L‖`` over the parameters; None without a loss.
        suggested_epsilon: Where the penalty is inert or weak, about the smallest ε at which the adversarial
            term is what two dropout masks give, or, where it is that already or dropout is shared, at which
            the gradient share is 0.1. None where nothing is to be raised, where no ε is enough, and in a
            sweep.
        verdict: What to make of it, in one line.
    """

    epsilon: float
    adversarial: float
    random: float
    dropout: float
    gain: float
    saturated: float
    lost: float
    gradient_share: float | None
    suggested_epsilon: float | None
    verdict: str


def diagnose(
    self: "SMART",
    forward: Callable[[Embeddings], Outputs],
    embeddings: Embeddings,
    *,
    loss: Loss | None = None,
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
        embeddings: See :meth:`SMART.penalize`; cut from their graph, so that parameters below them do not
            count.
        loss: From the outputs to L, for ``gradient_share``.
        parameters: The parameters whose gradients ``gradient_share`` compares; frozen ones are left out.
        weight: λ.
        mask: See :meth:`SMART.penalize`.
        output_mask: See :meth:`SMART.penalize`.
        samples: How many draws of noise and dropout the means are over.

    Raises:
        ValueError: If only one of ``loss`` and ``parameters`` is given, the loss depends on none of the
            parameters, or ``samples`` is not positive.
    """
    batch = Batch.of(
        forward,
        embeddings,
        loss=loss,
        parameters=parameters,
        weight=weight,
        mask=mask,
        output_mask=output_mask,
        generator=self.generator,
    )
    with batch.untouched():
        return _diagnose(self, batch, samples, advise=True)


def sweep(
    self: "SMART",
    forward: Callable[[Embeddings], Outputs],
    embeddings: Embeddings,
    *,
    epsilons: Sequence[float] = EPSILONS,
    loss: Loss | None = None,
    parameters: Iterable[Tensor] | None = None,
    weight: float = 1.0,
    mask: Mask = None,
    output_mask: OutputMask = None,
    samples: int = 4,
) -> tuple[Diagnosis, ...]:
    """Diagnoses the regularizer at each ε, for ``plots.plot_sweep``; η and σ keep their ratio to ε.

    Noise and dropout masks are the same at every ε, of which there are by default 13, from 1e-6 to 1. For the
    other arguments see :meth:`SMART.diagnose`.

    Raises:
        ValueError: See :meth:`SMART.diagnose`; and if an ε is not positive, or the preset has no ball.
    """
    refuse_without_ball(self, "sweep")
    batch = Batch.of(
        forward,
        embeddings,
        loss=loss,
        parameters=parameters,
        weight=weight,
        mask=mask,
        output_mask=output_mask,
        generator=self.generator,
    )
    with batch.untouched():
        return tuple(_diagnose(scaled(self, epsilon), batch, samples, advise=False) for epsilon in epsilons)


def _diagnose(smart: "SMART", batch: Batch, samples: int, *, advise: bool) -> Diagnosis:
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples!r}: take 4")
    draws = [asdict(terms) for terms in batch.draws(smart, samples)]
    means: dict[str, Any] = {
        name: None if first is None else sum(draw[name] for draw in draws) / samples
        for name, first in draws[0].items()
    }
    terms = Terms(**means)
    gain = terms.adversarial / terms.random if terms.random else math.inf if terms.adversarial else 1.0
    verdict, aim = _judge(smart, terms, gain, batch.weight)
    suggested = None
    if advise and aim is not None:
        suggested = _suggest(smart, batch, aim, samples)
        verdict += f"; raise epsilon to about {suggested:.2g}" if suggested else "; no epsilon is enough"
    return Diagnosis(
        epsilon=smart.perturbation.epsilon, gain=gain, suggested_epsilon=suggested, verdict=verdict, **means
    )


@dataclass(frozen=True, kw_only=True)
class _Aim:
    """What a greater ε should bring: which term, from what it is to what it should be."""

    term: Literal["adversarial", "gradient_share"]
    now: float
    target: float


def _judge(smart: "SMART", terms: Terms, gain: float, weight: float) -> tuple[str, _Aim | None]:
    """Returns the verdict, of what may be wrong the first in order of gravity, and what ε should reach."""
    share, aim = terms.gradient_share, None
    if terms.lost > 0.5 and not smart.perturbation.is_zero:
        text = f"rounding loses {terms.lost:.0%} of the perturbation: take a larger epsilon, or float32"
    elif smart.perturbation.is_zero:
        text = "nothing is perturbed: R is what two dropout masks give, which is R-Drop"
    elif smart.dropout == "independent" and terms.adversarial < terms.dropout:
        part = terms.adversarial / terms.dropout
        text = (
            f"{'inert' if part < INERT_PART else 'weak'}: the adversarial term is {100 * part:.2g} % of what"
            " two dropout masks give, so this acts as R-Drop"
        )
        aim = _Aim(term="adversarial", now=terms.adversarial, target=terms.dropout)
    elif share is not None and share < INERT:
        text = f"inert: the penalty's gradient is {100 * share:.2g} % of the task's"
        aim = _Aim(term="gradient_share", now=share, target=TARGET)
    elif share is not None and share > EXCESSIVE:
        text = (
            f"excessive: the penalty's gradient is {share:.2g} times the task's; lower the weight from"
            f" {weight:g} to about {weight * TARGET / share:.2g}"
        )
    elif gain < 1.5 and smart.perturbation.num_steps:
        text = f"the search gains {gain:.2g} over random points: take more or larger steps"
    else:
        text = f"the perturbation is {gain:.2g} times as strong as random points"
    return text, aim if smart.perturbation.has_ball and aim and aim.now > 0 else None


def _suggest(smart: "SMART", batch: Batch, aim: _Aim, samples: int) -> float | None:
    """Returns the smallest ε that reaches the aim, to some 10 %; None where a thousandfold is not enough.

    Below the target R and its gradient grow as ε², by which the search begins near its end.
    """

    def value(epsilon: float) -> float:
        other = scaled(smart, epsilon)
        return batch.share(other) if aim.term == "gradient_share" else batch.adversarial(other, samples)

    epsilon = smart.perturbation.epsilon
    expected = epsilon * math.sqrt(aim.target / aim.now)
    middle = max(epsilon, expected / 10)
    found, seen = crossing(value, aim.target, (middle, 1e3 * expected), points=9, halvings=4)
    if len(seen) == 1 and middle > epsilon:  # earlier than expected
        found, _ = crossing(value, aim.target, (epsilon, middle), points=9, halvings=4)
    return found
