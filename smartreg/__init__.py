"""SMART, the smoothness-inducing adversarial regularizer."""

from .divergences import bernoulli_symmetric_kl, jensen_shannon, kl, squared_error, symmetric_kl
from .regularizer import SMART
from .rng import RNGState

__all__ = [
    "SMART",
    "RNGState",
    "bernoulli_symmetric_kl",
    "jensen_shannon",
    "kl",
    "squared_error",
    "symmetric_kl",
]
__version__ = "0.1.0"
