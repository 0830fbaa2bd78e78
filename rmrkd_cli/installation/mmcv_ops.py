"""Replace what mmcv and mmseg import and rmrkd never uses: compiled operators, torchvision and timm.

`mmseg` imports `mmcv.ops`, and each module there imports the compiled `mmcv._ext`. None of the networks rmrkd trains
uses such an operator (PSPNet, DeepLabV3, DeepLabV3+, ResNetV1c, MobileNetV2). `mmcv.runner` imports torchvision for its
list of ImageNet files. torchvision imports torch's compiler, which takes more than half of the time to import mmseg.
`mmseg.models` imports timm, and with it torchvision, for one backbone that would download weights while it is built.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rmrkd_cli.installation.mmseg import require_mmseg

# Warnings at every start that a user cannot act on.
_IGNORED_WARNINGS = (
    "On January 1, 2023, MMCV will release",
    "Default ``avg_non_ignore`` is False",
    "`build_loss` would be deprecated",
)
_TIMM_BACKBONE = "mmseg.models.backbones.timm_backbone"


def make_mmseg_importable() -> None:
    """Register the replacements, unless the compiled operators are installed. Call it before importing mmseg.

    Raises:
        RmrkdError: mmsegmentation or mmcv-full is not installed, or has an unsupported version.
    """
    require_mmseg()
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns on every CPU that CUDA is missing
    if "mmcv._ext" not in sys.modules:
        import mmcv

        if importlib.util.find_spec("mmcv._ext") is None:
            sys.modules["mmcv._ext"] = _ext_replacement(mmcv.__version__)
    if "torchvision" not in sys.modules and "mmcv.runner" not in sys.modules:
        _import_runner_without_torchvision()
    if _TIMM_BACKBONE not in sys.modules:
        sys.modules[_TIMM_BACKBONE] = _module_without_timm()


@contextmanager
def allow_any_size() -> Iterator[None]:
    """Turn off a warning of mmseg's `resize`, which would make sizes constants in a traced graph."""
    make_mmseg_importable()
    from mmseg.ops import resize

    before = resize.__defaults__
    resize.__defaults__ = (*before[:-1], False)
    try:
        yield
    finally:
        resize.__defaults__ = before


def _import_runner_without_torchvision() -> None:
    """Import `mmcv.runner` with a placeholder for torchvision, which imports the real one when it is used."""
    import torch  # noqa: F401 (its import looks at every module in sys.modules)

    placeholder = types.ModuleType("torchvision")
    placeholder.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)

    def get_attribute(name: str) -> Any:
        if sys.modules.get("torchvision") is placeholder:  # mmcv.device looks at every module in sys.modules
            raise AttributeError(name)
        return getattr(importlib.import_module("torchvision"), name)

    placeholder.__getattr__ = get_attribute  # type: ignore[method-assign]
    sys.modules["torchvision"] = placeholder
    try:
        import mmcv.runner  # noqa: F401
    finally:
        if sys.modules.get("torchvision") is placeholder:
            del sys.modules["torchvision"]


def _module_without_timm() -> types.ModuleType:
    module = types.ModuleType(_TIMM_BACKBONE)
    module.__spec__ = importlib.machinery.ModuleSpec(_TIMM_BACKBONE, None)
    module.TIMMBackbone = None  # type: ignore[attr-defined]
    return module


def _ext_replacement(version: str) -> types.ModuleType:
    module = types.ModuleType("mmcv._ext")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)

    def missing(name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: object, **kwargs: object) -> Any:
            raise RuntimeError(f"mmcv-full {version} is installed without its compiled operator `{name}`")

        return call

    module.__getattr__ = missing  # type: ignore[method-assign]
    return module
