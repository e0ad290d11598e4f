"""Stochastic rounding: what keeps a running average in half precision moving."""

import math

import torch
from torch import Tensor

HALF = {torch.bfloat16: -100, torch.float16: -13}
"""Half precision types, with the exponent below which their spacing is taken for constant: in float16 it is,
in bfloat16 numbers of less than 2^-100 count as rounding errors."""


def round_stochastically(value: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Rounds down or up at random, so that the expectation is the value.

    With probability ``(value - low) / (high - low)`` it is ``high``, otherwise ``low``, the neighbours
    of the value in ``dtype``. A value that ``dtype`` can hold is kept.

    Args:
        value: Of any shape, in float32.
        dtype: A key of ``HALF``.
        generator: What to draw from, on the value's device.
    """
    digits = 1 - round(math.log2(torch.finfo(dtype).eps))
    exponent = torch.frexp(value).exponent.clamp_(min=HALF[dtype])
    scaled = torch.ldexp(value, digits - exponent)  # in units of the spacing
    low = scaled.floor()
    low += torch.rand(value.shape, generator=generator, device=value.device) < scaled - low
    return torch.ldexp(low, exponent - digits).to(dtype)
