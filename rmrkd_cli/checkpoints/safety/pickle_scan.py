"""The pickle program inside a checkpoint, followed step by step without running it.

torch.load(weights_only=True) runs no stranger's code. It does allocate what a file asks for (`bytearray(10 ** 11)`, a
storage of a terabyte), and its list of allowed names is longer than a checkpoint needs. So the program is followed here
first: containers are built, and in place of every call stands what it would give. Only the calls in `_CALLS` may occur.
"""

from __future__ import annotations

import math
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # what Python 2 called things, as torch reads them
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

MOST_STEPS = 1_000_000  # of a program; a ResNet-101 with optimizer and teacher takes 50,000
_MOST_DIMENSIONS = 64  # as many as torch has
_SHOWN = 120

# Bytes of an element, by the class that stands for the storage in the file.
_STORAGES = {
    "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2, "torch.DoubleStorage": 8,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip
_ARRAY = "numpy.ndarray"
MOST_NUMPY_BYTES = 1 << 20  # of all NumPy numbers in a file, of which OpenMMLab's hold a few
NUMPY_KINDS = {"f8": 8, "f4": 4, "f2": 2, "i8": 8, "i4": 4, "i2": 2, "i1": 1, "u1": 1, "b1": 1}


class Refused(Exception):
    """The program does what no checkpoint needs; the message says what."""


class Malformed(Exception):
    """It is no whole pickle program."""


@dataclass(frozen=True)
class Storage:
    """Elements that lie in the file under `key`, each of `width` bytes."""

    key: str
    elements: int
    width: int

    @property
    def size(self) -> int:
        return self.elements * self.width


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that would be a view of a storage."""

    storage: Storage
    size: int  # bytes, were it copied


@dataclass(frozen=True)
class _Name:
    """A global name, nothing it stands for."""

    path: str


@dataclass(frozen=True)
class _NumpyKind:
    width: int


class _NumpyScalar:
    """A number of NumPy's."""


class _NumpyArray:
    """A small array of such numbers."""


class _Mapping(dict[Any, Any]):
    """An OrderedDict, the only kind of object whose attributes a program may set."""


class Program:
    """One pickle program.

    Attributes:
        value: What it would give, with stand-ins for tensors.
        tensors: Every tensor that is made.
        storages: Every storage, by key.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.tensors: list[TensorInfo] = []
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0
        self.value = self._follow(stream)

    def _follow(self, stream: BinaryIO) -> Any:
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if number >= MOST_STEPS:
                    raise Refused(f"its pickle program has more than {MOST_STEPS:,} steps")
                if opcode.name == "STOP":
                    return self._stack.pop()
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise Malformed(
                        f"its pickle program has the instruction {opcode.name}, which torch.save never writes"
                    )
                step(self, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise Malformed(f"its pickle program is damaged ({_short(error)})") from error
        raise Malformed("its pickle program does not end")

    # Each step takes the argument that stands beside its instruction.

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def name(self, argument: str) -> None:
        module, attribute = argument.split(" ", 1)
        module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
        path = f"{module}.{attribute}"
        if path not in _CALLS and path not in _STORAGES and path != _ARRAY:
            raise Refused(f"{_short(path)} is not among what a checkpoint needs")
        self.push(_Name(path))

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def since_mark(self) -> list[Any]:
        place = self._marks.pop()
        items = self._stack[place:]
        del self._stack[place:]
        return items

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def get(self, place: int) -> None:
        self.push(self._memo[place])

    def last(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise Malformed("its stack is empty")
        del self._stack[-count:]
        self.push(items)

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise Refused(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(f"it sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int, float, bytes, type(None))):  # a nested tuple is hashed for ever
                raise Refused(f"it has a {type(key).__name__} as key")
            target[key] = value

    def call(self, _: Any) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Name) or called.path not in _CALLS or type(arguments) is not tuple:
            raise Refused(f"it calls {_short(called)}")
        self.push(_CALLS[called.path](self, arguments))

    def build(self, _: Any) -> None:
        """Sets an object's state: `_metadata` of a state dict, and a NumPy type's byte order."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, _Mapping) and isinstance(state, dict) and set(state) <= {"_metadata"}:
            return
        if isinstance(target, _NumpyKind) and state in [(3, order, None, None, None, -1, -1, 0) for order in "<>|="]:
            return
        if isinstance(target, _NumpyArray) and _numbers(state):
            return
        raise Refused(f"it sets the state of a {type(target).__name__}")

    def storage(self, _: Any) -> None:
        """A storage in the file: ("storage", class, key, device, elements), and none of a view in old files."""
        told = self._stack.pop()
        if type(told) is not tuple or len(told) not in (5, 6) or told[0] not in ("storage", b"storage"):
            raise Refused("it refers to something outside the file")
        kind, key, elements = told[1], told[2], told[4]
        if not isinstance(kind, _Name) or kind.path not in _STORAGES or (len(told) == 6 and told[5] is not None):
            raise Refused("it refers to something outside the file")
        key = key.decode("ascii") if isinstance(key, bytes) else key
        if type(key) is not str or type(elements) is not int or elements < 0:
            raise Malformed("a storage without key or size")
        found = Storage(key, elements, _STORAGES[kind.path])
        if self.storages.setdefault(key, found) != found:
            raise Refused(f"the storage {_short(key)} has two sizes")
        self.push(found)

    # What calls give.

    def tensor(self, arguments: tuple[Any, ...]) -> TensorInfo:
        """`_rebuild_tensor_v2(storage, offset, size, stride, …)`"""
        if len(arguments) not in (6, 7) or not isinstance(arguments[0], Storage):
            raise Refused("it makes a tensor without a storage")
        storage, offset, size, stride = arguments[:4]
        if not _whole(offset, size, stride):
            raise Malformed("a tensor without a shape")
        count = math.prod(size)
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if count else offset
        if end > storage.elements or count > storage.elements:
            raise Refused(f"a tensor of shape {_short(size)} lies on {storage.elements} elements")
        info = TensorInfo(storage, count * storage.width)
        self.tensors.append(info)
        return info

    def parameter(self, arguments: tuple[Any, ...]) -> TensorInfo:
        """`_rebuild_parameter(tensor, requires_grad, hooks)`"""
        if len(arguments) != 3 or not isinstance(arguments[0], TensorInfo):
            raise Refused("it makes a parameter of no tensor")
        return arguments[0]

    def mapping(self, arguments: tuple[Any, ...]) -> _Mapping:
        """`OrderedDict()`, or of a list of pairs, as Python 2 wrote it."""
        made = _Mapping()
        self.push(made)
        for pair in arguments[0] if arguments else ():
            self.set_items(list(pair))
        self._stack.pop()
        return made

    def encoded(self, arguments: tuple[Any, ...]) -> bytes:
        """`_codecs.encode(text, "latin1")`, the bytes of numbers."""
        if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
            raise Refused("it encodes a text")
        self._encoded += len(arguments[0])
        if self._encoded > MOST_NUMPY_BYTES:  # the same text can be encoded as often as there are steps
            raise Refused(f"its NumPy numbers take more than {MOST_NUMPY_BYTES:,} bytes")
        return arguments[0].encode("latin1")

    def numpy_kind(self, arguments: tuple[Any, ...]) -> _NumpyKind:
        """`numpy.dtype("f8", False, True)`"""
        if len(arguments) != 3 or type(arguments[0]) is not str or arguments[0] not in NUMPY_KINDS:
            raise Refused("it asks for a NumPy type that is no number")
        if arguments[1:] not in ((False, True), (0, 1)):
            raise Refused("it asks for a NumPy type that is no number")
        return _NumpyKind(NUMPY_KINDS[arguments[0]])

    def numpy_scalar(self, arguments: tuple[Any, ...]) -> _NumpyScalar:
        """`numpy.core.multiarray.scalar(dtype, bytes)`"""
        if len(arguments) != 2 or not isinstance(arguments[0], _NumpyKind) or type(arguments[1]) is not bytes:
            raise Refused("it makes a NumPy object that is no number")
        if len(arguments[1]) != arguments[0].width:
            raise Malformed("a NumPy number of another size than its type")
        return _NumpyScalar()

    def numpy_array(self, arguments: tuple[Any, ...]) -> _NumpyArray:
        """`numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")`, empty until its state is set."""
        if len(arguments) != 3 or arguments[0] != _Name(_ARRAY) or arguments[1:] != ((0,), b"b"):
            raise Refused("it makes a NumPy object that is no array")
        return _NumpyArray()


def _numbers(state: Any) -> bool:
    """Whether an array's state (version, shape, type, order, bytes) is that of numbers, as many as it has bytes for."""
    if type(state) is not tuple or len(state) != 5:
        return False
    _, shape, kind, _, data = state
    fits = _whole(0, shape) and isinstance(kind, _NumpyKind) and type(data) is bytes
    return fits and math.prod(shape) * kind.width == len(data)


def _whole(offset: Any, *shapes: Any) -> bool:
    """Whether offset, sizes and strides are whole numbers from 0 on, and as many."""
    return (
        type(offset) is int
        and all(type(shape) is tuple and len(shape) <= _MOST_DIMENSIONS for shape in shapes)
        and all(type(n) is int and 0 <= n < 1 << 63 for shape in (*shapes, (offset,)) for n in shape)
        and len({len(shape) for shape in shapes}) == 1
    )


def _short(value: object) -> str:
    if isinstance(value, (list, dict)) or (isinstance(value, tuple) and not all(type(n) is int for n in value)):
        return f"a {type(value).__name__}"  # which can be small, and endless when it is printed
    text = f"`{value.path}`" if isinstance(value, _Name) else f"`{value}`"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…`"


# The whole list of calls, and what needs it. Beside them only the classes in `_STORAGES` may be named.
_CALLS: dict[str, Callable[[Program, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": Program.tensor,  # every tensor that torch.save writes
    "torch._utils._rebuild_parameter": Program.parameter,  # ImageNet files made of torchvision's hold parameters
    "collections.OrderedDict": Program.mapping,  # `state_dict`, and `backward_hooks` of every tensor
    # `meta.hook_msgs.best_score` of mmcv's EvalHook, and learning rates computed with NumPy, are NumPy scalars:
    # scalar(dtype("f8"), encode("…", "latin1"))
    "numpy.core.multiarray.scalar": Program.numpy_scalar,
    "numpy._core.multiarray.scalar": Program.numpy_scalar,  # the same since NumPy 2
    # `meta.PALETTE` is a NumPy array where mmsegmentation drew the colours of a data set that has none
    "numpy.core.multiarray._reconstruct": Program.numpy_array,
    "numpy._core.multiarray._reconstruct": Program.numpy_array,
    "numpy.dtype": Program.numpy_kind,
    "_codecs.encode": Program.encoded,
}


def _push(value: Callable[[], Any]) -> Callable[[Program, Any], None]:
    return lambda program, _: program.push(value())


_STEPS: dict[str, Callable[[Program, Any], None]] = {
    "PROTO": lambda program, _: None,
    "GLOBAL": Program.name,
    "REDUCE": Program.call,
    "BUILD": Program.build,
    "BINPERSID": Program.storage,
    "MARK": Program.mark,
    "BINPUT": Program.put,
    "LONG_BINPUT": Program.put,
    "BINGET": Program.get,
    "LONG_BINGET": Program.get,
    "TUPLE": lambda program, _: program.push(tuple(program.since_mark())),
    "TUPLE1": lambda program, _: program.last(1),
    "TUPLE2": lambda program, _: program.last(2),
    "TUPLE3": lambda program, _: program.last(3),
    "APPEND": lambda program, _: program.append([program._stack.pop()]),
    "APPENDS": lambda program, _: program.append(program.since_mark()),
    "SETITEM": lambda program, _: program.set_items([program._stack.pop() for _ in "kv"][::-1]),
    "SETITEMS": lambda program, _: program.set_items(program.since_mark()),
    "EMPTY_DICT": _push(dict),
    "EMPTY_LIST": _push(list),
    "EMPTY_TUPLE": _push(tuple),
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"), Program.push
    ),
}  # fmt: skip
