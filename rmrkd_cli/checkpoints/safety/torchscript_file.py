"""Check a TorchScript file before torch opens it: its program may use only operators on tensors, and its own tensors.

A TorchScript file is a program, and torch runs parts of it while it loads the file. torch's language has no way to
import Python, but it has operators that write and read files. The program is therefore read as text first. Every
operator is called by its name, so a program in which no other names occur can use no other operators.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from rmrkd_cli.checkpoints.safety.pickle_scan import PickleScan
from rmrkd_cli.checkpoints.safety.placeholders import (
    STORAGE_CLASSES,
    GlobalName,
    MalformedFileError,
    Mapping,
    UnsafeFileError,
    shorten,
)
from rmrkd_cli.checkpoints.safety.torch_archive import MAX_HEADER_BYTES, directory_bytes
from rmrkd_cli.checkpoints.safety.torchscript_operators import ALLOWED

MAX_BYTES = 4 << 30  # of a file, which is read into memory
MAX_CODE_BYTES = 64 << 20  # of all files of the program, unpacked
_MAX_ENTRIES = 200_000
_CODE, _DEBUG = (".py",), (".debug_pkl",)
_READ = ("data.pkl", "constants.pkl")  # the pickle programs that torch runs
_UNREAD = ("traced_inputs.pkl", "bytecode.pkl", "mobile_debug_handles.pkl")
_UNREAD_FOLDERS = ("traced_inputs/", "bytecode/")
_FOLDERS = ("data/", "constants/", "code/", "extra/", ".data/", "version", "byteorder", *_UNREAD_FOLDERS)
# Names that are no operators: they start threads, print, or look up names that are texts.
_FORBIDDEN = frozenset(("fork", "awaitable", "print", "getattr", "hasattr", "setattr", "Future", "RRef", "Await"))
_OWN_CLASSES = "__torch__."
_CPLUSPLUS_CLASSES = "__torch__.torch.classes"
_LISTS = tuple(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor", "complexdouble"))
_TYPED = "torch.jit._pickle.restore_type_tag"
_KNOWN = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "collections.OrderedDict")
_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER_RUN = re.compile(rb"(?<![A-Za-z0-9_])[0-9][A-Za-z0-9_]*")
_MAX_RUN = 200  # characters
_TEXT = re.compile(rb'"(?:[^"\\\n]|\\.)*"(?!")')  # as torch writes texts
# As torch writes an attribute whose name is a number, which can stand inside another one.
_GETATTR = re.compile(rb'\bgetattr\(((?:[A-Za-z0-9_.]|\([A-Za-z0-9_.]*\))*), "([A-Za-z0-9_]+)"\)')
_CLASS_PATH = re.compile(rb"(?<![A-Za-z0-9_.])__torch__(?:\.[A-Za-z_][A-Za-z0-9_]*)+")  # names what the file defines
_OTHER_NAMESPACE = re.compile(rb"(?<![A-Za-z0-9_.])ops(?![A-Za-z0-9_])(?!\.(?:prim|aten)\.)(\.[A-Za-z0-9_.]*)?")


class _Object:
    """An object of a class that the file's program defines."""


class TorchScriptScan(PickleScan):
    """A pickle program inside a TorchScript file, followed to its end."""

    def push_global(self, argument: str) -> None:
        path = ".".join(argument.split(" ", 1))
        own = path.startswith(_OWN_CLASSES) and not path.startswith(_CPLUSPLUS_CLASSES)
        if not own and path not in (*_LISTS, _TYPED, *_KNOWN, "torch.device", *STORAGE_CLASSES):
            raise UnsafeFileError(f"it names {shorten(path)}, which no network needs")
        self.push(GlobalName(path))

    def call(self, argument: Any) -> None:
        arguments, function = self._stack[-1], self._stack[-2]
        path = function.path if isinstance(function, GlobalName) else ""
        if path in _KNOWN:
            super().call(argument)
            return
        if type(arguments) is not tuple or not path or path in STORAGE_CLASSES:
            raise UnsafeFileError(f"it calls {shorten(function)}")
        del self._stack[-2:]
        self.push(arguments[0] if path in (*_LISTS, _TYPED) and arguments else _Object())

    def create(self, _: Any) -> None:
        arguments, cls = self._stack.pop(), self._stack.pop()
        if not isinstance(cls, GlobalName) or not cls.path.startswith(_OWN_CLASSES) or arguments != ():
            raise UnsafeFileError(f"it creates an object of {shorten(cls)}")
        self.push(_Object())

    def set_state(self, _: Any) -> None:
        self._stack.pop()
        if not isinstance(self._stack[-1], (_Object, Mapping)):
            raise UnsafeFileError(f"it sets the state of a {type(self._stack[-1]).__name__}")


def read_torchscript_file(path: Path) -> io.BytesIO:
    """Return a checked TorchScript file, as an archive of what torch needs to run its program.

    Entries that torch only needs for messages are left out: it aborts the process where they are damaged.

    Raises:
        UnsafeFileError: It uses something that no network needs.
        MalformedFileError: It is damaged, or no TorchScript file.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsafeFileError(f"it has {size / 1e9:.1f} GB, more than {MAX_BYTES >> 30} GiB")
    try:
        with path.open("rb") as stream, zipfile.ZipFile(_checked_directory(stream)) as archive:
            entries = _entries(archive)
            _check_code({name: archive.read(entry) for name, entry in entries.items() if name.endswith(_CODE)})
            for name in _READ:
                _check_pickle(archive.read(entries[name]), name, entries)
            return _copy(archive, entries)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError, zlib.error) as error:
        raise MalformedFileError(f"it is damaged or no TorchScript file ({shorten(error)})") from error


def _checked_directory(stream: BinaryIO) -> BinaryIO:
    """Return the stream, which zipfile may open: its directory is not so large that reading it takes long."""
    length = directory_bytes(stream)
    if length > MAX_HEADER_BYTES:
        raise MalformedFileError(f"its archive has a directory of {length:,} bytes")
    return stream


def _copy(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> io.BytesIO:
    """Return an archive of these entries; reading them compares their checksums."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name, entry in entries.items():
            target.writestr(f"network/{name}", archive.read(entry))
    copy.seek(0)
    return copy


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries that torch needs, by name without the folder that contains all of them."""
    listed = archive.infolist()
    if not 0 < len(listed) <= _MAX_ENTRIES:
        raise MalformedFileError(f"its archive has {len(listed):,} entries")
    root = listed[0].filename.split("/")[0]
    named = {entry.filename.removeprefix(f"{root}/"): entry for entry in listed}
    if not set(_READ) <= named.keys():
        raise MalformedFileError("it is no TorchScript file, which `torch.jit.save` writes")
    if len({name.lower() for name in named}) < len(listed):  # torch's reader ignores case
        raise UnsafeFileError("it is an archive with two entries of one name")
    entries = {}
    for name, entry in named.items():
        if ".." in name.split("/") or not (name in (*_READ, *_UNREAD) or name.startswith(_FOLDERS)):
            raise UnsafeFileError(f"it is an archive with {shorten(name)}, which `torch.jit.save` does not write")
        if name in _UNREAD or name.endswith(_DEBUG) or name.startswith(_UNREAD_FOLDERS):
            continue
        if not name.endswith((*_CODE, *_READ)) and entry.compress_size != entry.file_size and "extra/" not in name:
            raise UnsafeFileError(f"its tensors are compressed ({shorten(name)}); torch never does that")
        entries[name] = entry
    packed = [entry for name, entry in entries.items() if name.endswith((*_CODE, *_READ)) or name.startswith("extra/")]
    if sum(entry.file_size for entry in packed) > MAX_CODE_BYTES:
        raise UnsafeFileError(f"its program has more than {MAX_CODE_BYTES >> 20} MiB")
    return entries


def _check_code(files: dict[str, bytes]) -> None:
    """Check every name in the program."""
    known = _registered_operators()
    for text in files.values():
        code, attributes = _without_texts(text)
        if b"^" in code and (found := re.search(rb"\^\s*([A-Za-z_]\w*)\s*\(", code)):
            raise UnsafeFileError(f"it calls the Python function {shorten(found[1].decode())}")
        if found := _OTHER_NAMESPACE.search(code):
            name = (found[1] or b"").decode().strip(".")
            raise UnsafeFileError(f"it uses the operator {shorten(name or 'ops')} of another library")
        if _CPLUSPLUS_CLASSES.encode() in code or b"torch.classes" in code:
            raise UnsafeFileError("it uses a class of another library")
        for word in _words(_CLASS_PATH.sub(b" ", code)) | attributes:
            magic = word.startswith("__") and word.endswith("__")
            if word in _FORBIDDEN or (word in known and word not in ALLOWED and not magic):
                raise UnsafeFileError(f"it uses {shorten(word)}, which is not on the list of operators for networks")


def _without_texts(code: bytes) -> tuple[bytes, set[str]]:
    """Return the program without its texts, and the attributes that it names by texts.

    Only the form in which torch writes programs is read: no comments, and no other quotes. In it, no other reader can
    find code where this one finds a text.
    """
    attributes: set[str] = set()
    while found := _GETATTR.findall(code):
        attributes |= {name.decode() for _, name in found}
        code = _GETATTR.sub(rb"\1", code)
    code = _TEXT.sub(b" ", code)
    if odd := re.search(rb"[\"'#\\`]", code):
        raise MalformedFileError(f"its program contains {shorten(odd[0].decode())}, where torch writes none")
    return code, attributes


def _words(code: bytes) -> set[str]:
    """Return every name that the program can have; torch reads `2save` as a number and a name."""
    words = {found.decode() for found in _WORD.findall(code)}
    for run in set(_NUMBER_RUN.findall(code)):
        if len(run) > _MAX_RUN:
            raise MalformedFileError(f"its program has the number {shorten(run.decode()[:40])}")
        words |= {run[start:].decode() for start in range(len(run)) if _WORD.match(run, start)}
    return words


def _registered_operators() -> frozenset[str]:
    """Return the names of the operators of torch itself, without their namespace."""
    import torch

    schemas = torch._C._jit_get_all_schemas()
    names = (schema.name.split("::") for schema in schemas)
    return frozenset(name for namespace, name in names if namespace in ("aten", "prim"))


def _check_pickle(contents: bytes, name: str, entries: dict[str, zipfile.ZipInfo]) -> None:
    """Follow a pickle program, and compare its storages with the entries of the archive."""
    scan = TorchScriptScan(io.BytesIO(contents))
    for key, storage in scan.storages.items():
        entry = entries.get(f"{name.removesuffix('.pkl')}/{key}")
        if entry is None:
            raise MalformedFileError(f"the storage {shorten(key)} of `{name}` is missing")
        if entry.file_size != storage.size:
            raise UnsafeFileError(
                f"the storage {shorten(key)} claims {storage.size:,} bytes and has {entry.file_size:,}"
            )
