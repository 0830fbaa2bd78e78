"""Placeholders for the objects that a pickle program in a checkpoint creates: what they are, and how large.

`pickle_scan` follows a pickle program and asks `Placeholders` for the result of each call. No torch or NumPy object is
created. Each method checks its arguments and rejects what `torch.save` never writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_NUMPY_BYTES = 1 << 20  # of all NumPy numbers in a file; OpenMMLab's files hold a few
MAX_HISTORY_BYTES = 64 << 20  # the same in a file of mmengine, which keeps every logged value
NUMPY_DTYPES = {"f8": 8, "f4": 4, "f2": 2, "i8": 8, "i4": 4, "i2": 2, "i1": 1, "u1": 1, "b1": 1}  # name -> bytes
NUMPY_ARRAY = "numpy.ndarray"
# Bytes of an element, by the name of the storage's class in the file.
STORAGE_CLASSES = {
    "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2, "torch.DoubleStorage": 8,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip
HISTORY_BUFFER = "mmengine.logging.history_buffer.HistoryBuffer"
# Objects beside the weights, without a meaning for a network: each becomes an `Omitted`, and its class is not imported.
OMITTED_CLASSES = (HISTORY_BUFFER, "argparse.Namespace")
_MAX_DIMENSIONS = 64  # torch's own limit
_MAX_SHOWN = 120  # characters of a value in a message


class UnsafeFileError(Exception):
    """The file asks for something that no checkpoint needs; the message says for what."""


class MalformedFileError(Exception):
    """The file is damaged, or of another format."""


@dataclass(frozen=True)
class GlobalName:
    """The dotted name of a class or function; it is not imported."""

    path: str


@dataclass(frozen=True)
class Storage:
    """Elements stored in the file under `key`, each of `width` bytes."""

    key: str
    elements: int
    width: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * self.width


@dataclass(frozen=True)
class TensorInfo:
    """A view of a storage; `size` is the bytes that a copy of it takes."""

    storage: Storage
    size: int


class Mapping(dict[Any, Any]):
    """An OrderedDict, the only object whose attributes a program may set."""


@dataclass(frozen=True)
class NumpyDtype:
    width: int  # bytes


class NumpyScalar:
    """A NumPy number."""


class NumpyArray:
    """A small array of NumPy numbers."""


class Omitted:
    """What is left of an object of another library: nothing. It ignores its arguments and its state."""

    def __new__(cls, *_: object) -> Omitted:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


class Placeholders:
    """Creates the placeholder for each call of a pickle program.

    Attributes:
        tensors: Every tensor created so far.
        max_numpy_bytes: Limit of all NumPy numbers.
    """

    def __init__(self) -> None:
        self.tensors: list[TensorInfo] = []
        self.max_numpy_bytes = MAX_NUMPY_BYTES
        self._encoded_bytes = 0

    def call(self, function: Any, arguments: Any) -> Any:
        """Return the placeholder for `function(*arguments)`.

        Raises:
            UnsafeFileError: The function is in neither table of calls, or a checkpoint never has these arguments.
            MalformedFileError: The arguments are no shape or number.
        """
        path = function.path if isinstance(function, GlobalName) else ""
        create = CALLS.get(path) or OMITTED_CALLS.get(path)
        if create is None or type(arguments) is not tuple:
            raise UnsafeFileError(f"it calls {shorten(function)}")
        return create(self, arguments)

    def tensor(self, arguments: tuple[Any, ...]) -> TensorInfo:
        """`_rebuild_tensor_v2(storage, offset, size, stride, …)`"""
        if len(arguments) not in (6, 7) or not isinstance(arguments[0], Storage):
            raise UnsafeFileError("it creates a tensor without a storage")
        storage, offset, size, stride = arguments[:4]
        if not _is_layout(offset, size, stride):
            raise MalformedFileError("a tensor has no valid shape")
        count = math.prod(size)
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if count else offset
        if end > storage.elements or count > storage.elements:
            raise UnsafeFileError(
                f"a tensor of shape {shorten(size)} is larger than its storage of {storage.elements} elements"
            )
        info = TensorInfo(storage, count * storage.width)
        self.tensors.append(info)
        return info

    def parameter(self, arguments: tuple[Any, ...]) -> TensorInfo:
        """`_rebuild_parameter(tensor, requires_grad, hooks)`"""
        if len(arguments) != 3 or not isinstance(arguments[0], TensorInfo):
            raise UnsafeFileError("it creates a parameter without a tensor")
        return arguments[0]

    def mapping(self, arguments: tuple[Any, ...]) -> Mapping:
        """`OrderedDict()`, or of a list of pairs, as Python 2 wrote it."""
        mapping = Mapping()
        for pair in arguments[0] if arguments else ():
            set_items(mapping, list(pair))
        return mapping

    def encoded(self, arguments: tuple[Any, ...]) -> bytes:
        """`_codecs.encode(text, "latin1")`, the bytes of numbers."""
        if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
            raise UnsafeFileError("it encodes a text in another way than as latin1")
        self._encoded_bytes += len(arguments[0])
        if self._encoded_bytes > self.max_numpy_bytes:  # a program can encode the same text in every step
            raise UnsafeFileError(f"its NumPy numbers take more than {self.max_numpy_bytes:,} bytes")
        return arguments[0].encode("latin1")

    def numpy_dtype(self, arguments: tuple[Any, ...]) -> NumpyDtype:
        """`numpy.dtype("f8", False, True)`"""
        if (
            len(arguments) != 3
            or type(arguments[0]) is not str
            or arguments[0] not in NUMPY_DTYPES
            or arguments[1:] not in ((False, True), (0, 1))
        ):
            raise UnsafeFileError("it asks for a NumPy type that is not a number")
        return NumpyDtype(NUMPY_DTYPES[arguments[0]])

    def numpy_scalar(self, arguments: tuple[Any, ...]) -> NumpyScalar:
        """`numpy.core.multiarray.scalar(dtype, bytes)`"""
        if len(arguments) != 2 or not isinstance(arguments[0], NumpyDtype) or type(arguments[1]) is not bytes:
            raise UnsafeFileError("it creates a NumPy object that is not a number")
        if len(arguments[1]) != arguments[0].width:
            raise MalformedFileError("a NumPy number has another size than its type")
        return NumpyScalar()

    def numpy_array(self, arguments: tuple[Any, ...]) -> NumpyArray:
        """`numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")`, empty until its state is set."""
        if len(arguments) != 3 or arguments[0] != GlobalName(NUMPY_ARRAY) or arguments[1:] != ((0,), b"b"):
            raise UnsafeFileError("it creates a NumPy object that is not an array")
        return NumpyArray()

    def omitted_object(self, function: Any, arguments: Any) -> Omitted:
        """`HistoryBuffer.__new__(HistoryBuffer)`, `Namespace.__new__(Namespace)`"""
        if not isinstance(function, GlobalName) or function.path not in OMITTED_CLASSES or arguments != ():
            raise UnsafeFileError(f"it creates an object of {shorten(function)}")
        return Omitted()

    def omitted_path(self, arguments: tuple[Any, ...]) -> Omitted:
        """`pathlib.PosixPath("a", "b")`"""
        if not all(type(part) is str for part in arguments):
            raise UnsafeFileError("it creates a path that is no text")
        return Omitted()

    def omitted_statistic(self, arguments: tuple[Any, ...]) -> Omitted:
        """`getattr(HistoryBuffer, "mean")`, as mmengine stores the functions of its buffers"""
        if len(arguments) != 2 or arguments[0] != GlobalName(HISTORY_BUFFER) or type(arguments[1]) is not str:
            raise UnsafeFileError("it calls `builtins.getattr`")
        return Omitted()


# All functions that a program may call and that torch calls, and what needs them. Beside them it may name
# classes in `STORAGE_CLASSES`.
CALLS: dict[str, Callable[[Placeholders, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": Placeholders.tensor,  # every tensor
    "torch._utils._rebuild_parameter": Placeholders.parameter,  # ImageNet files converted from torchvision
    "collections.OrderedDict": Placeholders.mapping,  # `state_dict`, and `backward_hooks` of every tensor
    # `meta.hook_msgs.best_score` of mmcv's EvalHook, and learning rates computed with NumPy
    "numpy.core.multiarray.scalar": Placeholders.numpy_scalar,
    "numpy._core.multiarray.scalar": Placeholders.numpy_scalar,  # since NumPy 2
    # `meta.PALETTE`, where mmsegmentation drew the colors of a data set that has none
    "numpy.core.multiarray._reconstruct": Placeholders.numpy_array,
    "numpy._core.multiarray._reconstruct": Placeholders.numpy_array,
    "numpy.dtype": Placeholders.numpy_dtype,
    "_codecs.encode": Placeholders.encoded,
}

# Calls whose result is left out: reading the file makes an `Omitted` instead, whatever the name stands for.
OMITTED_CALLS: dict[str, Callable[[Placeholders, tuple[Any, ...]], Any]] = {
    "builtins.getattr": Placeholders.omitted_statistic,
    **dict.fromkeys(  # in the arguments of a training script
        (
            "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib._local.Path",
            "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
        ),
        Placeholders.omitted_path,
    ),
}  # fmt: skip


def set_items(target: Any, items: list[Any]) -> None:
    """Set items of a mapping from a list of alternating keys and values."""
    if not isinstance(target, dict) or len(items) % 2:
        raise UnsafeFileError(f"it sets items of a {type(target).__name__}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, int, float, bytes, type(None))):  # hashing a nested tuple takes forever
            raise UnsafeFileError(f"it uses a {type(key).__name__} as key")
        target[key] = value


def is_allowed_state(target: Any, state: Any) -> bool:
    """Return whether a program may set this state.

    It is `_metadata` of a state dict, a byte order, the numbers of an array, or what an omitted object ignores.
    """
    if isinstance(target, Mapping):
        return isinstance(state, dict) and set(state) <= {"_metadata"}
    if isinstance(target, Omitted):
        return isinstance(state, dict)
    if isinstance(target, NumpyDtype):
        return state in [(3, order, None, None, None, -1, -1, 0) for order in "<>|="]
    if not isinstance(target, NumpyArray) or type(state) is not tuple or len(state) != 5:
        return False
    _, shape, dtype, _, data = state  # version, shape, type, order, bytes
    valid = _is_layout(0, shape) and isinstance(dtype, NumpyDtype) and type(data) is bytes
    return valid and math.prod(shape) * dtype.width == len(data)


def shorten(value: object) -> str:
    """Return a value in backticks for a message, cut to a line."""
    if isinstance(value, (list, dict)) or (isinstance(value, tuple) and not all(type(n) is int for n in value)):
        return f"a {type(value).__name__}"  # a small nested one can be endless in print
    text = f"`{value.path}`" if isinstance(value, GlobalName) else f"`{value}`"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…`"


def _is_layout(offset: Any, *shapes: Any) -> bool:
    """Return whether offset, sizes and strides are integers from 0 on, and sizes and strides equally many."""
    return (
        type(offset) is int
        and all(type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS for shape in shapes)
        and all(type(n) is int and 0 <= n < 1 << 63 for shape in (*shapes, (offset,)) for n in shape)
        and len({len(shape) for shape in shapes}) == 1
    )
