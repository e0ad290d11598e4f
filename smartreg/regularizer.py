"""SMART, the smoothness-inducing adversarial regularizer."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from . import backward, calibration, diagnosis, presets
from .divergences import Divergences, OutputMask, Outputs, compare, detach, has_graph, in_half_precision
from .forward import Forward
from .graphless import graphless
from .inputs import Embeddings, Inputs, Mask
from .parallel import no_sync
from .perturbation import Noise, Norm, Scope
from .presets import Preset
from .rng import RNGState, replaying

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

    The global random state moves by the noise, one number for each element of x, and by the dropout of the
    forwards, with ``dropout="shared"`` of the clean one alone.

    Args:
        preset: The setting that the options left out (None) are taken from: ``"paper"``, Algorithm 1;
            ``"vat"``, ``"r3f"`` and ``"r-drop"``, other papers' settings of the same mechanism; or
            ``"smart-pytorch"``, what that package computes, where δ is rescaled to a radius of about 1 and ε
            is the floor of a division.
        divergence: ℓ, or for outputs that are a mapping a mapping of divergences, whose sum R then is; the
            paper's is :func:`symmetric_kl`.
        search_divergence: What the search for δ climbs; by default ℓ.
        epsilon: ε, in the units of the embeddings, the paper's 1e-5; ``math.inf`` for no ball.
        step_size: η, by how much a step moves δ along the normalised gradient, the paper's 1e-3;
            ``math.inf`` steps to the edge of the ball, the power iteration of VAT.
        noise: What δ starts from: ``"normal"`` or ``"uniform"``.
        noise_std: σ, the standard deviation of normal noise, the greatest value of uniform noise, the paper's
            1e-5; ``math.inf`` for a random point of the edge, and 0, with K = 0, for no perturbation.
        num_steps: K, the paper's 1.
        norm: The norm of the ball and of the gradient: ``"linf"``, the paper's, or ``"l2"``.
        scope: Whether norms are taken per ``"sample"``, the paper's (all tensors of a tuple together), or per
            ``"token"``.
        search_radius: ξ, the radius at which gradients are taken before δ is scaled to ε; by default ε.
        dropout: ``"independent"`` draws new masks in every forward, as the authors' code does; ``"shared"``
            gives the perturbed forwards those of the clean one.
        detach_clean: Whether ``f(x)`` is a constant target: R's gradient takes the perturbed branch only.
        generator: Where the noise is drawn from; by default torch's own generator of the device.

    Raises:
        ValueError: If an option has an impossible value.
    """

    def __init__(
        self,
        *,
        preset: Preset = "paper",
        divergence: Divergences | None = None,
        search_divergence: Divergences | None = None,
        epsilon: float | None = None,
        step_size: float | None = None,
        noise: Noise | None = None,
        noise_std: float | None = None,
        num_steps: int | None = None,
        norm: Norm | None = None,
        scope: Scope | None = None,
        search_radius: float | None = None,
        dropout: Dropout = "independent",
        detach_clean: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        setting = presets.setting(preset)
        given = {
            "epsilon": epsilon,
            "step_size": step_size,
            "noise": noise,
            "noise_std": noise_std,
            "num_steps": num_steps,
            "norm": norm,
            "scope": scope,
            "search_radius": search_radius,
        }
        options = {name: value for name, value in given.items() if value is not None}
        self.perturbation = replace(setting.perturbation, **options)  # type: ignore[arg-type]
        if divergence is None:
            divergence, search_divergence = setting.divergence, search_divergence or setting.search_divergence
        self.divergence = divergence
        self.search_divergence = search_divergence
        self.detach_clean = setting.detach_clean if detach_clean is None else detach_clean
        self.generator = generator
        self.dropout = dropout
        if dropout not in {"independent", "shared"}:
            raise ValueError(f"dropout must be 'independent' or 'shared', got {dropout!r}")
        if dropout == "shared" and self.perturbation.is_zero:
            raise ValueError(
                "dropout must be 'independent' where nothing is perturbed, got 'shared', which makes both"
                " forwards the same: leave it out, or perturb with noise_std=1e-5"
            )

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
        repeated = Forward(forward)
        return self._joint(repeated, repeated, self._check(forward, embeddings, mask), output_mask)

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
        inputs = self._check(forward, embeddings, mask)
        if self._rounds(inputs):
            warnings.warn(
                "outputs were computed under autocast, whose rounding outweighs a perturbation of radius"
                f" {self.perturbation.radius:g}: leave outputs out, or leave autocast for both",
                stacklevel=2,
            )
        return self._penalty(Forward(forward), inputs, outputs, rng, output_mask)

    backward = backward.backward
    diagnose = diagnosis.diagnose
    sweep = diagnosis.sweep
    calibrate = calibration.calibrate

    def _check(self, forward: object, embeddings: Embeddings, mask: Mask) -> Inputs:
        inputs = Inputs.check(embeddings, mask, forward)
        self.perturbation.refuse_below_spacing(inputs)
        if self.dropout == "shared":
            RNGState.check_device(inputs.device)
        return inputs

    def _rounds(self, inputs: Inputs) -> bool:
        return inputs.autocasts() and self._is_below_rounding

    @property
    def _is_below_rounding(self) -> bool:
        return 0 < self.perturbation.radius < ROUNDING_RADIUS

    def _precision(self, inputs: Inputs) -> AbstractContextManager[object]:
        return inputs.full_precision() if self._rounds(inputs) else nullcontext()

    def _joint(
        self,
        clean: Callable[[Embeddings], OutputsT],
        forward: Forward[[Embeddings], Outputs],
        inputs: Inputs,
        output_mask: OutputMask,
    ) -> tuple[OutputsT, Tensor]:
        """Returns what ``clean`` gives at the embeddings, and R, of which ``forward`` gives the rest."""
        with self._precision(inputs):
            rng = RNGState.capture() if self.dropout == "shared" else None
            with inputs.unchanged():
                outputs = clean(inputs.pack())
            return outputs, self._penalty(forward, inputs, outputs, rng, output_mask)

    def _penalty(
        self,
        forward: Forward[[Embeddings], Outputs],
        inputs: Inputs,
        clean: Outputs,
        rng: RNGState | None,
        output_mask: OutputMask,
    ) -> Tensor:
        """Returns R, attached to the graphs of the embeddings, of ``clean`` and of one forward."""
        deltas = self._search(forward, inputs, clean, rng, output_mask)
        clean = detach(clean) if self.detach_clean else clean
        before = RNGState.capture() if self.perturbation.is_zero else None
        with replaying(rng):
            perturbed = forward.again(inputs.add(deltas))
        if (
            self._is_below_rounding
            and in_half_precision(perturbed)
            and not any(map(in_half_precision, inputs.tensors))
        ):
            warnings.warn(
                "forward must compute in the precision of its embeddings, got outputs of 16 bits, whose"
                f" rounding outweighs a perturbation of radius {self.perturbation.radius:g}: put an autocast"
                " that it enters around the call of this regularizer instead",
                stacklevel=4,
            )
        if has_graph(perturbed) and not self.detach_clean and not has_graph(clean):
            raise ValueError(
                "outputs must be attached to their graph, got outputs without a gradient, which halves the"
                " penalty's: compute them outside torch.no_grad(), or take detach_clean=True"
            )
        value = compare(self.divergence, perturbed, clean, output_mask)
        if before is not None and before.is_present() and not value.detach().any():
            raise RuntimeError(
                "forward must draw dropout masks where nothing is perturbed, got the same outputs twice: call"
                " model.train() first, or leave the penalty out of evaluation"
            )
        return value

    def _search(
        self,
        forward: Forward[[Embeddings], Outputs],
        inputs: Inputs,
        clean: Outputs,
        rng: RNGState | None,
        output_mask: OutputMask,
    ) -> tuple[Tensor, ...]:
        """Returns δ; nothing but δ takes part in its gradients."""
        inputs, clean = inputs.detach(), detach(clean)
        climbed = self.divergence if self.search_divergence is None else self.search_divergence
        with no_sync(forward.function):
            steps = self.perturbation.num_steps
            if steps and inputs.autocasts():  # then so was clean, whose rounding would outweigh what δ does
                with graphless(), inputs.full_precision(), replaying(rng):
                    clean = forward.again(inputs.pack())

            def gradient(deltas: list[Tensor]) -> list[Tensor]:
                if torch.is_inference_mode_enabled():
                    raise RuntimeError(
                        "torch.inference_mode() must be left for a search with num_steps ="
                        f" {steps}, got it enabled: take torch.no_grad(), which the search lifts"
                    )
                leaves = [delta.detach().requires_grad_() for delta in deltas]
                with torch.enable_grad(), replaying(rng):
                    value = compare(climbed, forward.again(inputs.add(leaves)), clean, output_mask)
                found: Sequence[Tensor | None] = ()
                if value.requires_grad:
                    with forward.lent():
                        found = torch.autograd.grad(value, leaves, allow_unused=True)
                gradients = [g for g in found if g is not None]
                if len(gradients) < len(leaves):
                    raise ValueError(
                        "forward must compute its outputs from the embeddings that it is called with, got"
                        f" outputs without a gradient of {len(leaves) - len(gradients)} of {len(leaves)}: use"
                        " its argument, all of a tuple, and no torch.no_grad() inside"
                    )
                return gradients

            with inputs.full_precision():
                return self.perturbation.search(gradient, inputs, self.generator)
