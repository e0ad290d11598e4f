"""Gradient surgery for torch optimizers."""

from .alignment import IMTLG, AlignedMTL, ConFIG
from .balancing import DWA, UncertaintyWeighting
from .bargaining import NashMTL
from .conflicts import ConflictReport
from .dual_cone import DualProj, UPGrad
from .fixed import RLW, Constant, Mean, Sum
from .gse import GSE
from .history import ConflictHistory, PairSummary
from .min_norm import MGDA, CAGrad
from .optimizer import GradientSurgery
from .projection import GradVac, PCGrad

__version__ = "0.1.0"

__all__ = [
    "DWA",
    "GSE",
    "IMTLG",
    "MGDA",
    "RLW",
    "AlignedMTL",
    "CAGrad",
    "ConFIG",
    "ConflictHistory",
    "ConflictReport",
    "Constant",
    "DualProj",
    "GradVac",
    "GradientSurgery",
    "Mean",
    "NashMTL",
    "PCGrad",
    "PairSummary",
    "Sum",
    "UPGrad",
    "UncertaintyWeighting",
]
