"""Whether what was read is plain data: no cycles, no endless nesting, no more than a checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

MOST_DEPTH = 48
MOST_VALUES = 1_000_000  # each counted as often as it is reached
_MOST_DIGITS_BITS = 128  # of a whole number
_ATOMS = (str, bytes, float, bool, type(None), Tensor, np.generic)


def why_not_plain(value: Any) -> str:
    """What is wrong, in words; empty for plain data that can be walked, printed and copied."""
    level, count = [value], 0
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, (list, tuple)):
                below += item
            elif isinstance(item, int) and not isinstance(item, bool):
                if item.bit_length() > _MOST_DIGITS_BITS:
                    return f"it holds a whole number of {item.bit_length()} bits"
            elif isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
                continue
            elif not isinstance(item, _ATOMS):
                return f"it holds a {type(item).__name__}"
            if count + len(below) > MOST_VALUES:
                return f"it holds more than {MOST_VALUES:,} values"
        if not below:
            return ""
        count += len(below)
        level = below
    return f"it is nested more than {MOST_DEPTH} deep, or holds itself"
