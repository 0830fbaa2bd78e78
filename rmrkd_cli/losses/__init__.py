"""Distillation losses: `loss(student, teacher, labels) -> scalar`, by name in `LOSSES`."""

from torch import nn

from rmrkd_cli.losses.at import ATLoss
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

LOSSES: dict[str, type[nn.Module]] = {
    "rmrkd": RMRKDLoss,
    "mgd": MGDLoss,
    "dkd": DKDLoss,
    "idd": IDDLoss,
    "ifvd": IFVDLoss,
    "at": ATLoss,
    "csd": CSDLoss,
    "cwd": CWDLoss,
    "dist": DISTLoss,
    "fitnet": FitNetLoss,
    "kd": KDLoss,
    "pkd": PKDLoss,
    "psd": PSDLoss,
}

__all__ = [
    "LOSSES",
    "ATLoss",
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
]
