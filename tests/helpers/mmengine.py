"""A stand-in for mmengine, whose files hold objects beside the weights."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class HistoryBuffer:
    """Pickled as mmengine's class of this name: with its functions, which a pickle names as `getattr(class, name)`."""

    def __init__(self, values: list[float]) -> None:
        self._log_history, self._count_history = np.array(values), np.ones(len(values))
        self.max_length = 1_000_000

    def mean(self) -> float:
        return float(self._log_history.mean())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}


@contextmanager
def mmengine_modules() -> Iterator[None]:
    """Let `HistoryBuffer` be pickled as mmengine's; the modules are gone afterwards."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    HistoryBuffer.__module__ = names[-1]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[names[-1]].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    yield
    for name in names:
        del sys.modules[name]
