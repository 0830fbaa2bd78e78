"""Distillation losses: `loss(student, teacher, labels) -> scalar`, by name in `LOSSES`."""

from torch import nn

from rmrkd_cli.losses.adversarial import AdversarialLoss
from rmrkd_cli.losses.at import ATLoss
from rmrkd_cli.losses.cirkd import CIRKDLoss
from rmrkd_cli.losses.cirkd_memory import CIRKDMemoryLoss
from rmrkd_cli.losses.csd import CSDLoss
from rmrkd_cli.losses.cwd import CWDLoss
from rmrkd_cli.losses.dist import DISTLoss
from rmrkd_cli.losses.dkd import DKDLoss
from rmrkd_cli.losses.fitnet import FitNetLoss
from rmrkd_cli.losses.idd import IDDLoss
from rmrkd_cli.losses.ifvd import IFVDLoss
from rmrkd_cli.losses.kd import KDLoss
from rmrkd_cli.losses.mgd import MGDLoss
from rmrkd_cli.losses.pkd import PKDLoss
from rmrkd_cli.losses.psd import PSDLoss
from rmrkd_cli.losses.rmrkd import RMRKDLoss
from rmrkd_cli.losses.skd import SKDLoss

LOSSES: dict[str, type[nn.Module]] = {
    "rmrkd": RMRKDLoss,
    "mgd": MGDLoss,
    "dkd": DKDLoss,
    "idd": IDDLoss,
    "ifvd": IFVDLoss,
    "adversarial": AdversarialLoss,
    "at": ATLoss,
    "cirkd": CIRKDLoss,
    "cirkd_memory": CIRKDMemoryLoss,
    "csd": CSDLoss,
    "cwd": CWDLoss,
    "dist": DISTLoss,
    "fitnet": FitNetLoss,
    "kd": KDLoss,
    "pkd": PKDLoss,
    "psd": PSDLoss,
    "skd": SKDLoss,
}

__all__ = [
    "LOSSES",
    "ATLoss",
    "AdversarialLoss",
    "CIRKDLoss",
    "CIRKDMemoryLoss",
    "CSDLoss",
    "CWDLoss",
    "DISTLoss",
    "DKDLoss",
    "FitNetLoss",
    "IDDLoss",
    "IFVDLoss",
    "KDLoss",
    "MGDLoss",
    "PKDLoss",
    "PSDLoss",
    "RMRKDLoss",
    "SKDLoss",
]
