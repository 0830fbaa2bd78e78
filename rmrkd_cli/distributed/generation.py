"""Generations: the starts of another launcher's workers that share one store.

A launcher restarts workers and keeps its store, with the keys of workers that live no more. torchrun's
TORCHELASTIC_RESTART_COUNT does not tell the starts apart: each machine counts its own failures, and not the restarts
that follow a failure of another machine. So rank 0 takes a new number. The other workers ask for it with a ticket,
which only a living rank 0 answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rmrkd_cli.distributed.worker_errors import error_to_json
from rmrkd_cli.errors import RmrkdError


def prefix(generation: int) -> str:
    """Return the prefix of all keys of a generation."""
    return f"generation/{generation}"


class Welcome:
    """Rank 0's side: takes a new generation, and tells it to workers that ask.

    Args:
        store: The launcher's store, or rank 0's own.

    Attributes:
        generation: 1, 2, ...
    """

    def __init__(self, store: Any) -> None:
        self.generation = int(store.add("generations", 1))
        self._answered = 0

    def answer(self, store: Any, twice: RmrkdError) -> bool:
        """Answer the workers that have asked since the last call, those of earlier generations too: nobody reads that.

        Return whether there were any.

        Args:
            store: A connection of the calling thread.
            twice: The error of another rank 0 that has started although this one lives. This one goes on.
        """
        newest = int(store.add("generations", 0))
        if newest > self.generation:
            store.compare_set(f"{prefix(newest)}/error", "", error_to_json(twice))
            return False
        tickets = int(store.add("tickets", 0))
        for ticket in range(self._answered + 1, tickets + 1):
            store.set(f"welcome/{ticket}", str(self.generation))
        before, self._answered = self._answered, tickets
        return tickets > before


def ask_generation(store: Any, wait: Callable[[], object]) -> int:
    """Return the generation of the living rank 0.

    Args:
        wait: Called between two looks; raises an exception to give up.
    """
    key = f"welcome/{store.add('tickets', 1)}"
    while not store.check([key]):
        wait()
    return int(store.get(key))
