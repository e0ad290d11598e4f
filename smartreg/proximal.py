"""Bregman proximal point optimization: a penalty for leaving a slowly moving copy of the model."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .divergences import Divergences, OutputMask, Outputs, compare, symmetric_kl


class BregmanProximalPoint(nn.Module):
    """The term ``ℓ(f(x; θ), f(x; θ̃))``, and ``θ̃ <- (1 - β) θ + β θ̃`` after each step of the optimizer.

    The momentum form of SMART's second part (Jiang et al. 2020, arXiv 1911.03437, section 2.2), added to the
    loss with a weight μ. θ̃ starts as θ; it has no dropout and no gradient, and its ``state_dict`` belongs in
    the checkpoint. Keep it outside the model, whose parameters it would otherwise join.

    Args:
        model: The model with θ.
        momentum: β, in [0, 1); the paper's is 0.99, and 0.999 after a tenth of the updates. May be set anew.
        divergence: ℓ, or a mapping of divergences where the outputs are a mapping.

    Raises:
        ValueError: If ``momentum`` is outside [0, 1).
    """

    def __init__(
        self, model: nn.Module, *, momentum: float = 0.99, divergence: Divergences = symmetric_kl
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum!r}: the paper's is 0.99")
        self.momentum = momentum
        self.divergence = divergence
        self.teacher = copy.deepcopy(model).requires_grad_(False).eval()
        self._student = (model,)  # in a tuple, or it would be registered as a part

    def forward(self, outputs: Outputs, *args: Any, output_mask: OutputMask = None, **kwargs: Any) -> Tensor:
        """Returns ``ℓ(outputs, teacher(*args, **kwargs))``, 0-d.

        Args:
            outputs: What the model returned for these arguments, attached to its graph.
            *args: The model's arguments.
            output_mask: 1 or True for the output positions that count.
            **kwargs: The model's keyword arguments.
        """
        with torch.no_grad():
            target = self.teacher(*args, **kwargs)
        return compare(self.divergence, outputs, target, output_mask)

    @torch.no_grad()
    def update(self) -> None:
        """Moves θ̃ towards θ, and copies the buffers; call it after ``optimizer.step()``."""
        (student,) = self._student
        for old, new in zip(self.teacher.parameters(), student.parameters(), strict=True):
            old.lerp_(new.to(old), 1 - self.momentum)
        for buffer, value in zip(self.teacher.buffers(), student.buffers(), strict=True):
            buffer.copy_(value)

    def train(self, mode: bool = True) -> "BregmanProximalPoint":
        """Sets this module's mode; the teacher stays without dropout."""
        super().train(mode)
        self.teacher.eval()
        return self
