"""Distillation losses: `loss(student, teacher, labels) -> scalar`. `LOSSES` finds them by their type in presets.

Each public file of this package holds one loss, and the file's name is its type. `LOSSES` reads the folder, so a new
file is usable from presets at once; the imports below only serve `from rmrkd_cli.losses import KDLoss`.
"""

import importlib
import pkgutil
from types import ModuleType

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses.adversarial import AdversarialLoss
from rmrkd_cli.losses.af_dcd import AfDCDLoss
from rmrkd_cli.losses.at import ATLoss
from rmrkd_cli.losses.attnfd import AttnFDLoss
from rmrkd_cli.losses.bpkd import BPKDLoss
from rmrkd_cli.losses.cirkd import CIRKDLoss
from rmrkd_cli.losses.cirkd_channel import CIRKDChannelLoss
from rmrkd_cli.losses.cirkd_memory import CIRKDMemoryLoss
from rmrkd_cli.losses.cirkdv2 import CIRKDv2Loss
from rmrkd_cli.losses.csd import CSDLoss
from rmrkd_cli.losses.cwd import CWDLoss
from rmrkd_cli.losses.dist import DISTLoss
from rmrkd_cli.losses.dkd import DKDLoss
from rmrkd_cli.losses.fitnet import FitNetLoss
from rmrkd_cli.losses.gkd import GKDLoss
from rmrkd_cli.losses.idd import IDDLoss
from rmrkd_cli.losses.ifvd import IFVDLoss
from rmrkd_cli.losses.kd import KDLoss
from rmrkd_cli.losses.lskd import LSKDLoss
from rmrkd_cli.losses.mgd import MGDLoss
from rmrkd_cli.losses.pkd import PKDLoss
from rmrkd_cli.losses.psd import PSDLoss
from rmrkd_cli.losses.rmrkd import RMRKDLoss
from rmrkd_cli.losses.skd import SKDLoss


def _loss_class(module: ModuleType) -> type[DistillationLoss]:
    """Return the one loss that a file of this package defines."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    (cls,) = (value for value in own if isinstance(value, type) and issubclass(value, DistillationLoss))
    return cls


LOSSES: dict[str, type[DistillationLoss]] = {
    found.name: _loss_class(importlib.import_module(f"{__name__}.{found.name}"))
    for found in pkgutil.iter_modules(__path__)
    if not found.name.startswith("_")
}

__all__ = [
    "LOSSES",
    "AfDCDLoss",
    "ATLoss",
    "AdversarialLoss",
    "AttnFDLoss",
    "BPKDLoss",
    "CIRKDLoss",
    "CIRKDChannelLoss",
    "CIRKDMemoryLoss",
    "CIRKDv2Loss",
    "CSDLoss",
    "CWDLoss",
    "DISTLoss",
    "DKDLoss",
    "DistillationLoss",
    "FitNetLoss",
    "GKDLoss",
    "IDDLoss",
    "IFVDLoss",
    "KDLoss",
    "LSKDLoss",
    "MGDLoss",
    "PKDLoss",
    "PSDLoss",
    "RMRKDLoss",
    "SKDLoss",
]
