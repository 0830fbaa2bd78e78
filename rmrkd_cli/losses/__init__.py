"""Distillation losses: `loss(student, teacher, labels) -> scalar`, by name in `LOSSES`.

A loss that trains a network of its own too returns a mapping, as `Distiller` says.
"""

from torch import nn

from rmrkd_cli.losses.adversarial import AdversarialLoss
from rmrkd_cli.losses.dkd import DKDLoss
from rmrkd_cli.losses.idd import IDDLoss
from rmrkd_cli.losses.ifvd import IFVDLoss
from rmrkd_cli.losses.mgd import MGDLoss
from rmrkd_cli.losses.rmrkd import RMRKDLoss

LOSSES: dict[str, type[nn.Module]] = {
    "rmrkd": RMRKDLoss,
    "mgd": MGDLoss,
    "dkd": DKDLoss,
    "idd": IDDLoss,
    "ifvd": IFVDLoss,
    "adversarial": AdversarialLoss,
}

__all__ = ["LOSSES", "AdversarialLoss", "DKDLoss", "IDDLoss", "IFVDLoss", "MGDLoss", "RMRKDLoss"]
