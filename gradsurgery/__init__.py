"""Gradient surgery for torch optimizers."""

from .conflicts import ConflictReport
from .gse import GSE
from .history import ConflictHistory, PairSummary
from .methods import PCGrad
from .optimizer import GradientSurgery

__version__ = "0.1.0"

__all__ = ["GSE", "ConflictHistory", "ConflictReport", "GradientSurgery", "PCGrad", "PairSummary"]
