"""Check that loaded contents are plain data: no cycles, bounded nesting, a bounded number of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from rmrkd_cli.checkpoints.safety.placeholders import Omitted

MAX_DEPTH = 48
MAX_VALUES = 1_000_000  # a shared value counts each time it is reached
_MAX_INTEGER_BITS = 128
_ATOMS = (str, bytes, float, bool, type(None), Tensor, np.generic, Omitted)


def find_unsafe_data(value: Any) -> str:
    """Return what is wrong, or "" for plain data, which is safe to walk, print and copy."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, (list, tuple)):
                below += item
            elif isinstance(item, int) and not isinstance(item, bool):
                if item.bit_length() > _MAX_INTEGER_BITS:
                    return f"it holds an integer of {item.bit_length()} bits"
            elif isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
                continue
            elif not isinstance(item, _ATOMS):
                return f"it holds a {type(item).__name__}"
            if count + len(below) > MAX_VALUES:
                return f"it holds more than {MAX_VALUES:,} values"
        if not below:
            return ""
        count += len(below)
        level = below
    return f"it is nested more than {MAX_DEPTH} levels deep, or contains itself"
