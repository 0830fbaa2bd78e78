"""Convert label maps in several processes, and verify every file afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rmrkd_cli.data.image_io import Picture, header_size
from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.prepare.new_files import CONFLICT, UNCHANGED, WRITTEN, find_invalid_values, write_label_map
from rmrkd_cli.data.worker_pool import Map, worker_pool
from rmrkd_cli.errors import RunError
from rmrkd_cli.terminal.sanitize import escape_control

BAD_SOURCE = "bad source"
_CHUNK = 8  # files per task of a process
_SHOWN = 5
Progress = Callable[[str, int, int], None]  # stage ("prepare" or "verify"), files done, files in all


class Conversion(NamedTuple):
    """A label map to write.

    Attributes:
        convert: Reads the source and returns its labels (H, W), or raises RunError.
        image: The image of this label map; if it exists, the sizes are compared.
        values: The allowed label values.
    """

    convert: Callable[[Path], Picture]
    source: Path
    target: Path
    image: Path
    values: tuple[int, ...]


@dataclass
class PrepareResult:
    """The result of preparing a data set.

    Attributes:
        root: Of the data set.
        counts: Files that were written, and files that existed unchanged, lists included.
        problems: Path of a file, and its problem; a sentence whose subject is the file.
        images: Split -> label maps or names.
        notices: Remarks for the user that are not problems.
    """

    root: Path = Path()
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def add(self, path: Path, status: str, problem: str) -> None:
        """Count a file that was written or unchanged; record the problem of any other."""
        if status in (WRITTEN, UNCHANGED):
            self.counts[status] += 1
        else:
            self.problems.append((path, problem))

    def list_problems(self, most: int) -> str:
        """Return the first problems, a line each, and how many more there are."""
        lines = [escape_control(f"  `{path}` {text}") for path, text in self.problems[:most]]
        lines += [f"  and {len(self.problems) - most} more"] if self.problems[most:] else []
        return "\n".join(lines)


def convert_label_maps(conversions: Sequence[Conversion], workers: int, on_progress: Progress) -> PrepareResult:
    """Write missing label maps, compare existing ones, and read all of them again.

    Raises:
        OSError: When a file cannot be written; the files written before are complete.
    """
    result = PrepareResult()
    complete = []
    with _parallel_map(workers) as parallel_map:
        on_progress("prepare", 0, len(conversions))
        for number, (conversion, (status, problem)) in enumerate(
            zip(conversions, parallel_map(_convert, conversions), strict=True), 1
        ):
            result.add(conversion.source if status == BAD_SOURCE else conversion.target, status, problem)
            if status in (WRITTEN, UNCHANGED):
                complete.append(conversion)
            on_progress("prepare", number, len(conversions))
        for number, (conversion, problem) in enumerate(
            zip(complete, parallel_map(find_problem, complete), strict=True), 1
        ):
            if problem:
                result.problems.append((conversion.target, problem))
            on_progress("verify", number, len(complete))
    return result


def find_problem(conversion: Conversion) -> str:
    """Return the problem of a written label map, or an empty text."""
    try:
        labels = read_labels(conversion.target)
        if invalid := find_invalid_values(labels, conversion.values):
            return f"contains {_join(invalid)}, which is neither a class nor ignored"
        if conversion.image.is_file() and labels.shape != (size := header_size(conversion.image)):
            found, expected = f"{labels.shape[1]}x{labels.shape[0]}", f"{size.width}x{size.height}"
            return f"is {found}, its image `{conversion.image}` {expected}"
    except RunError as error:
        return error.message.removeprefix(f"`{conversion.target}` ")
    return ""


def _convert(conversion: Conversion) -> tuple[str, str]:
    """Return the status of one label map, and its problem or an empty text."""
    try:
        labels = conversion.convert(conversion.source)
    except RunError as error:
        return BAD_SOURCE, error.message.removeprefix(f"`{conversion.source}` ")
    if invalid := find_invalid_values(labels, conversion.values):
        return BAD_SOURCE, f"contains {_join(invalid)}, which is neither a class nor ignored"
    status, problem = write_label_map(labels, conversion.target)
    return status, f"{problem}; it was not changed" if status == CONFLICT else problem


def _join(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:_SHOWN]))


@contextmanager
def _parallel_map(workers: int) -> Iterator[Map]:
    if workers <= 1:
        yield map
    else:
        with worker_pool(workers) as parallel_map:
            yield parallel_map
