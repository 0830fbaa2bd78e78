"""A bound on the memory that a computation of a stranger's may take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limit_memory(more: int = 1 << 30) -> Iterator[None]:
    """While it is open, the process may get `more` bytes of address space beyond what it has; Linux alone knows how.

    Beyond, torch raises RuntimeError and Python MemoryError.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as stream:
        bound = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + more
    tightest = min([bound, *(limit for limit in before if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (tightest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
