"""Arrays that loader processes share: a process that receives them maps the memory of the sender."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MIN_SHARED = 1 << 20  # bytes; less is copied
_ALIGNMENT = 64


class _Place(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    offset: int
    length: int


class SharedArrays:
    """Read-only arrays by name. Where the system has `memfd_create` (Linux), pickling copies no large array.

    The process that pickled them must live as long as the others use them, as for the loader processes of a command.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = dict(arrays)
        self._shared: tuple[str, list[_Place]] | None = None  # path of the memory, and where each array lies in it

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getstate__(self) -> dict[str, Any]:
        is_large = sum(array.nbytes for array in self._arrays.values()) >= _MIN_SHARED
        if self._shared is None and is_large and hasattr(os, "memfd_create"):
            self._move_to_shared_memory()
        return {"shared": self._shared, "arrays": None if self._shared else self._arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shared = state["shared"]
        self._arrays = state["arrays"] if self._shared is None else _map(*self._shared)

    def _move_to_shared_memory(self) -> None:
        places, offset = [], 0
        handle = os.memfd_create("rmrkd-samples")
        weakref.finalize(self, os.close, handle)
        for name, array in self._arrays.items():
            places.append(_Place(name, array.dtype, offset, len(array)))
            left, place = memoryview(array.tobytes()), offset
            while left:
                written = os.pwrite(handle, left, place)
                left, place = left[written:], place + written
            offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        os.ftruncate(handle, offset)
        self._shared = (f"/proc/{os.getpid()}/fd/{handle}", places)
        self._arrays = _map(*self._shared)


def _map(path: str, places: list[_Place]) -> dict[str, NDArray[Any]]:
    memory = np.asarray(np.memmap(path, np.uint8, "r"))
    return {
        place.name: memory[place.offset : place.offset + place.length * place.dtype.itemsize].view(place.dtype)
        for place in places
    }
