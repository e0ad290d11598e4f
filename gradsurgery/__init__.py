"""Gradient surgery for torch optimizers."""

from .alignment import IMTLG, AlignedMTL, ConFIG
from .balancing import DWA, UncertaintyWeighting
from .bargaining import NashMTL
from .conflicts import ConflictReport
from .diagnosis import Diagnosis, PairDiagnosis, diagnose
from .dual_cone import DualProj, UPGrad
from .fixed import RLW, Constant, Mean, Sum
from .gse import GSE
from .history import ConflictHistory, PairSummary
from .intervals import Interval
from .kernels import compile_kernels
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
    "Diagnosis",
    "DualProj",
    "GradVac",
    "GradientSurgery",
    "Interval",
    "Mean",
    "NashMTL",
    "PCGrad",
    "PairDiagnosis",
    "PairSummary",
    "Sum",
    "UPGrad",
    "UncertaintyWeighting",
    "compile_kernels",
    "diagnose",
]
