"""SMART, the smoothness-inducing adversarial regularizer."""

from .backward import SmartTerms
from .diagnosis import Diagnosis
from .divergences import Divergence, bernoulli_symmetric_kl, jensen_shannon, kl, squared_error, symmetric_kl
from .embeddings import EmbeddingFunction
from .proximal import BregmanProximalPoint
from .regularizer import SMART
from .rng import RNGState

__all__ = [
    "SMART",
    "BregmanProximalPoint",
    "Diagnosis",
    "Divergence",
    "EmbeddingFunction",
    "RNGState",
    "SmartTerms",
    "bernoulli_symmetric_kl",
    "jensen_shannon",
    "kl",
    "squared_error",
    "symmetric_kl",
]
__version__ = "0.1.0"
