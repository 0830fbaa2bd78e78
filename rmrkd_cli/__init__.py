"""Distil a large semantic-segmentation network into a small one.

The Python API is imported on first use, so `import rmrkd_cli` loads neither torch nor mmsegmentation:

    from rmrkd_cli import ConfusionMatrix, Distiller, RMRKDLoss, evaluate, load_network, train
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rmrkd_cli.api.compare import compare
    from rmrkd_cli.api.evaluate import evaluate
    from rmrkd_cli.api.export import export
    from rmrkd_cli.api.predict import predict
    from rmrkd_cli.api.train import train
    from rmrkd_cli.checkpoints.transfer import transfer
    from rmrkd_cli.distillation.distiller import Distiller
    from rmrkd_cli.errors import RmrkdError
    from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
    from rmrkd_cli.evaluation.load import load_network
    from rmrkd_cli.losses import (
        LOSSES,
        AdversarialLoss,
        AfDCDLoss,
        ATLoss,
        AttnFDLoss,
        BPKDLoss,
        CIRKDChannelLoss,
        CIRKDLoss,
        CIRKDMemoryLoss,
        CIRKDv2Loss,
        CSDLoss,
        CWDLoss,
        DISTLoss,
        DKDLoss,
        FitNetLoss,
        GKDLoss,
        IDDLoss,
        IFVDLoss,
        KDLoss,
        LSKDLoss,
        MGDLoss,
        PKDLoss,
        PSDLoss,
        RMRKDLoss,
        SKDLoss,
    )
    from rmrkd_cli.networks.feature_maps import segment
    from rmrkd_cli.presets.loader import load_preset
    from rmrkd_cli.terminal.progress import ProgressUpdate

_MODULES = {
    "ConfusionMatrix": "evaluation.confusion_matrix",
    "Distiller": "distillation.distiller",
    "ProgressUpdate": "terminal.progress",
    "RmrkdError": "errors",
    "compare": "api.compare",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "load_network": "evaluation.load",
    "load_preset": "presets.loader",
    "predict": "api.predict",
    "segment": "networks.feature_maps",
    "train": "api.train",
    "transfer": "checkpoints.transfer",
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
    "ConfusionMatrix",
    "DISTLoss",
    "DKDLoss",
    "Distiller",
    "FitNetLoss",
    "GKDLoss",
    "IDDLoss",
    "IFVDLoss",
    "KDLoss",
    "LSKDLoss",
    "MGDLoss",
    "PKDLoss",
    "PSDLoss",
    "ProgressUpdate",
    "RMRKDLoss",
    "RmrkdError",
    "SKDLoss",
    "compare",
    "evaluate",
    "export",
    "load_network",
    "load_preset",
    "predict",
    "segment",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module `rmrkd_cli` has no attribute `{name}`")
    value = getattr(import_module(f"rmrkd_cli.{_MODULES.get(name, 'losses')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
