"""The adversarial perturbation: initialise, ascend, project."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .inputs import Inputs

Norm: TypeAlias = Literal["linf", "l2"]
Scope: TypeAlias = Literal["sample", "token"]
Noise: TypeAlias = Literal["normal", "uniform"]
EDGE = ("step_size", "noise_std")
"""What may be infinite: it then takes δ to the edge of the ball."""
Gradient: TypeAlias = Callable[[list[Tensor]], Sequence[Tensor]]
"""From the perturbations ``δ`` to the gradients of the divergence at ``x + δ``, of the same shapes."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """How ``δ`` is searched for, by one mechanism of which the papers are settings.

    δ starts as noise; K times ``δ <- Π(δ + η g / ‖g‖)``, g the gradient and Π the projection on the ball
    ``‖δ‖ <= ξ``; at last δ is scaled by ``ε / ξ``. Algorithm 1 of SMART (Jiang et al. 2020, arXiv 1911.03437)
    has ξ = ε; VAT's power iteration (Miyato et al. 2018, arXiv 1704.03976, section 3.3) starts at the edge of
    a small ball, and steps to it. Without ``project``, smart-pytorch's steps
    ``δ <- (δ + η g) / (‖δ + η g‖ + ε)``, which end at a radius of about 1.

    Attributes:
        epsilon: ε, in the units of the embeddings; ``math.inf`` for no ball.
        step_size: η; ``math.inf`` for a step to the edge of the ball.
        noise_std: σ, the standard deviation of normal noise, the greatest value of uniform noise;
            ``math.inf`` for a random point of the edge, and 0, with K = 0, for no perturbation at all.
        num_steps: K.
        norm: The norm of the ball and of the gradient.
        scope: Whether a norm covers a sample, all its tensors together, or the last dimension alone.
        noise: What δ starts as.
        search_radius: ξ, the radius at which gradients are taken; by default ε.
        project: Whether δ is projected on the ball.
    """

    epsilon: float
    step_size: float
    noise_std: float
    num_steps: int
    norm: Norm
    scope: Scope
    noise: Noise = "normal"
    search_radius: float | None = None
    project: bool = True

    def __post_init__(self) -> None:
        for name in ("epsilon", "step_size", "noise_std", "search_radius"):
            value = getattr(self, name)
            zero = name == "noise_std" and value == 0
            if value is None or 0 < value < math.inf or (zero and self.num_steps == 0):
                continue
            if value == math.inf and (self.project if name == "epsilon" else self.has_ball and name in EDGE):
                continue
            remedy = f"the paper's is {1e-3 if name == 'step_size' else 1e-5:g}"
            if zero:
                remedy = "at δ = 0 a divergence has no gradient, so take a small one"
            elif value == math.inf and name in EDGE:
                remedy = f"only a ball has an edge, and epsilon={self.epsilon!r} gives none"
            raise ValueError(f"{name} must be positive and finite, got {value!r}: {remedy}")
        if self.search_radius is not None and not self.has_ball:
            raise ValueError(
                f"search_radius must be None without a ball, got {self.search_radius!r} beside"
                f" epsilon={self.epsilon!r}: take a finite epsilon, and a preset that projects"
            )
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 0:
            raise ValueError(
                f"num_steps must be an integer from 0 up, got {self.num_steps!r}: the paper's is 1"
            )
        for name, first, second in (
            ("norm", "linf", "l2"),
            ("scope", "sample", "token"),
            ("noise", "normal", "uniform"),
        ):
            if (value := getattr(self, name)) not in {first, second}:
                raise ValueError(f"{name} must be {first!r} or {second!r}, got {value!r}: take {first!r}")

    @property
    def has_ball(self) -> bool:
        """Whether ε is the radius of a ball."""
        return self.project and self.epsilon < math.inf

    @property
    def is_zero(self) -> bool:
        """Whether δ is 0, so that nothing but dropout tells the two forwards apart."""
        return self.noise_std == 0

    @property
    def radius(self) -> float:
        """How far from x the search ends, about."""
        if not self.project:
            return 1.0
        return self.epsilon if self.epsilon < math.inf else self.noise_std + self.num_steps * self.step_size

    def refuse_below_spacing(self, inputs: Inputs) -> None:
        """Refuses embeddings in whose precision the perturbation, or what the search starts from, is lost.

        Raises:
            ValueError: If a length is below what the embeddings' type can represent.
        """
        if not self.project or self.is_zero:
            return
        lengths = {"epsilon": (self.epsilon, 1.0), "noise_std": (self.noise_std, 1.0)}
        if self.search_radius is not None:
            coordinates = sum(x[0].numel() for x in inputs.tensors) if self.norm == "l2" else 1
            lengths["search_radius"] = (self.search_radius, math.sqrt(coordinates))  # a random direction
        inputs.refuse_below_spacing(lengths)

    def search(
        self, gradient: Gradient, inputs: Inputs, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Returns ``δ`` for each of the embeddings, in float32 at least, zero at masked positions.

        With ``project`` the sum ``x + δ`` is exact in the embeddings' own precision: rounding, too, keeps
        inside the ball. As in Algorithm 1, noise may be outside until the first step projects it.
        """
        deltas = self._start(inputs, generator)
        for _ in range(self.num_steps):
            deltas = self._step(deltas, inputs.keep(gradient(deltas)))
        if not self.project:
            return tuple(deltas)
        deltas = self._project(deltas)
        if self.search_radius is not None:
            deltas = [self.epsilon / self.search_radius * delta for delta in deltas]
        return tuple(_settle(x.detach(), delta) for x, delta in zip(inputs.tensors, deltas, strict=True))

    def random(self, inputs: Inputs) -> list[Tensor]:
        """Returns a random ``δ`` at the radius: random signs in L∞, a random direction in L2."""
        deltas = self._edge(self._draw(inputs, "normal", None), self.radius)
        return [_settle(x.detach(), delta) for x, delta in zip(inputs.tensors, deltas, strict=True)]

    def saturated(self, deltas: Sequence[Tensor], inputs: Inputs) -> float:
        """Returns the share of coordinates, in L2 of samples or tokens, within a tenth of the ball's edge."""
        real = inputs.keep([torch.ones_like(delta) for delta in deltas])
        sizes = [d.abs() for d in deltas] if self.norm == "linf" else self._norms(list(deltas), "l2")
        if self.norm == "l2":
            real = [(norm > 0).to(norm) for norm in self._norms(real, "l2")]
        edge = sum(float((r * (s > 0.9 * self.radius)).sum()) for r, s in zip(real, sizes, strict=True))
        return edge / sum(float(r.sum()) for r in real)

    def _start(self, inputs: Inputs, generator: torch.Generator | None) -> list[Tensor]:
        if self.is_zero:  # without a draw
            return [torch.zeros_like(x, dtype=_precision(x)) for x in inputs.tensors]
        noise = self._draw(inputs, self.noise, generator)
        if self.noise_std == math.inf:
            return self._edge(noise, self._ball)
        return [n * self.noise_std for n in noise]

    def _draw(self, inputs: Inputs, noise: Noise, generator: torch.Generator | None) -> list[Tensor]:
        """Returns noise of size 1, zero at masked positions.

        The real positions take the numbers in the order in which they are drawn, so that padding, however
        long and wherever it is, does not change what they get.
        """
        draws = []
        for x, mask in zip(inputs.tensors, inputs.masks, strict=True):
            draw = torch.empty_like(x, dtype=_precision(x))
            draw = (
                draw.normal_(generator=generator)
                if noise == "normal"
                else draw.uniform_(-1, 1, generator=generator)
            )
            if mask is not None and mask.numel():
                rank = (mask.flatten().cumsum(0) - 1).clamp(min=0)
                draw = draw.reshape(mask.numel(), -1)[rank].reshape(x.shape)
            draws.append(draw)
        return inputs.keep(draws)

    def _step(self, deltas: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        if not self.project:
            steps = [delta + self.step_size * g for delta, g in zip(deltas, gradients, strict=True)]
            norms = self._norms(steps, self.norm)
            return [step / (norm + self.epsilon) for step, norm in zip(steps, norms, strict=True)]
        # The largest element first, or the squares of a small gradient would underflow.
        norms = self._norms(gradients, "linf")
        gradients = _divide(gradients, norms)
        if self.step_size == math.inf:
            pairs = zip(deltas, self._edge(gradients, self._ball), norms, strict=True)
            return [torch.where(norm == 0, delta, edge) for delta, edge, norm in pairs]
        if self.norm == "l2":
            gradients = _divide(gradients, self._norms(gradients, "l2"))
        return self._project([d + self.step_size * g for d, g in zip(deltas, gradients, strict=True)])

    @property
    def _ball(self) -> float:
        return self.epsilon if self.search_radius is None else self.search_radius

    def _edge(self, directions: list[Tensor], radius: float) -> list[Tensor]:
        """Returns the points of the ball that are farthest in the directions."""
        if self.norm == "linf":
            return [radius * torch.where(d.isnan(), d, d.sign()) for d in directions]
        return [radius * d for d in _divide(directions, self._norms(directions, "l2"))]

    def _project(self, deltas: list[Tensor]) -> list[Tensor]:
        if self.norm == "linf":
            return [delta.clamp(-self._ball, self._ball) for delta in deltas]
        norms = self._norms(deltas, "l2")
        return [d * (self._ball / norm).clamp(max=1.0) for d, norm in zip(deltas, norms, strict=True)]

    def _norms(self, tensors: list[Tensor], norm: Norm) -> list[Tensor]:
        """Returns for each tensor the norm that each of its elements is measured by, to broadcast."""
        order = math.inf if norm == "linf" else 2
        if self.scope == "token":
            return [torch.linalg.vector_norm(t, order, dim=-1, keepdim=True) for t in tensors]
        parts = torch.stack([torch.linalg.vector_norm(t.flatten(1), order, dim=1) for t in tensors])
        whole = torch.linalg.vector_norm(parts, order, dim=0)  # (B,)
        return [whole.reshape(-1, *[1] * (t.dim() - 1)) for t in tensors]


def _precision(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _divide(tensors: list[Tensor], norms: list[Tensor]) -> list[Tensor]:
    """Returns ``t / ‖t‖``, and 0 where the norm is 0: a gradient of zero shows no direction."""
    return [t / torch.where(norm == 0, 1.0, norm) for t, norm in zip(tensors, norms, strict=True)]


def _settle(x: Tensor, delta: Tensor) -> Tensor:
    """Returns the largest step within ``delta`` that ``x`` can make in its own precision."""
    reached = (x + delta).to(x.dtype)
    beyond = (reached.to(delta.dtype) - x).abs() > delta.abs()
    reached = torch.where(beyond, torch.nextafter(reached, x), reached)
    return reached.to(delta.dtype) - x
