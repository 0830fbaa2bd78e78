"""Many pairs looked at in several processes, remembering what was looked at before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rmrkd_cli.data.check.pair_scan import Facts, scan_pairs, start_scanner
from rmrkd_cli.data.check.scan_cache import ScanCache, stamp_of
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.worker_pool import processes

_CHUNK = 4  # pairs a task: a 2048x1024 pair takes 60 ms


class Survey(NamedTuple):
    """Facts in the order of the samples, and how many pairs had to be read for them."""

    facts: list[Facts]
    read: int


def scan_in_parallel(
    samples: Sequence[Sample], known: ScanCache, workers: int, on_progress: Callable[[int], None] | None = None
) -> Survey:
    """Looks at every pair that is not known.

    Args:
        on_progress: Called with the number of pairs done.

    Raises:
        RunError: When a process that reads them is lost.
    """
    facts = [known.get(sample) for sample in samples]
    todo = [index for index, found in enumerate(facts) if found is None]
    done = len(samples) - len(todo)
    if on_progress:
        on_progress(done)
    if todo:
        chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        stamps = [[stamp_of(samples[index]) for index in chunk] for chunk in chunks]
        with processes(min(workers, len(chunks)), start_scanner) as run:
            paths = [[(str(samples[i].image), str(samples[i].label)) for i in chunk] for chunk in chunks]
            for chunk, before, found in zip(chunks, stamps, run(scan_pairs, paths), strict=True):
                for index, stamp, fact in zip(chunk, before, found, strict=True):
                    facts[index] = fact
                    known.put(samples[index], stamp, fact)
                done += len(chunk)
                if on_progress:
                    on_progress(done)
    return Survey([fact for fact in facts if fact is not None], len(todo))
