"""Bregman proximal point optimization: a penalty for leaving a slowly moving copy of the model."""

import copy
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from .divergences import Divergences, OutputMask, Outputs, compare, symmetric_kl
from .rounding import HALF, round_stochastically

SEED = 1911_03437 << 24
"""Far from what users take for seeds, or the draws could be those that their weights began with."""


class BregmanProximalPoint(nn.Module):
    """The term ``ℓ(f(x; θ), f(x; θ̃))``, and ``θ̃ <- (1 - β) θ + β θ̃`` after each step of the optimizer.

    The momentum form of SMART's second part (Jiang et al. 2020, arXiv 1911.03437, section 2.2), added to the
    loss with a weight μ. θ̃ starts as θ; it has no dropout and no gradient, and its ``state_dict``, which
    holds β too, belongs in the checkpoint. Keep it outside the model, whose parameters it would otherwise
    join.

    A teacher in half precision is rounded stochastically at each update: a step of ``(1 - β) (θ - θ̃)`` is
    less than half the spacing of its numbers nearly always, so that rounded to nearest it would never move.
    The random numbers follow from the count of updates alone: equal histories, such as those of data-parallel
    ranks or of a resumed run, give equal teachers, and no generator moves.

    Args:
        model: The model with θ.
        momentum: β, in [0, 1); the paper's is 0.99, and 0.999 after a tenth of the updates. May be set anew.
        divergence: ℓ, or a mapping of divergences where the outputs are a mapping.
        dtype: ``torch.bfloat16`` keeps θ̃ in half of float32's memory and runs it in that precision, to which
            floating point arguments are then cast; by default the model's own.

    Raises:
        ValueError: If ``momentum`` is outside [0, 1), or models do not compute in ``dtype``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        momentum: float = 0.99,
        divergence: Divergences = symmetric_kl,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum!r}: the paper's is 0.99")
        if dtype not in {None, torch.bfloat16, torch.float16, torch.float32, torch.float64}:
            raise ValueError(f"dtype must be one that models compute in, got {dtype}: take torch.bfloat16")
        self.momentum = momentum
        self.divergence = divergence
        self.dtype = dtype
        self.updates = 0
        self.teacher = copy.deepcopy(model).requires_grad_(False).eval()
        if dtype is not None:
            self.teacher.to(dtype)
        self._student = (model,)  # in a tuple, or it would be registered as a part

    def forward(self, outputs: Outputs, *args: Any, output_mask: OutputMask = None, **kwargs: Any) -> Tensor:
        """Returns ``ℓ(outputs, teacher(*args, **kwargs))``, 0-d.

        Args:
            outputs: What the model returned for these arguments, attached to its graph.
            *args: The model's arguments.
            output_mask: 1 or True for the output positions that count.
            **kwargs: The model's keyword arguments.
        """
        return compare(self.divergence, outputs, self.target(*args, **kwargs), output_mask)

    @torch.no_grad()
    def target(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the teacher returns for the model's arguments, without a graph."""
        if self.dtype is not None:
            args, kwargs = _cast(args, self.dtype), _cast(kwargs, self.dtype)
        return self.teacher(*args, **kwargs)

    @torch.no_grad()
    def update(self) -> None:
        """Moves θ̃ towards θ, and copies the buffers; call it after ``optimizer.step()``.

        Raises:
            ValueError: If the model has other parameters than it had; the teacher is as it was.
        """
        (student,) = self._student
        pairs = list(zip_longest(self.teacher.parameters(), student.parameters()))
        if any(old is None or new is None or old.shape != new.shape for old, new in pairs):
            raise ValueError(
                "model must keep the parameters that it had when the teacher was made, got others: make a new"
                " BregmanProximalPoint after adding adapters, parametrizations or heads"
            )
        generators: dict[torch.device, torch.Generator] = {}
        for old, new in pairs:
            if not (old.is_floating_point() or old.is_complex()):  # quantized
                old.copy_(new)
                continue
            if old.dtype not in HALF:
                old.lerp_(new.to(old), 1 - self.momentum)
                continue
            if old.device not in generators:
                generators[old.device] = torch.Generator(old.device).manual_seed(SEED + self.updates)
            moved = old.float().lerp_(new.float(), 1 - self.momentum)
            old.copy_(round_stochastically(moved, old.dtype, generators[old.device]))
        for part, its in zip(self.teacher.modules(), student.modules(), strict=True):
            self._take_over(part, its)
        self.updates += 1

    def _take_over(self, part: nn.Module, its: nn.Module) -> None:
        """Copies a module's buffers, and the numbers and tensors beside them, such as their length."""
        for name, value in its._buffers.items():
            held = part._buffers.get(name)
            if held is not None and value is not None and held.shape == value.shape:
                held.copy_(value)
            else:  # made anew for other lengths, made later, or taken away
                part._buffers[name] = self._copied(value)
        part._non_persistent_buffers_set = set(its._non_persistent_buffers_set)
        if its._buffers:
            kinds = (int, float, Tensor)
            for name, value in vars(its).items():
                has_graph = isinstance(value, Tensor) and value.requires_grad  # activations, left for others
                if isinstance(value, kinds) and not has_graph and name != "training":
                    vars(part)[name] = self._copied(value)

    def _copied(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        device = next((p.device for p in self.teacher.parameters()), value.device)
        dtype = self.dtype if value.is_floating_point() else None
        return value.detach().to(device=device, dtype=dtype, copy=True)

    def train(self, mode: bool = True) -> "BregmanProximalPoint":
        """Sets this module's mode; the teacher stays without dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def get_extra_state(self) -> dict[str, float]:
        """Returns β and the count of updates, which ``state_dict`` holds beside the teacher."""
        return {"momentum": self.momentum, "updates": self.updates}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Takes over what :meth:`get_extra_state` returned."""
        self.momentum, self.updates = state["momentum"], int(state["updates"])


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Returns the value with its floating point tensors cast, those in tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in {tuple, list}:
        return type(value)(_cast(part, dtype) for part in value)
    if type(value) is dict:
        return {name: _cast(part, dtype) for name, part in value.items()}
    return value
