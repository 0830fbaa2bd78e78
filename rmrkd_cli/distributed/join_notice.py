"""One line about workers that do not come, long before waiting for them ends with an error."""

from __future__ import annotations

import time

from rmrkd_cli.distributed.external_worker import ExternalWorker
from rmrkd_cli.terminal.messages import log

NOTICE_SECONDS = 10.0  # workers of one launcher come within seconds, those of other machines may take longer


class JoinNotice:
    """Prints once for which workers this one waits, which variables say so, and how to run alone.

    Args:
        worker: This process. Of several on a machine only the first prints.
    """

    def __init__(self, worker: ExternalWorker) -> None:
        self._worker = worker
        self._due = time.monotonic() + NOTICE_SECONDS if not worker.local_rank else float("inf")

    def look(self, missing: list[int]) -> None:
        """Print if it is time.

        Args:
            missing: Ranks that have not connected yet.
        """
        if time.monotonic() < self._due:
            return
        self._due = float("inf")
        worker = self._worker
        log(
            f"worker {worker.rank} waits for {len(missing)} of {worker.size} workers at {worker.host}:{worker.port}: "
            f"{list_ranks(missing)}. RANK={worker.rank} and WORLD_SIZE={worker.size} say that another launcher starts "
            "them. To run without them: unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE"
        )


def list_ranks(ranks: list[int]) -> str:
    """Return the first ranks for a message."""
    return ", ".join(map(str, ranks[:10])) + (", …" if len(ranks) > 10 else "")
