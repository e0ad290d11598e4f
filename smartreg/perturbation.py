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
Gradient: TypeAlias = Callable[[list[Tensor]], Sequence[Tensor]]
"""From the perturbations ``δ`` to the gradients of the divergence at ``x + δ``, of the same shapes."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """How ``δ`` is searched for.

    With ``project``, Algorithm 1 of SMART (Jiang et al. 2020, arXiv 1911.03437): ``δ = Π(N(0, σ²))``, then
    K times ``δ <- Π(δ + η g / ‖g‖)``, Π the projection on the ball ``‖δ‖ <= ε``. Without, smart-pytorch's
    steps ``δ <- (δ + η g) / (‖δ + η g‖ + ε)``, which end at a radius of about 1.

    Attributes:
        epsilon: ε, in the units of the embeddings.
        step_size: η.
        noise_std: σ, a standard deviation.
        num_steps: K.
        norm: The norm of the ball and of the gradient.
        scope: Whether a norm covers a sample, all its tensors together, or the last dimension alone.
        project: Whether δ is projected on the ball.
    """

    epsilon: float
    step_size: float
    noise_std: float
    num_steps: int
    norm: Norm
    scope: Scope
    project: bool

    def __post_init__(self) -> None:
        for name in ("epsilon", "step_size", "noise_std"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{name} must be positive and finite, got {value!r}: the paper's is"
                    f" {1e-3 if name == 'step_size' else 1e-5:g}"
                )
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 0:
            raise ValueError(
                f"num_steps must be an integer from 0 up, got {self.num_steps!r}: the paper's is 1"
            )
        if self.norm not in {"linf", "l2"}:
            raise ValueError(f"norm must be 'linf' or 'l2', got {self.norm!r}: take 'linf'")
        if self.scope not in {"sample", "token"}:
            raise ValueError(f"scope must be 'sample' or 'token', got {self.scope!r}: take 'sample'")

    @property
    def radius(self) -> float:
        """How far from x the search ends, about."""
        return self.epsilon if self.project else 1.0

    def search(self, gradient: Gradient, inputs: Inputs) -> tuple[Tensor, ...]:
        """Returns ``δ`` for each of the embeddings, in float32 at least, zero at masked positions.

        With ``project`` the sum ``x + δ`` is exact in the embeddings' own precision: rounding, too, keeps
        inside the ball.
        """
        deltas = inputs.keep([self._noise(x) for x in inputs.tensors])
        if self.project:
            deltas = self._project(deltas)
        for _ in range(self.num_steps):
            deltas = self._step(deltas, inputs.keep(gradient(deltas)))
        if self.project:
            deltas = [_settle(x.detach(), delta) for x, delta in zip(inputs.tensors, deltas, strict=True)]
        return tuple(deltas)

    def random(self, inputs: Inputs) -> list[Tensor]:
        """Returns a random ``δ`` at the radius: random signs in L∞, a random direction in L2."""
        noise = inputs.keep([self._noise(x) for x in inputs.tensors])
        if self.norm == "linf":
            deltas = [self.radius * n.sign() for n in noise]
        else:
            deltas = [self.radius * n for n in _divide(noise, self._norms(noise, "l2"))]
        return [_settle(x.detach(), delta) for x, delta in zip(inputs.tensors, deltas, strict=True)]

    def saturated(self, deltas: Sequence[Tensor], inputs: Inputs) -> float:
        """Returns the share of coordinates, in L2 of samples or tokens, within a tenth of the ball's edge."""
        real = inputs.keep([torch.ones_like(delta) for delta in deltas])
        sizes = [d.abs() for d in deltas] if self.norm == "linf" else self._norms(list(deltas), "l2")
        if self.norm == "l2":
            real = [(norm > 0).to(norm) for norm in self._norms(real, "l2")]
        edge = sum(float((r * (s > 0.9 * self.radius)).sum()) for r, s in zip(real, sizes, strict=True))
        return edge / sum(float(r.sum()) for r in real)

    def _noise(self, x: Tensor) -> Tensor:
        return torch.randn_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) * self.noise_std

    def _step(self, deltas: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        if not self.project:
            steps = [delta + self.step_size * g for delta, g in zip(deltas, gradients, strict=True)]
            norms = self._norms(steps, self.norm)
            return [step / (norm + self.epsilon) for step, norm in zip(steps, norms, strict=True)]
        # The largest element first, or the squares of a small gradient would underflow.
        gradients = _divide(gradients, self._norms(gradients, "linf"))
        if self.norm == "l2":
            gradients = _divide(gradients, self._norms(gradients, "l2"))
        return self._project([d + self.step_size * g for d, g in zip(deltas, gradients, strict=True)])

    def _project(self, deltas: list[Tensor]) -> list[Tensor]:
        if self.norm == "linf":
            return [delta.clamp(-self.epsilon, self.epsilon) for delta in deltas]
        norms = self._norms(deltas, "l2")
        return [d * (self.epsilon / norm).clamp(max=1.0) for d, norm in zip(deltas, norms, strict=True)]

    def _norms(self, tensors: list[Tensor], norm: Norm) -> list[Tensor]:
        """Returns for each tensor the norm that each of its elements is measured by, to broadcast."""
        order = math.inf if norm == "linf" else 2
        if self.scope == "token":
            return [torch.linalg.vector_norm(t, order, dim=-1, keepdim=True) for t in tensors]
        parts = torch.stack([torch.linalg.vector_norm(t.flatten(1), order, dim=1) for t in tensors])
        whole = torch.linalg.vector_norm(parts, order, dim=0)  # (B,)
        return [whole.reshape(-1, *[1] * (t.dim() - 1)) for t in tensors]


def _divide(tensors: list[Tensor], norms: list[Tensor]) -> list[Tensor]:
    """Returns ``t / ‖t‖``, and 0 where the norm is 0: a gradient of zero shows no direction."""
    return [t / torch.where(norm == 0, 1.0, norm) for t, norm in zip(tensors, norms, strict=True)]


def _settle(x: Tensor, delta: Tensor) -> Tensor:
    """Returns the largest step within ``delta`` that ``x`` can make in its own precision."""
    reached = (x + delta).to(x.dtype)
    beyond = (reached.to(delta.dtype) - x).abs() > delta.abs()
    reached = torch.where(beyond, torch.nextafter(reached, x), reached)
    return reached.to(delta.dtype) - x
