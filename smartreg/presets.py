"""Papers and packages as settings of the one mechanism."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from .divergences import Divergences, kl, symmetric_kl
from .perturbation import Perturbation

Preset: TypeAlias = Literal["paper", "smart-pytorch", "vat", "r3f", "r-drop"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a preset fixes until an option says otherwise.

    Attributes:
        perturbation: How δ is searched for.
        divergence: ℓ.
        search_divergence: What the search climbs, if not ℓ.
        detach_clean: Whether ``f(x)`` is a constant target.
    """

    perturbation: Perturbation
    divergence: Divergences = symmetric_kl
    search_divergence: Divergences | None = None
    detach_clean: bool = False


def _batch_kl(perturbed: Tensor, clean: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns smart-pytorch's ``kl_loss``, in its order of operations."""
    _refuse(mask)
    return F.kl_div(F.log_softmax(perturbed, -1), F.softmax(clean, -1), reduction="batchmean")


def _summed_half_detached_kl(perturbed: Tensor, clean: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns smart-pytorch's ``sym_kl_loss``: summed over the batch, each target a constant."""
    _refuse(mask)
    return F.kl_div(F.log_softmax(perturbed, -1), F.softmax(clean.detach(), -1), reduction="sum") + F.kl_div(
        F.log_softmax(clean, -1), F.softmax(perturbed.detach(), -1), reduction="sum"
    )


def _refuse(mask: Tensor | None) -> None:
    if mask is not None:
        raise ValueError(
            f"output_mask has no counterpart in smart-pytorch, got one of shape {tuple(mask.shape)}: leave it"
            " out, or take divergence=symmetric_kl"
        )


PRESETS: dict[Preset, Setting] = {
    # SMART, Jiang et al. 2020, arXiv 1911.03437: Algorithm 1, and the values of its section 4.
    "paper": Setting(
        perturbation=Perturbation(
            epsilon=1e-5, step_size=1e-3, noise_std=1e-5, num_steps=1, norm="linf", scope="sample"
        )
    ),
    # The package of that name, version 0.0.4: nothing is projected, and ε keeps a division from 0.
    "smart-pytorch": Setting(
        perturbation=Perturbation(
            epsilon=1e-6,
            step_size=1e-3,
            noise_std=1e-5,
            num_steps=1,
            norm="linf",
            scope="token",
            project=False,
        ),
        divergence=_summed_half_detached_kl,
        search_divergence=_batch_kl,
    ),
    # VAT, Miyato et al. 2018, arXiv 1704.03976, equations 5 to 12: one power iteration by finite differences.
    # ε and ξ of the authors' code for text, whose word vectors have variance 1 (Miyato et al. 2017, arXiv
    # 1605.07725); the 1e-6 that their code for images takes for ξ is lost in float32 over a whole text.
    "vat": Setting(
        perturbation=Perturbation(
            epsilon=5.0,
            step_size=math.inf,
            noise_std=math.inf,
            num_steps=1,
            norm="l2",
            scope="sample",
            search_radius=0.1,
        ),
        divergence=kl,
        detach_clean=True,
    ),
    # R3F, Aghajanyan et al. 2021, arXiv 2008.03156, equation 4: noise, uniform as in the authors' code.
    "r3f": Setting(
        perturbation=Perturbation(
            epsilon=math.inf,
            step_size=1e-3,
            noise_std=1e-5,
            num_steps=0,
            norm="linf",
            scope="sample",
            noise="uniform",
        )
    ),
    # R-Drop, Liang et al. 2021, arXiv 2106.14448, equation 2: two dropout masks at the same x.
    "r-drop": Setting(
        perturbation=Perturbation(
            epsilon=math.inf, step_size=1e-3, noise_std=0.0, num_steps=0, norm="linf", scope="sample"
        )
    ),
}


def setting(preset: str) -> Setting:
    """Returns the preset's setting.

    Raises:
        ValueError: If there is no such preset.
    """
    for name, found in PRESETS.items():
        if name == preset:
            return found
    raise ValueError(f"preset must be one of {', '.join(map(repr, PRESETS))}, got {preset!r}: take 'paper'")
