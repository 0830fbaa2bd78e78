"""Checkpoint files: read safely, written whole, and the student taken out of them."""

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
from rmrkd_cli.checkpoints.safety import torch_archive
from rmrkd_cli.checkpoints.safety.pickle_scan import NUMPY_KINDS, Malformed, Refused
from rmrkd_cli.checkpoints.safety.plain_data import why_not_plain
from rmrkd_cli.errors import RmrkdError, first_line
from rmrkd_cli.storage.atomic import save_atomic

RUN_KIND = "rmrkd-run"  # `meta.kind` of a distiller checkpoint
STUDENT_KIND = "rmrkd-student"  # of a plain mmsegmentation checkpoint written by rmrkd
_SHOWN = 6
_FORMATS = "a file written by torch.save (.pth), or .safetensors"
# What torch's reader raises on files that are no checkpoints, or cut ones.
_UNREADABLE = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip


@dataclass
class Checkpoint:
    """A file's contents, whatever wrote it.

    Attributes:
        kind: "run" (ours, with losses and optimizer), "released" (the RMRKD or MGD research code, teacher inside),
            or "plain" (mmsegmentation's own form, a bare state dict, or safetensors).
        meta: What the file says of itself; may be empty.
        state: All tensors by their names in the file.
        rest: The other top-level entries (optimizer, iteration, …).
    """

    path: Path
    kind: str
    meta: dict[str, Any]
    state: dict[str, Tensor]
    rest: dict[str, Any]

    def student(self) -> dict[str, Tensor]:
        """The student's tensors under mmsegmentation's own names."""
        if self.kind == "plain":
            return self.state
        return {key[len("student.") :]: value for key, value in self.state.items() if key.startswith("student.")}


def read_checkpoint(path: str | Path, *, lazy: bool = False, verified: bool = False) -> Checkpoint:
    """Reads a checkpoint of any kind onto the CPU; nothing in it can run.

    Args:
        lazy: Tensors are read when they are used, so that those that are not cost nothing; for short use, since the
            file must stay where it is.
        verified: The digest that rmrkd's own files carry was compared already.

    Raises:
        RmrkdError: When it is missing, damaged, not a checkpoint, holds anything but tensors and plain data, asks for
            more memory than it has bytes, or holds no network.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise RmrkdError(f"`{path}` is not a file, and no checkpoint")
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        there = f"; beside it: {', '.join(siblings[:_SHOWN])}" if siblings else ""
        raise RmrkdError(f"checkpoint `{path}` does not exist{there}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _inspect(path)
    if not verified and (harm := digest.damage(path)):
        raise RmrkdError(f"`{path}` is damaged: {harm}", "use another copy, or another checkpoint of the same run")
    raw = _read_torch(path, lazy=lazy)
    _check_plain(raw, path)
    if not isinstance(raw, Mapping):
        raise RmrkdError(f"`{path}` holds a {type(raw).__name__}, not a checkpoint")
    model = raw.get("model")  # as timm and others name it
    state = raw.get("state_dict", model if isinstance(model, Mapping) else raw)
    if not isinstance(state, Mapping):
        raise RmrkdError(f"`{path}` has a `state_dict` that is a {type(state).__name__}, not a mapping")
    tensors = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RmrkdError(f"`{path}` holds no tensors; its entries are {_listed(map(str, state))}")
    meta = raw.get("meta") if "state_dict" in raw else None
    rest = {str(key): value for key, value in raw.items() if key not in ("state_dict", "meta")}
    return Checkpoint(
        path, _kind(tensors, meta), dict(meta) if isinstance(meta, Mapping) else {}, tensors,
        rest if "state_dict" in raw else {},
    )  # fmt: skip


def save_torch(contents: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, whole or not at all, with a digest at the file's end by which it is read again."""

    def write(partial: Path) -> None:
        digest.save_sealed(contents, partial)

    save_atomic(write, path, lambda partial: digest.damage(partial, required=True))


def load_state_dict_checked(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    ignore: tuple[str, ...] = (),
    hint: str = "",
    partial: bool = False,
) -> str:
    """Loads weights that must cover the network entirely.

    Args:
        ignore: Beginnings of keys that `state` may hold beyond the network's.
        partial: Load what fits of weights that do not; the rest of the network stays as it is.

    Returns:
        What does not fit, where `partial` let it through; else nothing.

    Raises:
        RmrkdError: Naming missing, unexpected and differently shaped keys in groups.
    """
    own = network.state_dict()
    told = key_mismatch(own, state, source, ignore)
    fitting = {key: state[key] for key in own if key in state and own[key].shape == state[key].shape}
    if told and (not partial or not fitting):
        raise RmrkdError(told, hint if fitting else "")
    network.load_state_dict({**own, **fitting})
    return told


def key_mismatch(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, ignore: tuple[str, ...] = ()
) -> str:
    """In which keys weights differ from what a network has, in groups; empty where they cover it."""
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own and not key.startswith(ignore)]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    if not (missing or unexpected or shapes):
        return ""
    fitting = sum(key in state for key in own) - len(shapes)
    lines = [f"`{source}` does not fit the network, of whose {len(own)} tensors it has {fitting}:"]
    lines += [f"  missing: {_grouped(missing)}"] if missing else []
    lines += [f"  unexpected: {_grouped(unexpected)}"] if unexpected else []
    lines += [
        f"  other shape: {key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in shapes[:_SHOWN]
    ]
    lines += [f"  … and {len(shapes) - _SHOWN} more of another shape"] if len(shapes) > _SHOWN else []
    return "\n".join(lines)


def _inspect(path: Path) -> None:
    """Before torch opens the file; afterwards it can neither run nor allocate what its size does not cover."""
    try:
        torch_archive.inspect(path)
    except Refused as error:
        raise RmrkdError(
            f"`{path}` holds more than tensors and plain data, so it was not opened: {error}",
            "a checkpoint that needs code to be read can run any program; ask its author for the state dict alone",
        ) from error
    except (Malformed, OSError) as error:
        raise RmrkdError(f"`{path}` is not a readable checkpoint: {error}", _FORMATS) from error


def _read_torch(path: Path, *, lazy: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_numpy_numbers()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch guesses at the protocol of what may be no pickle at all
            mapped = lazy and zipfile.is_zipfile(path)  # not the form that torch wrote before 1.6
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        raise RmrkdError(f"`{path}` is not a readable checkpoint: {first_line(error)}", _FORMATS) from error


def _numpy_numbers() -> list[Any]:
    """What torch's own list of harmless names lacks of ours (`inspection.pickled` has all of them, with reasons)."""
    import numpy as np
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = [type(np.dtype(kind)) for kind in NUMPY_KINDS]
    old = [(made, f"numpy.core.multiarray.{made.__name__}") for made in (scalar, _reconstruct)]
    return [*old, scalar, _reconstruct, np.dtype, np.ndarray, *kinds]


def _check_plain(contents: Any, path: Path) -> None:
    if why := why_not_plain(contents):
        raise RmrkdError(f"`{path}` holds more than tensors and plain data: {why}", "ask for the state dict alone")


def _read_safetensors(path: Path) -> Checkpoint:
    import json

    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if header > torch_archive.MOST_PICKLE_BYTES or path.stat().st_size > torch_archive.MOST_BYTES:
            raise ValueError(f"its header claims {header:,} bytes, the file has {path.stat().st_size:,}")
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            meta = json.loads((file.metadata() or {}).get("rmrkd", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RmrkdError(f"`{path}` is not a readable safetensors file: {error}") from error
    _check_plain(meta, path)
    return Checkpoint(path, _kind(tensors, meta), meta if isinstance(meta, dict) else {}, tensors, {})


def _kind(tensors: Mapping[str, Tensor], meta: object) -> str:
    if isinstance(meta, Mapping) and meta.get("kind") == RUN_KIND:
        return "run"
    return "released" if any(key.startswith(("student.", "teacher.")) for key in tensors) else "plain"


def _grouped(keys: list[str]) -> str:
    counts = Counter(".".join(key.split(".")[:2]) for key in keys)
    shown = [f"{group} ({count})" for group, count in counts.most_common(_SHOWN)]
    return ", ".join(shown) + (f", … {len(counts) - _SHOWN} groups more" if len(counts) > _SHOWN else "")


def _listed(names: Any) -> str:
    every = list(names)
    return ", ".join(f"`{name}`" for name in every[:_SHOWN]) + (" …" if len(every) > _SHOWN else "") or "none"
