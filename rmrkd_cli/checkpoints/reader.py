"""Read checkpoint files safely, write them atomically, and load them into networks."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.checkpoints import digest
from rmrkd_cli.checkpoints.file_formats import describe_format, torchscript
from rmrkd_cli.checkpoints.hub_folder import read_hub_metadata
from rmrkd_cli.checkpoints.mismatch import mismatch_error
from rmrkd_cli.checkpoints.network_state import STATE_DICT_LINE, NetworkState, find_state, strip_common_prefix
from rmrkd_cli.checkpoints.plain_metadata import in_mmseg_form
from rmrkd_cli.checkpoints.safety import torch_archive
from rmrkd_cli.checkpoints.safety.placeholders import (
    NUMPY_DTYPES,
    OMITTED_CALLS,
    OMITTED_CLASSES,
    MalformedFileError,
    Omitted,
    UnsafeFileError,
)
from rmrkd_cli.checkpoints.safety.plain_data import find_unsafe_data
from rmrkd_cli.errors import RmrkdError, summarize_error
from rmrkd_cli.storage.atomic import save_atomic
from rmrkd_cli.storage.folder_contents import files_to_name

RUN_KIND = "rmrkd-run"  # `meta.kind` of a distiller checkpoint
STUDENT_KIND = "rmrkd-student"  # of a plain mmsegmentation checkpoint written by rmrkd
_PREPROCESSOR = "data_preprocessor."  # of mmsegmentation 1.x: mean and std, which the config has as well
_MAX_LISTED = 6  # names in a message
_FORMATS = "give a .pth or .safetensors file; eval, compare and predict read ONNX, TorchScript and hub folders too"
# What torch raises on files that are incomplete, or no checkpoints.
_UNREADABLE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip


@dataclass
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        kind: "run" (rmrkd's own, with losses and optimizer), "released" (of the RMRKD or MGD research code, with the
            teacher inside), "plain" (mmsegmentation's format, a bare state dict, or safetensors), or "wrapped" (a
            network under another key, behind a prefix, or beside other tensors, which are left out).
        meta: The file's metadata; may be empty.
        state: All tensors, by their names in the file; for a wrapped one the network's, by their own names.
        rest: The other top-level entries (optimizer, iteration, …).
        note: Where a wrapped network was found, in words; else empty.
        place, prefix: Where the state dict is in the file, such as `["state_dict"]`, and what all its names began with.
    """

    path: Path
    kind: str
    meta: dict[str, Any]
    state: dict[str, Tensor]
    rest: dict[str, Any]
    note: str = ""
    place: str = ""
    prefix: str = ""

    @property
    def network(self) -> Mapping[str, Any] | None:
        """The description of a network of another library than mmsegmentation; see `networks.libraries`."""
        network = self.meta.get("network")
        return network if isinstance(network, Mapping) else None

    def student(self) -> dict[str, Tensor]:
        """Return the student's tensors under its library's names; for a file without a distiller, all tensors."""
        if self.kind in ("plain", "wrapped"):
            return self.state
        own = {key[len("student.") :]: value for key, value in self.state.items() if key.startswith("student.")}
        return own if self.network is not None else strip_common_prefix(own)[0]


def read_checkpoint(path: str | Path, *, lazy: bool = False, verified: bool = False) -> Checkpoint:
    """Read a checkpoint of any kind onto the CPU without running code from it.

    Args:
        lazy: Map the file into memory, and read a tensor when it is used. The file must not change meanwhile.
        verified: The caller has compared the digest of rmrkd's own files already.

    Raises:
        RmrkdError: The file is missing, damaged or not a checkpoint, holds more than tensors and plain data, asks for
            more memory than it has bytes, or holds no tensors.
    """
    path = Path(path)
    _check_exists(path)
    if path.stat().st_size == 0:
        raise RmrkdError(f"`{path}` is not a readable checkpoint: it is empty (0 bytes)", "copy or download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _check_torch_file(path)
    if not verified and (damage := digest.find_damage(path)):
        raise RmrkdError(f"`{path}` is damaged: {damage}", "use another copy, or another checkpoint of the same run")
    raw = _load_torch(path, lazy=lazy)
    _check_plain(raw, path)
    if not isinstance(raw, Mapping):
        raise RmrkdError(f"`{path}` contains a {type(raw).__name__}, expected a mapping", _FORMATS)
    if not isinstance(raw.get("state_dict", raw), Mapping):
        kind = type(raw["state_dict"]).__name__
        raise RmrkdError(f"`{path}` has a `state_dict` that is a {kind}, expected a mapping", _FORMATS)
    found = find_state(raw, path)
    others = {str(key): value for key, value in raw.items() if key not in ("state_dict", "meta")}
    rest = others if found.place else {key: value for key, value in others.items() if not isinstance(value, Tensor)}
    return _checkpoint(path, found, found.holder.get("meta") if found.place else None, rest)


def save_torch(contents: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically with `torch.save`, and read it again to compare its digest.

    Raises:
        RunError: The file cannot be written, or is damaged when it is read again.
    """
    save_atomic(
        lambda partial: digest.save_with_digest(contents, partial),
        path,
        lambda partial: digest.find_damage(partial, required=True),
    )


def load_state_dict_checked(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    ignore: tuple[str, ...] = (),
    hint: str = "",
    partial_hint: str = "",
    partial: bool = False,
) -> str:
    """Load weights that must match the network.

    Args:
        source: File name for messages.
        ignore: Prefixes of additional keys that `state` may have.
        hint, partial_hint: For the error, see `mismatch_error`.
        partial: Load the tensors that match, and leave the others of the network unchanged.

    Returns:
        The mismatch that `partial` allowed, or "".

    Raises:
        RmrkdError: Lists missing, unexpected and mismatched keys.
    """
    own = network.state_dict()
    mismatch = key_mismatch(own, state, source, ignore)
    matching = {key: state[key] for key in own if key in state and own[key].shape == state[key].shape}
    if mismatch and (not partial or not matching):
        raise mismatch_error(mismatch, own, state, source, hint=hint, partial_hint=partial_hint)
    network.load_state_dict({**own, **matching})
    return mismatch


def key_mismatch(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, ignore: tuple[str, ...] = ()
) -> str:
    """Return the missing, unexpected and mismatched keys of weights for a network, or "" where they match."""
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own and not key.startswith(ignore)]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    if not (missing or unexpected or shapes):
        return ""
    matching = sum(key in state for key in own) - len(shapes)
    lines = [f"`{source}` does not match the network: it has {matching} of the network's {len(own)} tensors:"]
    lines += [f"  missing: {_grouped(missing)}"] if missing else []
    lines += [f"  unexpected: {_grouped(unexpected)}"] if unexpected else []
    lines += [
        f"  shape mismatch: {key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in shapes[:_MAX_LISTED]
    ]
    lines += [f"  … and {len(shapes) - _MAX_LISTED} more shape mismatches"] if len(shapes) > _MAX_LISTED else []
    return "\n".join(lines)


def _check_exists(path: Path) -> None:
    if path.is_dir():
        raise RmrkdError(f"checkpoint `{path}` is a folder, not a file", files_to_name(path) or _FORMATS)
    if path.exists() and not path.is_file():
        raise RmrkdError(f"checkpoint `{path}` is not a file")
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        listed = f"; the folder has {', '.join(siblings[:_MAX_LISTED])}" if siblings else ""
        raise RmrkdError(f"checkpoint `{path}` does not exist{listed}")


def _check_torch_file(path: Path) -> None:
    try:
        torch_archive.check_torch_file(path)
    except torch_archive.TorchScriptError as error:
        raise _not_a_checkpoint(path, *torchscript()) from error
    except torch_archive.PickledModuleError as error:
        raise RmrkdError(
            f"`{path}` contains more than tensors and plain data, and was not loaded: it is a whole pickled network "
            f"({error})",
            f"write its weights where it was made: {STATE_DICT_LINE}",
        ) from error
    except UnsafeFileError as error:
        raise RmrkdError(
            f"`{path}` contains more than tensors and plain data, and was not loaded: {error}",
            f"if it is yours, write its weights into a file of their own: {STATE_DICT_LINE}; else ask its author",
        ) from error
    except (MalformedFileError, OSError) as error:
        if known := describe_format(path):
            raise _not_a_checkpoint(path, *known) from error
        raise RmrkdError(f"`{path}` is not a readable checkpoint: {error}", _FORMATS) from error


def _not_a_checkpoint(path: Path, what: str, hint: str) -> RmrkdError:
    return RmrkdError(f"`{path}` is not a readable checkpoint: it is {what}", hint)


def _load_torch(path: Path, *, lazy: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_known_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch guesses the pickle protocol of files that may be no pickle
            mmap = lazy and zipfile.is_zipfile(path)  # torch cannot map the format before 1.6
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _UNREADABLE as error:
        raise RmrkdError(f"`{path}` is not a readable checkpoint: {summarize_error(error)}", _FORMATS) from error


def _checkpoint(path: Path, found: NetworkState, meta: object, rest: dict[str, Any]) -> Checkpoint:
    metadata = in_mmseg_form(dict(meta), rest) if isinstance(meta, Mapping) else {}
    if metadata.get("kind") == RUN_KIND:
        kind = "run"
    elif any(key.startswith(("student.", "teacher.")) for key in found.tensors):
        kind = "released"
    else:
        kind = "wrapped" if found.is_wrapped else "plain"
    note = found.note if kind == "wrapped" else ""
    tensors = {key: value for key, value in found.tensors.items() if not key.startswith(_PREPROCESSOR)}
    return Checkpoint(path, kind, metadata, tensors, rest, note, found.place, found.prefix)


def _known_globals() -> list[Any]:
    """Return what stands for the names in `placeholders` that torch does not allow by itself.

    An omitted object is replaced by an `Omitted`, so that no class of another library is needed.
    """
    import numpy as np
    from numpy._core.multiarray import _reconstruct, scalar

    dtypes = [type(np.dtype(name)) for name in NUMPY_DTYPES]
    before_numpy_2 = [(function, f"numpy.core.multiarray.{function.__name__}") for function in (scalar, _reconstruct)]
    omitted = [(Omitted, name) for name in (*OMITTED_CLASSES, *OMITTED_CALLS)]
    return [Omitted, *omitted, *before_numpy_2, scalar, _reconstruct, np.dtype, np.ndarray, *dtypes]


def _check_plain(contents: Any, path: Path) -> None:
    if problem := find_unsafe_data(contents):
        raise RmrkdError(
            f"`{path}` contains more than tensors and plain data: {problem}",
            "ask the author for a file with only the state dict",
        )


def _read_safetensors(path: Path) -> Checkpoint:
    import json

    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if header > torch_archive.MAX_HEADER_BYTES or path.stat().st_size > torch_archive.MAX_BYTES:
            raise ValueError(f"its header claims {header:,} bytes, the file has {path.stat().st_size:,}")
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            own = json.loads((file.metadata() or {}).get("rmrkd", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        if zipfile.is_zipfile(path):
            raise _not_a_checkpoint(
                path, "an archive, as torch.save writes it", "rename it so that it ends in .pth"
            ) from error
        raise RmrkdError(f"`{path}` is not a readable safetensors file: {error}") from error
    beside = read_hub_metadata(path)
    meta = own if beside is None else beside
    _check_plain(meta, path)
    described = isinstance(meta, Mapping) and isinstance(meta.get("network"), Mapping)
    contents = {"meta": meta, "state_dict": tensors} if described else tensors  # then the names are the network's
    return _checkpoint(path, find_state(contents, path), meta, {})


def _grouped(keys: list[str]) -> str:
    counts = Counter(".".join(key.split(".")[:2]) for key in keys)
    shown = [f"{group} ({count})" for group, count in counts.most_common(_MAX_LISTED)]
    return ", ".join(shown) + (f", … {len(counts) - _MAX_LISTED} groups more" if len(counts) > _MAX_LISTED else "")
