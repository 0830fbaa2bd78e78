"""Networks with names and shapes, but without memory for values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta() -> Iterator[None]:
    """Create tensors in this block on the device `meta`."""
    with torch.device("meta"), _ReadableLinspace():
        yield


class _ReadableLinspace(TorchFunctionMode):
    """Keep `torch.linspace` on the CPU: transformers read their drop rates from it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)
