"""Stand-ins for what mmcv asks for at import and rmrkd never uses: its compiled ops, and torchvision.

None of the networks rmrkd trains uses a compiled op (PSPNet, DeepLabV3, DeepLabV3+, ResNetV1c, MobileNetV2), but
`mmseg` imports `mmcv.ops`, and every module there asks for `mmcv._ext`. And `mmcv.runner` imports torchvision for its
list of ImageNet files, which brings torch's compiler along: more than half of the time that importing mmseg takes.
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

# Said at every start, and nothing a user could act on.
_NOISE = (
    "On January 1, 2023, MMCV will release",
    "Default ``avg_non_ignore`` is False",
    "`build_loss` would be deprecated",
)


def make_mmseg_importable() -> None:
    """Register the stand-in, unless the compiled ops are there. Call it before the first import of mmseg.

    Raises:
        RmrkdError: When mmsegmentation or mmcv-full is not installed, or in a version that does not work here.
    """
    require_mmseg()
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # says on every CPU that CUDA is missing
    if "mmcv._ext" not in sys.modules:
        import mmcv

        if importlib.util.find_spec("mmcv._ext") is None:
            sys.modules["mmcv._ext"] = _stand_in(mmcv.__version__)
    if "torchvision" not in sys.modules and "mmcv.runner" not in sys.modules:
        _import_runner_without_torchvision()


@contextmanager
def allow_any_size() -> Iterator[None]:
    """mmseg's `resize` turns sizes into numbers for a warning, which would make them constants of a traced graph."""
    make_mmseg_importable()
    from mmseg.ops import resize

    before = resize.__defaults__
    resize.__defaults__ = (*before[:-1], False)
    try:
        yield
    finally:
        resize.__defaults__ = before


def _import_runner_without_torchvision() -> None:
    """For as long as `mmcv.runner` is imported; what it keeps finds the real torchvision when it is used."""
    import torch  # noqa: F401 (looks at every module while it is imported itself)

    later = types.ModuleType("torchvision")
    later.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)

    def found(name: str) -> Any:
        if sys.modules.get("torchvision") is later:  # mmcv.device looks into every module that is there
            raise AttributeError(name)
        return getattr(importlib.import_module("torchvision"), name)

    later.__getattr__ = found  # type: ignore[method-assign]
    sys.modules["torchvision"] = later
    try:
        import mmcv.runner  # noqa: F401
    finally:
        if sys.modules.get("torchvision") is later:
            del sys.modules["torchvision"]


def _stand_in(version: str) -> types.ModuleType:
    module = types.ModuleType("mmcv._ext")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)

    def missing(name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: object, **kwargs: object) -> Any:
            raise RuntimeError(f"mmcv-full {version} was installed without its compiled op `{name}`")

        return call

    module.__getattr__ = missing  # type: ignore[method-assign]
    return module
