"""MATLAB's files of version 5, measured before they are read: a header of 56 bytes can claim any number of elements."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

_HEADER = 128
_ORDERS = {b"\x00\x01IM": "little", b"\x01\x00MI": "big"}  # version 1.0, and in which order numbers are written
_MOST_BYTES = 1 << 25  # inflated; a published one has less than 1 MB
_MOST_NUMBERS = 1 << 22  # of all arrays together, 2048x2048
_MOST_ENTRIES = 1 << 12  # of all cells and structs together; a published one has 25
_MOST_DEEP = 8
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_CELL, _STRUCT, _CHAR, _SPARSE = 1, 2, 4, 5  # classes of matrices
_NUMBERS = range(6, 16)
_COMPLEX = 0x800  # in a matrix's flags


class BadMat(Exception):
    """Why a file is not read."""


def measured(data: bytes) -> bytes:
    """The same file, its elements inflated, after all that it claims was found to be bounded.

    The walk goes as scipy's reader goes, from element to element, so that both see the same headers.

    Raises:
        BadMat: When it claims too much, ends too early, or is of another version.
    """
    order = _ORDERS.get(data[124:_HEADER])
    if order is None or 0 in data[:4]:  # those of version 4 begin with a number
        raise BadMat("it does not begin as a MATLAB 5 file")
    pieces, walk = [data[:_HEADER]], _Walk(order)
    total = 0
    for element in _inflated(data, order):
        total += len(element)
        if total > _MOST_BYTES:
            raise BadMat(f"inflated it has more than {_MOST_BYTES >> 20} MiB")
        walk.variable(element)
        pieces.append(element)
    return b"".join(pieces)


def _inflated(data: bytes, order: str) -> Iterator[bytes]:
    """The elements of the file itself, with their tags."""
    place = _HEADER
    while place < len(data):
        kind, size = _two(data, place, order)
        end = place + 8 + size
        if end > len(data):
            raise BadMat(f"it ends after {len(data)} bytes, before its last element")
        if kind != _COMPRESSED:
            yield data[place:end]
        else:
            inflater = zlib.decompressobj()
            try:
                yield inflater.decompress(data[place + 8 : end], _MOST_BYTES + 1)
            except zlib.error as error:
                raise BadMat(f"an element of it cannot be inflated: {error}") from error
        place = end


class _Walk:
    """Over the headers of one file's matrices, adding up what they claim."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.data, self.place = b"", 0
        self.numbers = self.entries = 0

    def variable(self, element: bytes) -> None:
        """An element of the file itself, with its tag."""
        self.data, self.place = element, 0
        self._matrix(0)
        if self.place != len(element):
            raise BadMat("the length of a matrix is not that of its parts")

    def _matrix(self, depth: int) -> None:
        kind, size = _two(self.data, self.place, self.order)
        start = self.place = self.place + 8
        if kind != _MATRIX:
            raise BadMat(f"an element of type {kind} where a matrix is expected")
        self._claim(entries=1)
        if not size:  # an empty one
            return
        flags, _ = _two(self.data, self.place + 8, self.order)
        self.place += 16
        shape = self._integers()
        if min(shape, default=-1) < 0:
            raise BadMat(f"a matrix of the shape {shape}")
        self._part()  # its name
        self._contents(flags, shape, depth)
        if self.place != start + size:
            raise BadMat("the length of a matrix is not that of its parts")

    def _contents(self, flags: int, shape: list[int], depth: int) -> None:
        kind, count = flags & 0xFF, math.prod(shape)
        if kind in (_CELL, _STRUCT):
            count *= self._fields() if kind == _STRUCT else 1
            if depth == _MOST_DEEP:
                raise BadMat(f"cells and structs within each other, more than {_MOST_DEEP} deep")
            if self.entries + count > _MOST_ENTRIES:  # each counts itself as it is met
                raise BadMat(_claims(shape, "cells and structs", _MOST_ENTRIES))
            for _ in range(count):
                self._matrix(depth + 1)
        elif kind == _SPARSE:  # takes what it holds, whatever its shape
            for _ in range(4 if flags & _COMPLEX else 3):
                self._part()
        elif kind == _CHAR or kind in _NUMBERS:
            self.numbers += count
            if self.numbers > _MOST_NUMBERS:
                raise BadMat(_claims(shape, "arrays", _MOST_NUMBERS))
            for _ in range(2 if flags & _COMPLEX and kind != _CHAR else 1):
                self._part()
        else:
            raise BadMat(f"a matrix of class {kind}, which is neither numbers, text, cell nor struct")

    def _fields(self) -> int:
        """How many fields a struct has."""
        lengths, names = self._integers(), self._part()
        if len(lengths) != 1 or lengths[0] < 1:
            raise BadMat("a struct without the length of its names")
        fields = len(names) // lengths[0]
        self._claim(entries=fields)
        return fields

    def _claim(self, entries: int) -> None:
        self.entries += entries
        if self.entries > _MOST_ENTRIES:
            raise BadMat(f"more than {_MOST_ENTRIES} variables, fields and entries")

    def _integers(self) -> list[int]:
        part = self._part()
        return [int.from_bytes(part[at : at + 4], self.order, signed=True) for at in range(0, len(part), 4)]  # type: ignore[arg-type]

    def _part(self) -> bytes:
        """The data of the element here; those of up to four bytes stand in their tag."""
        kind, size = _two(self.data, self.place, self.order)
        if kind >> 16:
            size, first, after = kind >> 16, self.place + 4, self.place + 8
            if size > 4:
                raise BadMat(f"a short element of {size} bytes")
        else:
            first = self.place + 8
            after = first + -(-size // 8) * 8
        if after > len(self.data):
            raise BadMat("it ends within an element")
        self.place = after
        return self.data[first : first + size]


def _two(data: bytes, place: int, order: str) -> tuple[int, int]:
    """Two numbers of 32 bits."""
    if place + 8 > len(data):
        raise BadMat("it ends within an element")
    first, second = data[place : place + 4], data[place + 4 : place + 8]
    return int.from_bytes(first, order), int.from_bytes(second, order)  # type: ignore[arg-type]


def _claims(shape: list[int], what: str, most: int) -> str:
    return f"a matrix claims {'x'.join(map(str, shape))} elements, at most {most} are read of {what}"
