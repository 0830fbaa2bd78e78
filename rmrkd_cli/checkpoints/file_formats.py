"""Name the format of a file that is no checkpoint, and what to do with it, from its first bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from rmrkd_cli.checkpoints.safety.torch_archive import directory_bytes

READ = "rmrkd reads .pth files of torch.save, and .safetensors files"
_SOURCE = f"give the checkpoint it was exported from: {READ}"
_HEAD_BYTES = 512
_MAX_DIRECTORY_BYTES = 2 << 20  # of an archive that is looked into; zipfile reads a million entries in 10 s

# What a file is, and the hint, by the bytes it begins with.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes (.h5)", f"{READ}; Keras networks are not supported"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "git lfs pull"),
    (b"\x93NUMPY", "a NumPy array", READ),
    (b"GGUF", "a GGUF file", READ),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip or tar -xzf"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 or tar -xjf"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it first: unxz or tar -xJf"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: unzstd"),
    (b"<", "a text in HTML or XML, for example the page of a failed download", "download the file itself"),
)
_EXPORTED = {".onnx": "an ONNX file", ".tflite": "a TensorFlow Lite file", ".engine": "a TensorRT engine",
             ".plan": "a TensorRT engine", ".mlmodel": "a Core ML file", ".pb": "a TensorFlow graph"}  # fmt: skip
_LIBRARIES = {"an ONNX file": "onnx", "a TorchScript program": "torchscript"}
_RUNTIMES = {
    "an ONNX file": ". Run this file with onnxruntime",
    "a TorchScript program": ". Run this file with torch.jit.load",
}


def describe_format(path: Path) -> tuple[str, str] | None:
    """Return what a file is and a hint, or None where it is not one of the known formats.

    The file is not trusted: only its first bytes, or the names in an archive with a small directory, are read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        names = _names_in_archive(path) if head.startswith(b"PK") else []
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return None
    for begin, what, hint in _BEGINNINGS:
        if head.startswith(begin):
            return what, hint
    if names:
        return _describe_archive(names)
    if path.suffix.lower() in _EXPORTED:
        return _exported(_EXPORTED[path.suffix.lower()])
    return next(((what, hint) for matches, what, hint in _PATTERNS if matches(head)), None)


def network_file_format(path: Path) -> str | None:
    """Return "onnx" or "torchscript" for a file that holds a whole network; None for any other."""
    found = describe_format(path)
    if path.suffix.lower() == ".onnx" and (found is None or found[0] not in _RUNTIMES):
        return "onnx"  # damaged: its reader says how
    return _LIBRARIES.get(found[0]) if found is not None else None


def torchscript() -> tuple[str, str]:
    """Return the description and the hint of a TorchScript program."""
    return _exported("a TorchScript program")


def _exported(what: str) -> tuple[str, str]:
    return what, _SOURCE + _RUNTIMES.get(what, "")


def _is_onnx(head: bytes) -> bool:
    """Return whether a protobuf begins as ONNX: field 1, the version of the format, then field 2, the producer."""
    return len(head) > 3 and head[0] == 0x08 and 1 <= head[1] < 0x40 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27


_PATTERNS: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (_is_onnx, *_exported("an ONNX file")),
    (lambda head: head[4:8] == b"TFL3", *_exported("a TensorFlow Lite file")),
    (_is_safetensors, "a safetensors file under another name", "rename it so that it ends in .safetensors"),
    (
        lambda head: head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"),
        "a Python pickle that torch.save did not write",
        'load it where it was made, and write its tensors: torch.save({"state_dict": tensors}, "weights.pth")',
    ),
    (
        lambda head: head.lstrip()[:1] in (b"{", b"[") and b"\0" not in head,
        "a JSON text",
        f"{READ}; result files are for `rmrkd compare`",
    ),
)


def _names_in_archive(path: Path) -> list[str]:
    with path.open("rb") as stream:
        if directory_bytes(stream) > _MAX_DIRECTORY_BYTES:
            return []
        with zipfile.ZipFile(stream) as archive:
            return archive.namelist()


def _describe_archive(names: list[str]) -> tuple[str, str] | None:
    ends = [name.lower().rpartition("/")[2] for name in names]
    if "constants.pkl" in ends:
        return torchscript()
    if "serialized_exported_program.json" in ends or any(
        "/models/" in f"/{name}" and name.endswith(".json") for name in names
    ):
        return _exported("a program of torch.export")
    if "model.weights.h5" in ends:
        return "a Keras file", f"{READ}; Keras networks are not supported"
    if all(end.endswith(".npy") for end in ends):
        return "an archive of NumPy arrays (.npz)", READ
    if "data.pkl" in ends:
        return None  # a file of torch.save
    inside = next((name for name in names if name.endswith((".pth", ".pt", ".safetensors"))), "")
    return "a zip archive", f"unpack it first{f', it holds {inside[:80]}' if inside else ''}"
