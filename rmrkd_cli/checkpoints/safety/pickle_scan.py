"""Follow the pickle program inside a checkpoint without running it.

`torch.load(weights_only=True)` already prevents code execution. This scan defends against files that exhaust memory or
hide data. torch allocates what a file asks for, such as `bytearray(10 ** 11)` or a storage of a terabyte, and allows
more functions than a checkpoint needs. The scan builds containers, and puts a placeholder where the program calls a
function. Only the functions in `placeholders.CALLS` may be called.
"""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names of modules; torch translates them as well
from collections.abc import Callable
from typing import Any, BinaryIO

from rmrkd_cli.checkpoints.safety.placeholders import (
    CALLS,
    HISTORY_BUFFER,
    MAX_HISTORY_BYTES,
    NUMPY_ARRAY,
    OMITTED_CALLS,
    OMITTED_CLASSES,
    STORAGE_CLASSES,
    GlobalName,
    MalformedFileError,
    Placeholders,
    Storage,
    UnsafeFileError,
    is_allowed_state,
    set_items,
    shorten,
)

MAX_STEPS = 1_000_000  # of a program; a ResNet-101 with optimizer and teacher takes 50,000


class PickleScan:
    """One pickle program, followed to its end.

    Attributes:
        value: The result, with placeholders for tensors.
        tensors: Every tensor that the program creates.
        storages: Every storage, by key.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """Read a program from the stream, which is then at the program's end.

        Raises:
            UnsafeFileError: The program does what no checkpoint needs.
            MalformedFileError: It is not a complete program, or not one that torch.save writes.
        """
        self.storages: dict[str, Storage] = {}
        self._placeholders = Placeholders()
        self.tensors = self._placeholders.tensors
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.value = self._follow(stream)

    def _follow(self, stream: BinaryIO) -> Any:
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if number >= MAX_STEPS:
                    raise UnsafeFileError(f"its pickle program has more than {MAX_STEPS:,} steps")
                if opcode.name == "STOP":
                    return self._stack.pop()
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise MalformedFileError(
                        f"its pickle program has the instruction {opcode.name}, which torch.save never writes"
                    )
                step(self, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise MalformedFileError(f"its pickle program is damaged ({shorten(error)})") from error
        raise MalformedFileError("its pickle program has no end")

    # One method for each instruction; `argument` is what follows it in the file.

    def push(self, argument: Any) -> None:
        self._stack.append(argument)

    def push_global(self, argument: str) -> None:
        module, attribute = argument.split(" ", 1)
        module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
        path = f"{module}.{attribute}"
        known = (CALLS, OMITTED_CALLS, STORAGE_CLASSES, (NUMPY_ARRAY, *OMITTED_CLASSES))
        if not any(path in names for names in known):
            raise UnsafeFileError(f"it names {shorten(path)}, which no checkpoint needs")
        if path == HISTORY_BUFFER:
            self._placeholders.max_numpy_bytes = MAX_HISTORY_BYTES
        self.push(GlobalName(path))

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def recall(self, index: int) -> None:
        self.push(self._memo[index])

    def build_tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise MalformedFileError("its pickle program takes from an empty stack")
        del self._stack[-count:]
        self.push(items)

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise UnsafeFileError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        set_items(self._stack[-1], items)

    def call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self.push(self._placeholders.call(function, arguments))

    def create(self, _: Any) -> None:
        arguments, cls = self._stack.pop(), self._stack.pop()
        self.push(self._placeholders.omitted_object(cls, arguments))

    def set_state(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if not is_allowed_state(target, state):
            raise UnsafeFileError(f"it sets the state of a {type(target).__name__}")

    def load_storage(self, _: Any) -> None:
        """Push the storage that ("storage", class, key, device, elements) names; old files add None, for a view."""
        entry = self._stack.pop()
        if type(entry) is not tuple or len(entry) not in (5, 6) or entry[0] not in ("storage", b"storage"):
            raise UnsafeFileError("it refers to something outside the file")
        kind, key, elements = entry[1], entry[2], entry[4]
        if not isinstance(kind, GlobalName) or kind.path not in STORAGE_CLASSES or entry[5:] not in ((), (None,)):
            raise UnsafeFileError("it refers to something outside the file")
        key = key.decode("ascii") if isinstance(key, bytes) else key
        if type(key) is not str or type(elements) is not int or elements < 0:
            raise MalformedFileError("a storage has no key or no size")
        storage = Storage(key, elements, STORAGE_CLASSES[kind.path])
        if self.storages.setdefault(key, storage) != storage:
            raise UnsafeFileError(f"the storage {shorten(key)} has two sizes")
        self.push(storage)


def _push_new(create: Callable[[], Any]) -> Callable[[PickleScan, Any], None]:
    return lambda scan, _: scan.push(create())


_STEPS: dict[str, Callable[[PickleScan, Any], None]] = {
    "PROTO": lambda scan, _: None,
    # A subclass for another kind of file replaces these four.
    "GLOBAL": lambda scan, argument: scan.push_global(argument),
    "REDUCE": lambda scan, argument: scan.call(argument),
    "NEWOBJ": lambda scan, argument: scan.create(argument),
    "BUILD": lambda scan, argument: scan.set_state(argument),
    "BINPERSID": PickleScan.load_storage,
    "MARK": PickleScan.mark,
    "BINPUT": PickleScan.memoize,
    "LONG_BINPUT": PickleScan.memoize,
    "BINGET": PickleScan.recall,
    "LONG_BINGET": PickleScan.recall,
    "TUPLE": lambda scan, _: scan.push(tuple(scan.pop_to_mark())),
    "TUPLE1": lambda scan, _: scan.build_tuple(1),
    "TUPLE2": lambda scan, _: scan.build_tuple(2),
    "TUPLE3": lambda scan, _: scan.build_tuple(3),
    "APPEND": lambda scan, _: scan.append([scan._stack.pop()]),
    "APPENDS": lambda scan, _: scan.append(scan.pop_to_mark()),
    "SETITEM": lambda scan, _: scan.set_items([scan._stack.pop() for _ in "kv"][::-1]),
    "SETITEMS": lambda scan, _: scan.set_items(scan.pop_to_mark()),
    "EMPTY_DICT": _push_new(dict),
    "EMPTY_LIST": _push_new(list),
    "EMPTY_TUPLE": _push_new(tuple),
    "NONE": _push_new(lambda: None),
    "NEWTRUE": _push_new(lambda: True),
    "NEWFALSE": _push_new(lambda: False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), PickleScan.push
    ),
}  # fmt: skip
