"""The samples of a split in a few arrays: a million of them take 20 to 60 MB, where objects would take a gigabyte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from rmrkd_cli.data.folder_listing import missing_names
from rmrkd_cli.data.shards import MEMBER, Members, is_shards
from rmrkd_cli.data.shared_arrays import SharedArrays
from rmrkd_cli.data.source_file import SourceFile
from rmrkd_cli.storage.tar_member import Archive, TarMember

Kind = Literal["image", "label"]
KINDS: tuple[Kind, ...] = ("image", "label")


@dataclass(frozen=True)
class Sample:
    """One image, its label file, and its name within the data set.

    Attributes:
        label: None for an image without a label map: all of its labels are the ignored one.
    """

    name: str
    image: SourceFile
    label: SourceFile | None


class Part(NamedTuple):
    """Samples whose files lie in the same folders or archives, as NAME and a suffix.

    Attributes:
        images: A folder, or the pattern of tar archives.
        labels: The same; None: the images have no label maps.
    """

    images: Path
    labels: Path | None
    image_suffix: str = ""
    label_suffix: str = ""

    def sample(self, name: str) -> Sample:
        label = None if self.labels is None else self.labels / (name + self.label_suffix)
        return Sample(name, self.images / (name + self.image_suffix), label)


class PartNames(NamedTuple):
    """A part and the names of its samples.

    Attributes:
        images, labels: Where the files lie in tar archives, for each name; None: they lie in folders.
        not_images: The names of folders and broken links, if that was looked up.
    """

    part: Part
    names: list[str]
    images: Members | None = None
    labels: Members | None = None
    not_images: list[str] | None = None

    def missing(self, kind: Kind) -> list[str]:
        """Return the names without an image, or without a label file that they should have."""
        members, folder, suffix = self.images, self.part.images, self.part.image_suffix
        if kind == "label":
            if self.part.labels is None:
                return []
            members, folder, suffix = self.labels, self.part.labels, self.part.label_suffix
        elif self.not_images is not None:
            return self.not_images
        if members is not None:
            return [self.names[row] for row in np.flatnonzero(members.places["archive"] < 0)]
        return missing_names(folder, suffix, self.names)


class SampleTable(Sequence[Sample]):
    """A sequence that makes each `Sample` when it is asked for. Its loader processes share the memory of the names.

    Args:
        parts: The samples are ordered by name; equal names keep the order of the parts.
    """

    def __init__(self, parts: Sequence[PartNames]) -> None:
        self.parts = tuple(part.part for part in parts)
        self.archives: tuple[Archive, ...] = ()
        names = [name for part in parts for name in part.names]
        arrays = {"part": np.repeat(np.arange(len(parts), dtype=np.uint8), [len(part.names) for part in parts])}
        for kind in KINDS:
            members = [part.images if kind == "image" else part.labels for part in parts]
            if any(one is not None for one in members):
                arrays[kind] = self._add_members(parts, members)
        if len(arrays) > 1 or len(parts) > 1:
            order = sorted(range(len(names)), key=names.__getitem__)
            names, arrays = [names[row] for row in order], {kind: array[order] for kind, array in arrays.items()}
        else:
            names.sort()
        self._arrays = SharedArrays({**arrays, **_encode(names)})
        self._rows = range(len(names))

    def _add_members(self, parts: Sequence[PartNames], members: Sequence[Members | None]) -> NDArray[Any]:
        """Return the places of files in archives, for all names of the parts."""
        places = []
        for part, one in zip(parts, members, strict=True):
            if one is None:
                places.append(_no_members(len(part.names)))
            else:
                places.append(_shifted(one.places, len(self.archives)))
                self.archives += one.archives
        return np.concatenate(places)

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
        for kind in KINDS:
            if kind in mine or kind in theirs:
                first = mine.get(kind, _no_members(len(self)))
                second = _shifted(theirs.get(kind, _no_members(len(other))), len(self.archives))
                arrays[kind] = np.concatenate([first, second])
        table = self._slice(range(len(self) + len(other)))
        table.parts, table.archives = self.parts + other.parts, self.archives + other.archives
        table._arrays = SharedArrays(arrays)
        return table

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleTable: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleTable:
        if isinstance(index, slice):
            return self._slice(self._rows[index])
        row = self._rows[index]
        part = self.parts[int(self._arrays["part"][row])]
        sample = part.sample(self._name(row))
        for kind, suffix in zip(KINDS, (part.image_suffix, part.label_suffix), strict=True):
            if kind in self._arrays and (place := self._arrays[kind][row])["archive"] >= 0:
                archive, size, offset = place.tolist()
                member = TarMember(self.archives[archive], sample.name + suffix, offset, size)
                sample = replace(sample, image=member) if kind == "image" else replace(sample, label=member)
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def names(self) -> Iterator[str]:
        return map(self._name, self._rows)

    def have_labels(self) -> bool:
        """Return whether any sample has a label file."""
        if "label" in self._arrays and (self._columns()["label"]["archive"] >= 0).any():
            return True
        part_of = self._arrays["part"]
        for number, part in enumerate(self.parts):
            if part.labels is not None and not is_shards(part.labels):
                names = [self._name(row) for row in self._rows if part_of[row] == number]
                if len(missing_names(part.labels, part.label_suffix, names)) < len(names):
                    return True
        return False

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
        columns = {name: self._arrays[name] for name in ("part", *KINDS) if name in self._arrays}
        if self._is_whole():
            return {**columns, "text": self._arrays["text"], "starts": self._arrays["starts"]}
        return {**{name: array[self._rows] for name, array in columns.items()}, **_encode(list(self.names()))}

    def _slice(self, rows: range) -> SampleTable:
        table = copy(self)
        table._rows = rows
        return table

    def _name(self, row: int) -> str:
        starts = self._arrays["starts"]
        return self._arrays["text"][starts[row] : starts[row + 1] - 1].tobytes().decode("utf-8", "surrogatepass")


def names_digest(names: Iterable[str]) -> str:
    """Return the hexadecimal SHA-256 of names, separated by line feeds."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()


def _no_members(count: int) -> NDArray[Any]:
    places = np.zeros(count, MEMBER)
    places["archive"] = -1
    return places


def _shifted(places: NDArray[Any], archives: int) -> NDArray[Any]:
    """Return places whose archives come after others."""
    shifted = places.copy()
    shifted["archive"][shifted["archive"] >= 0] += archives
    return shifted


def _encode(names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the names as one text, separated by line feeds, and the place where each starts, and one after the last.

    Bytes that are no UTF-8, which Python stands for by surrogates, are kept.
    """
    text = "\n".join(names)
    lengths = map(len, names) if text.isascii() else (len(name.encode("utf-8", "surrogatepass")) for name in names)
    starts = np.zeros(len(names) + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, len(names)) + 1, out=starts[1:])
    return {"text": np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8), "starts": starts}
