"""The samples of a split in a few arrays: a million of them take 20 to 60 MB, where objects would take a gigabyte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.folder_listing import missing_names
from rmrkd_cli.data.shared_arrays import SharedArrays


@dataclass(frozen=True)
class Sample:
    """One image, its label file, and its name within the data set.

    Attributes:
        label: None for an image without a label map: all of its labels are the ignored one.
    """

    name: str
    image: Path
    label: Path | None


class Part(NamedTuple):
    """Samples whose files lie in the same folders, as NAME and a suffix; without `labels` they have no label maps."""

    images: Path
    labels: Path | None
    image_suffix: str = ""
    label_suffix: str = ""

    def sample(self, name: str) -> Sample:
        label = None if self.labels is None else self.labels / (name + self.label_suffix)
        return Sample(name, self.images / (name + self.image_suffix), label)

    def missing(self, kind: Literal["image", "label"], names: Sequence[str]) -> list[str]:
        """Return the names without an image, or without a label file that they should have."""
        if kind == "image":
            return missing_names(self.images, self.image_suffix, names)
        return [] if self.labels is None else missing_names(self.labels, self.label_suffix, names)


class SampleTable(Sequence[Sample]):
    """A sequence that makes each `Sample` when it is asked for. Its loader processes share the memory of the names.

    Args:
        parts: Folders and the names in them. The samples are ordered by name; equal names keep the order of the parts.
    """

    def __init__(self, parts: Sequence[tuple[Part, Sequence[str]]]) -> None:
        self.parts = tuple(part for part, _ in parts)
        names = [name for _, names in parts for name in names]
        part = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(names) for _, names in parts])
        if len(parts) > 1:
            order = sorted(range(len(names)), key=names.__getitem__)
            part, names = part[order], [names[index] for index in order]
        else:
            names.sort()
        self._arrays = SharedArrays({"part": part, **_encode(names)})
        self._rows = range(len(names))

    def __add__(self, other: SampleTable) -> SampleTable:
        """Return the samples of this table and, after them, those of the other."""
        if not len(self) or not len(other):
            return self if len(self) else other
        mine, theirs = self._columns(), other._columns()
        arrays = {
            "part": np.concatenate([mine["part"], theirs["part"] + np.uint8(len(self.parts))]),
            "text": np.concatenate([mine["text"], np.frombuffer(b"\n", np.uint8), theirs["text"]]),
            "starts": np.concatenate([mine["starts"][:-1], theirs["starts"] + mine["starts"][-1]]),
        }
        return self._make(self.parts + other.parts, SharedArrays(arrays), range(len(self) + len(other)))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleTable: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleTable:
        if isinstance(index, slice):
            return self._make(self.parts, self._arrays, self._rows[index])
        row = self._rows[index]
        part = self.parts[int(self._arrays["part"][row])]
        return part.sample(self._name(row))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def names(self) -> Iterator[str]:
        return map(self._name, self._rows)

    def names_by_part(self) -> Iterator[tuple[Part, list[str]]]:
        """Yield each part and its names."""
        part_of = self._arrays["part"]
        for number, part in enumerate(self.parts):
            yield part, [self._name(row) for row in self._rows if part_of[row] == number]

    def count_labelled(self) -> int:
        """Return how many samples have label maps."""
        labelled = [number for number, part in enumerate(self.parts) if part.labels is not None]
        return int(np.isin(self._columns()["part"], labelled).sum())

    def digest(self) -> str:
        """Return the hexadecimal SHA-256 of the names, separated by line feeds."""
        if self._is_whole():
            return hashlib.sha256(self._arrays["text"].data).hexdigest()
        return names_digest(self.names())

    def _is_whole(self) -> bool:
        return self._rows == range(len(self._arrays["part"]))

    def _columns(self) -> Mapping[str, NDArray[Any]]:
        """Return the arrays of these samples alone, where they are a slice of a table."""
        if self._is_whole():
            return {name: self._arrays[name] for name in ("part", "text", "starts")}
        return {"part": self._arrays["part"][self._rows], **_encode(list(self.names()))}

    @staticmethod
    def _make(parts: tuple[Part, ...], arrays: SharedArrays, rows: range) -> SampleTable:
        table = SampleTable.__new__(SampleTable)
        table.parts, table._arrays, table._rows = parts, arrays, rows
        return table

    def _name(self, row: int) -> str:
        starts = self._arrays["starts"]
        return self._arrays["text"][starts[row] : starts[row + 1] - 1].tobytes().decode("utf-8", "surrogatepass")


def names_digest(names: Iterable[str]) -> str:
    """Return the hexadecimal SHA-256 of names, separated by line feeds."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()


def _encode(names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the names as one text, separated by line feeds, and the place where each starts, and one after the last.

    Bytes that are no UTF-8, which Python stands for by surrogates, are kept.
    """
    text = "\n".join(names)
    lengths = map(len, names) if text.isascii() else (len(name.encode("utf-8", "surrogatepass")) for name in names)
    starts = np.zeros(len(names) + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, len(names)) + 1, out=starts[1:])
    return {"text": np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8), "starts": starts}
