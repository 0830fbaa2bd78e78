"""What the command lines of the benchmarks share."""

from __future__ import annotations

import argparse
import sys


def say(text: str) -> None:
    """Print progress to stderr at once."""
    print(text, file=sys.stderr, flush=True)


def read_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `--seeds N,N`.

    Raises:
        argparse.ArgumentTypeError: They are negative, or one occurs twice.
    """
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError("must be different whole numbers from 0")
    return numbers


def read_count(text: str) -> int:
    """Return a whole number from 1.

    Raises:
        argparse.ArgumentTypeError: It is smaller.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def read_names(text: str) -> tuple[str, ...]:
    """Return the names of `NAME,NAME`, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))
