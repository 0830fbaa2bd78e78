"""A stand-in for mmcv's compiled ops, so that mmsegmentation imports where they were not built.

None of the networks rmrkd trains uses a compiled op (PSPNet, DeepLabV3, DeepLabV3+, ResNetV1c, MobileNetV2), but
`mmseg` imports `mmcv.ops`, and every module there asks for `mmcv._ext`.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

# Said at every start, and nothing a user could act on.
_NOISE = (
    "On January 1, 2023, MMCV will release",
    "Default ``avg_non_ignore`` is False",
    "`build_loss` would be deprecated",
)


def make_mmseg_importable() -> None:
    """Registers the stand-in, unless the compiled ops are there. Call it before the first import of mmseg."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # says on every CPU that CUDA is missing
    if "mmcv._ext" in sys.modules:
        return
    import mmcv

    if importlib.util.find_spec("mmcv._ext") is None:
        sys.modules["mmcv._ext"] = _stand_in(mmcv.__version__)


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
