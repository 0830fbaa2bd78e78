"""Many label maps made in several processes, and each read again afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rmrkd_cli.data.image_io import Picture, header_size, read_labels
from rmrkd_cli.data.prepare.write_once import CONFLICT, KEPT, WRITTEN, place_labels, strange_values
from rmrkd_cli.data.worker_pool import Map, worker_pool
from rmrkd_cli.errors import RunError

BAD = "bad"  # the source cannot be used
_CHUNK = 8
Progress = Callable[[str, int, int], None]  # what is done, how many of it, of how many


class Task(NamedTuple):
    """A label map to be made.

    Attributes:
        make: Reads a source, gives its labels (H, W) or raises RunError.
        image: Whose label map it is; its size is compared at the end, where it is there.
        values: Those that may occur.
    """

    make: Callable[[Path], Picture]
    source: Path
    target: Path
    image: Path
    values: tuple[int, ...]


@dataclass
class Outcome:
    """What became of a preparation.

    Attributes:
        root: Of the data set.
        counts: `written` and `kept` -> files, lists included.
        problems: File, and what is wrong with it.
        images: Split -> label maps or names.
        notices: What the user should know although nothing is wrong.
    """

    root: Path = Path()
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def add(self, target: Path, status: str, text: str) -> None:
        if status in (WRITTEN, KEPT):
            self.counts[status] += 1
        else:
            self.problems.append((target, text))


def run(tasks: Sequence[Task], workers: int, on_progress: Progress) -> Outcome:
    """Makes what is missing, compares what is there, and reads everything again.

    Raises:
        OSError: When a file cannot be written; what was made before is whole and kept.
    """
    outcome = Outcome()
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    with _mapping(min(workers, len(chunks))) as map_over:
        done, whole = 0, []
        on_progress("prepare", 0, len(tasks))
        for chunk, results in zip(chunks, map_over(_make_many, chunks), strict=True):
            for task, (status, text) in zip(chunk, results, strict=True):
                outcome.add(task.source if status == BAD else task.target, status, text)
                if status in (WRITTEN, KEPT):
                    whole.append(task)
            done += len(chunk)
            on_progress("prepare", done, len(tasks))
        chunks = [whole[start : start + _CHUNK] for start in range(0, len(whole), _CHUNK)]
        done = 0
        for chunk, texts in zip(chunks, map_over(verify_many, chunks), strict=True):
            outcome.problems += [(task.target, text) for task, text in zip(chunk, texts, strict=True) if text]
            done += len(chunk)
            on_progress("verify", done, len(whole))
    return outcome


def verify_many(tasks: Sequence[Task]) -> list[str]:
    """What is wrong with finished label maps; empty where nothing is."""
    return [_verified(task) for task in tasks]


def _verified(task: Task) -> str:
    try:
        labels = read_labels(task.target)
        if strange := strange_values(labels, task.values):
            return f"holds {', '.join(map(str, strange[:5]))}, which is no class and not ignored"
        if task.image.is_file() and labels.shape != (size := header_size(task.image)):
            found, wanted = f"{labels.shape[1]}x{labels.shape[0]}", f"{size.width}x{size.height}"
            return f"is {found}, its image `{task.image}` {wanted}"
    except RunError as error:
        return error.message.removeprefix(f"`{task.target}` ")
    return ""


def _make_many(tasks: Sequence[Task]) -> list[tuple[str, str]]:
    return [_make(task) for task in tasks]


def _make(task: Task) -> tuple[str, str]:
    try:
        labels = task.make(task.source)
        if strange := strange_values(labels, task.values):
            return BAD, f"gives the values {', '.join(map(str, strange[:5]))}, which are no classes"
    except RunError as error:
        return BAD, error.message.removeprefix(f"`{task.source}` ")
    status, text = place_labels(labels, task.target)
    return status, f"{text}; it was left as it is" if status == CONFLICT else text


@contextmanager
def _mapping(workers: int) -> Iterator[Map]:
    if workers <= 1:
        yield map
    else:
        with worker_pool(workers) as map_over:
            yield map_over
