"""Pickle programs written by hand: what no `__reduce__` can express, for checkpoints that nobody should open."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

PROTO, STOP, MARK, REDUCE, EMPTY_TUPLE, APPEND = b"\x80\x02", b".", b"(", b"R", b")", b"a"


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def group(*items: bytes) -> bytes:
    return MARK + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + REDUCE


def mapping(**items: bytes) -> bytes:
    return b"}" + MARK + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(elements: int, key: str = "0", kind: str = "FloatStorage", old: bool = False) -> bytes:
    view = (b"N",) if old else ()
    return group(text("storage"), name("torch", kind), text(key), text("cpu"), number(elements), *view) + b"Q"


def tensor(stored: bytes, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    hooks = call(name("collections", "OrderedDict"))
    sizes = (group(*map(number, shape)), group(*map(number, stride)))
    return call(name("torch._utils", "_rebuild_tensor_v2"), stored, number(offset), *sizes, b"\x89", hooks)


def small(key: str = "0") -> bytes:
    """A harmless tensor of four elements."""
    return tensor(storage(4, key), (4,), (1,))


def checkpoint(**items: bytes) -> bytes:
    return PROTO + mapping(**items) + STOP


def student(*, meta: bytes = b"}", **more: bytes) -> bytes:
    """Looks like the checkpoint of a distiller, with one tensor."""
    return checkpoint(meta=meta, state_dict=mapping(**{"student.decode_head.conv_seg.weight": small()}), **more)


def archive(path: Path, program: bytes, storages: dict[str, bytes] | None = None, root: str = "x") -> None:
    """A zip archive as torch.save writes it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{root}/data.pkl", program)
        file.writestr(f"{root}/byteorder", "little")
        for key, data in (storages if storages is not None else {"0": bytes(16)}).items():
            file.writestr(f"{root}/data/{key}", data)
        file.writestr(f"{root}/version", "3\n")


def stream(path: Path, program: bytes, keys: bytes = b"]", data: bytes = b"", system: bytes = b"}") -> None:
    """The form that torch wrote before 1.6."""
    out = io.BytesIO()
    for part in (number(0x1950A86A20F9469CFC6C), number(1001), system):
        out.write(PROTO + part + STOP)
    out.write(program + PROTO + keys + STOP + data)
    path.write_bytes(out.getvalue())
