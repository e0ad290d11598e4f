"""SMART, the smoothness-inducing adversarial regularizer."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from . import backward, calibration, diagnosis
from .backward import no_sync
from .buffers import preserved_buffers
from .divergences import Divergences, OutputMask, Outputs, compare, detach, symmetric_kl
from .inputs import Embeddings, Inputs, Mask
from .perturbation import Norm, Perturbation, Scope
from .rng import RNGState

Preset: TypeAlias = Literal["paper", "smart-pytorch"]
Dropout: TypeAlias = Literal["independent", "shared"]
OutputsT = TypeVar("OutputsT", bound=Outputs)
ROUNDING_RADIUS = 1e-3
"""Below this radius the rounding of a forward in half precision outweighs what the perturbation does."""


class SMART:
    """The penalty ``R = ℓ(f(x + δ), f(x))``, δ the perturbation within ``‖δ‖ <= ε`` that makes R large.

    SMART (Jiang et al. 2020, arXiv 1911.03437, equation 2 and Algorithm 1): f maps the embeddings x of a
    batch to outputs, ℓ compares outputs, and the loss to minimise is ``L + λ R``. A step costs one clean
    forward, shared with the task's loss, K forwards with a gradient with respect to δ alone, and one forward
    at ``x + δ``.

    Args:
        preset: ``"paper"``, Algorithm 1, or ``"smart-pytorch"``, what that package computes: a normalised
            gradient step and a ball are absent, δ is rescaled to a radius of about 1 and ε is the floor of a
            division.
        divergence: ℓ, or for outputs that are a mapping a mapping of divergences, whose sum R then is.
        epsilon: ε, in the units of the embeddings; by default 1e-5, of smart-pytorch 1e-6.
        step_size: η, by how much a step moves δ along the normalised gradient.
        noise_std: σ, the standard deviation of the noise that δ starts from.
        num_steps: K.
        norm: The norm of the ball and of the gradient.
        scope: Whether norms are taken per sample (all tensors of a tuple together) or per token; by default
            per sample, of smart-pytorch per token.
        dropout: ``"independent"`` draws new masks in every forward, as the authors' code does; ``"shared"``
            gives the perturbed forwards those of the clean one.
        detach_clean: Whether ``f(x)`` is a constant target: R's gradient takes the perturbed branch only.

    Raises:
        ValueError: If an option has an impossible value.
    """

    def __init__(
        self,
        *,
        preset: Preset = "paper",
        divergence: Divergences = symmetric_kl,
        epsilon: float | None = None,
        step_size: float = 1e-3,
        noise_std: float = 1e-5,
        num_steps: int = 1,
        norm: Norm = "linf",
        scope: Scope | None = None,
        dropout: Dropout = "independent",
        detach_clean: bool = False,
    ) -> None:
        if preset not in {"paper", "smart-pytorch"}:
            raise ValueError(f"preset must be 'paper' or 'smart-pytorch', got {preset!r}")
        if dropout not in {"independent", "shared"}:
            raise ValueError(f"dropout must be 'independent' or 'shared', got {dropout!r}")
        paper = preset == "paper"
        self.perturbation = Perturbation(
            epsilon=epsilon if epsilon is not None else 1e-5 if paper else 1e-6,
            step_size=step_size,
            noise_std=noise_std,
            num_steps=num_steps,
            norm=norm,
            scope=scope or ("sample" if paper else "token"),
            project=paper,
        )
        self.divergence = divergence
        self.dropout = dropout
        self.detach_clean = detach_clean

    def penalize(
        self,
        forward: Callable[[Embeddings], OutputsT],
        embeddings: Embeddings,
        *,
        mask: Mask = None,
        output_mask: OutputMask = None,
    ) -> tuple[OutputsT, Tensor]:
        """Returns the outputs at the embeddings, and R, 0-d.

        Args:
            forward: From embeddings to outputs: a tensor, or a mapping for a mapping of divergences.
            embeddings: x, ``(B, L, D)`` or generally ``(B, ..., D)``, or a tuple of such tensors where a
                sample is embedded more than once; ``forward`` is called with the same structure.
            mask: 1 or True for the real positions ``(B, L)``; the others are not perturbed. A tuple beside
                a tuple.
            output_mask: 1 or True for the output positions that count, such as ``labels != -100``.

        Raises:
            TypeError: If embeddings or outputs are of the wrong type or structure.
            ValueError: If shapes do not fit, or if ε or σ is lost in the precision of the embeddings.
        """
        inputs = self._check(embeddings, mask)
        with self._precision(inputs):
            rng = RNGState.capture() if self.dropout == "shared" else None
            outputs = forward(inputs.pack())
            return outputs, self._penalty(forward, inputs, outputs, rng, output_mask)

    def __call__(
        self,
        forward: Callable[[Embeddings], Outputs],
        embeddings: Embeddings,
        outputs: Outputs | None = None,
        *,
        mask: Mask = None,
        output_mask: OutputMask = None,
        rng: RNGState | None = None,
    ) -> Tensor:
        """Returns R, 0-d, for outputs that are already there.

        Args:
            forward: See :meth:`penalize`.
            embeddings: See :meth:`penalize`.
            outputs: ``forward(embeddings)``, still attached to its graph; computed here if left out.
            mask: See :meth:`penalize`.
            output_mask: See :meth:`penalize`.
            rng: For shared dropout, the state from before the forward that gave ``outputs``.

        Raises:
            TypeError: See :meth:`penalize`.
            ValueError: See :meth:`penalize`; and if ``rng`` is missing, or has no use.
        """
        shared = self.dropout == "shared"
        if outputs is None and rng is None:
            return self.penalize(forward, embeddings, mask=mask, output_mask=output_mask)[1]
        if shared and rng is None:
            raise ValueError(
                "rng must be given with outputs for dropout='shared', got None: pass rng=RNGState.capture()"
                " from before their forward, or leave outputs out"
            )
        if outputs is None or (rng is not None and not shared):
            raise ValueError(
                f"rng is of use only with outputs and dropout='shared', got it with outputs"
                f" {'left out' if outputs is None else 'given'} and dropout={self.dropout!r}: leave rng out"
            )
        inputs = self._check(embeddings, mask)
        if self._rounds(inputs):
            warnings.warn(
                "outputs were computed under autocast, whose rounding outweighs a perturbation of radius"
                f" {self.perturbation.radius:g}: leave outputs out, or leave autocast for both",
                stacklevel=2,
            )
        return self._penalty(forward, inputs, outputs, rng, output_mask)

    backward = backward.backward
    diagnose = diagnosis.diagnose
    sweep = diagnosis.sweep
    calibrate = calibration.calibrate

    def _check(self, embeddings: Embeddings, mask: Mask) -> Inputs:
        inputs = Inputs.check(embeddings, mask)
        if self.perturbation.project:
            search = self.perturbation
            inputs.refuse_below_spacing(epsilon=search.epsilon, noise_std=search.noise_std)
        if self.dropout == "shared":
            RNGState.check_device(inputs.device)
        return inputs

    def _rounds(self, inputs: Inputs) -> bool:
        return inputs.autocasts() and self.perturbation.radius < ROUNDING_RADIUS

    def _precision(self, inputs: Inputs) -> AbstractContextManager[object]:
        return inputs.full_precision() if self._rounds(inputs) else nullcontext()

    def _penalty(
        self,
        forward: Callable[[Embeddings], Outputs],
        inputs: Inputs,
        clean: Outputs,
        rng: RNGState | None,
        output_mask: OutputMask,
    ) -> Tensor:
        """Returns R, attached to the graphs of the embeddings, of ``clean`` and of one forward."""
        deltas = self._search(forward, inputs, clean, rng, output_mask)
        clean = detach(clean) if self.detach_clean else clean
        with preserved_buffers(forward), _replay(rng):
            return compare(self.divergence, forward(inputs.add(deltas)), clean, output_mask)

    def _search(
        self,
        forward: Callable[[Embeddings], Outputs],
        inputs: Inputs,
        clean: Outputs,
        rng: RNGState | None,
        output_mask: OutputMask,
    ) -> tuple[Tensor, ...]:
        """Returns δ; nothing but δ takes part in its gradients."""
        inputs, clean = inputs.detach(), detach(clean)
        with preserved_buffers(forward), no_sync(forward):
            if inputs.autocasts():  # then so was clean, whose rounding would outweigh what δ does
                with torch.no_grad(), inputs.full_precision(), _replay(rng):
                    clean = forward(inputs.pack())

            def gradient(deltas: list[Tensor]) -> list[Tensor]:
                leaves = [delta.detach().requires_grad_() for delta in deltas]
                with torch.enable_grad(), _replay(rng):
                    value = compare(self.divergence, forward(inputs.add(leaves)), clean, output_mask)
                found = torch.autograd.grad(value, leaves, allow_unused=True) if value.requires_grad else ()
                if all(g is None for g in found):
                    raise ValueError(
                        "forward must compute its outputs from the embeddings that it is called with, got"
                        " outputs without a gradient: use its argument, and no torch.no_grad() inside"
                    )
                return [torch.zeros_like(d) if g is None else g for d, g in zip(leaves, found, strict=True)]

            with inputs.full_precision():
                return self.perturbation.search(gradient, inputs)


def _replay(rng: RNGState | None) -> AbstractContextManager[None]:
    return nullcontext() if rng is None else rng.replay()
