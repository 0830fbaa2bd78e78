"""Say when the steps wait for images: the loader is then the bottleneck, not the GPU."""

from __future__ import annotations

from collections.abc import Callable

from rmrkd_cli.data.loader_processes import MAX_PROCESSES
from rmrkd_cli.storage.resources import usable_cores
from rmrkd_cli.terminal.durations import format_duration

MIN_SHARE = 0.25  # of the time of the steps
MIN_SECONDS = 5.0  # of waiting


class LoaderWatch:
    """Adds up how long the steps waited for images since the run was started or resumed, on the slowest worker.

    Args:
        processes: Loader processes of each worker.
        local_workers: Workers on this machine.
        cached: Decoded images are kept already.
        log: Prints a message.
    """

    def __init__(self, processes: int, local_workers: int, *, cached: bool, log: Callable[[str], None]) -> None:
        self.processes, self.cores, self.cached, self.log = processes, usable_cores() // local_workers, cached, log
        self.waited = self.seconds = 0.0
        self._told = False

    def add(self, waited: float, seconds: float) -> None:
        """Add the time of some steps, and the part of it spent waiting; print the first time that it is too long."""
        self.waited += waited
        self.seconds += seconds
        if self.is_bottleneck and not self._told:
            self._told = True
            self.log(f"{self._summary()}. {self.advice()}")

    def report(self) -> None:
        """Print the summary at the end of the run."""
        if self.is_bottleneck:
            waited, total = (format_duration(max(1, round(seconds))) for seconds in (self.waited, self.seconds))
            self.log(f"{self._summary()} ({waited} of {total}). {self.advice()}")

    @property
    def is_bottleneck(self) -> bool:
        return self.waited >= MIN_SECONDS and self.waited >= MIN_SHARE * self.seconds

    def _summary(self) -> str:
        share = round(100 * self.waited / self.seconds)
        return f"the steps waited for images {share} % of their time: reading images is slower than training"

    def advice(self) -> str:
        """Return what makes reading faster."""
        ways = []
        best = min(self.cores - 1, MAX_PROCESSES)
        if best > self.processes:
            ways.append(f"--workers {best} (now {self.processes}, with {self.cores} cores for each worker)")
        if not self.cached:
            ways.append("--cache ram or --cache disk, which keep decoded images")
        if not ways:
            return f"More CPU cores would help (now {self.cores} for each worker), or smaller image files"
        return f"Faster with {', or '.join(ways)}; both can be added with --resume"
