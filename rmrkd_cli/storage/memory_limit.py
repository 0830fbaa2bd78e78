"""Limit the memory that reading a stranger's file may take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limit_memory(extra: int = 1 << 30) -> Iterator[None]:
    """Limit the memory that is allocated in this block to `extra` bytes; does nothing where the system is not Linux.

    Beyond the limit, torch raises RuntimeError, and Python MemoryError.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as stream:
        bound = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + extra
    tightest = min([bound, *(limit for limit in before if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (tightest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
