"""Sources of samples without files."""

from __future__ import annotations

from rmrkd_cli.data.sample_reader import Pair


class OnePair:
    """A source of samples that holds one pair."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def __len__(self) -> int:
        return 1

    def pair(self, index: int) -> Pair:
        return self._pair

    def has_labels(self, index: int) -> bool:
        return True
