"""Losses of one's own: a class in a Python file, which runs only where the command line names the file."""

from __future__ import annotations

import hashlib
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmrkd_cli.errors import RmrkdError, RunError, did_you_mean
from rmrkd_cli.presets.loss_schema import code_file, is_code
from rmrkd_cli.presets.schema import Preset

_MOST_BYTES = 1 << 20
_TRACED = 3  # of the user's own lines, in a message
_SHAPES = "it is given maps (B, C, H, W) of student and teacher, and labels (B, 1, Hi, Wi)"


def check_named(preset: Preset, allowed: Sequence[str]) -> None:
    """Raises RmrkdError for a loss whose file the command line does not name, without looking into the file."""
    for name, spec in preset.losses.items():
        if is_code(spec.type) and not _is_named(spec.type, allowed):
            file = code_file(spec.type)
            raise RmrkdError(
                f"loss `{name}` is code in `{file}`, which runs only where the command names that file",
                f"read it, and add --code {file}",
            )


def hashes(preset: Preset, allowed: Sequence[str]) -> dict[str, str]:
    """File → SHA-256 of the code a preset's losses are made of."""
    check_named(preset, allowed)
    files = {code_file(spec.type) for spec in preset.losses.values() if is_code(spec.type)}
    return {file: hashlib.sha256(_text(file)).hexdigest() for file in sorted(files)}


def check_same_code(meta: Mapping[str, Any], now: Mapping[str, str], run: Path) -> None:
    """Raises RmrkdError where a run was trained with other code than its losses are made of now.

    Args:
        meta: Of one of its checkpoints.
        now: As from `hashes`.
    """
    sources = meta.get("sources")
    before = sources.get("code") if isinstance(sources, dict) else None
    if (before or {}) != dict(now):
        raise RmrkdError(
            f"`{run}` was trained with other code: {_told_code(before)} there, {_told_code(now)} now",
            "give the same file, or --fresh to start again",
        )


def _told_code(files: object) -> str:
    if not isinstance(files, Mapping) or not files:
        return "none"
    return ", ".join(f"`{file}` {str(digest)[:12]}…" for file, digest in files.items())


def load_class(kind: str, allowed: Sequence[str]) -> type[nn.Module]:
    """The class that `path/to/file.py:Class` names; runs the file.

    Args:
        allowed: The files that the command line names; others do not run.

    Raises:
        RmrkdError: When the file may not run, cannot be run, or holds no such `nn.Module`.
    """
    file, _, name = kind.rpartition(":")
    if not _is_named(kind, allowed):
        raise RmrkdError(f"`{file}` runs only where the command names it", f"read it, and add --code {file}")
    module = _run(file)
    made = vars(module).get(name)
    known = [key for key, value in vars(module).items() if _is_module(value) and value.__module__ == module.__name__]
    if made is None:
        raise RmrkdError(f"`{file}` holds no class `{name}`, {did_you_mean(name, known)}", f"--method {file}:CLASS")
    if not _is_module(made):
        raise RmrkdError(f"`{name}` in `{file}` must be a class derived from `torch.nn.Module`")
    return made  # type: ignore[no-any-return]


def _run(file: str) -> types.ModuleType:
    text, path = _text(file), str(Path(file).resolve())
    name = f"rmrkd_own_{hashlib.sha256(path.encode() + text).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # where pickles and dataclasses look
    try:
        exec(compile(text, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RmrkdError(f"`{file}` cannot be run: {told(error, file)}") from error
    return module


def guarded(loss: nn.Module, file: str) -> nn.Module:
    """The same loss, whose errors are told by the file's lines."""
    forward = loss.forward

    def run(*inputs: Any) -> Any:
        before = _versions(inputs)
        try:
            value = forward(*inputs)
        except torch.OutOfMemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise RunError(f"`{file}` failed: {told(error, file)}", f"mend it, or leave it out: {_SHAPES}") from error
        if _versions(inputs) != before:
            raise RunError(f"`{file}` changes its inputs in place, which the networks and other losses need", _SHAPES)
        return value

    loss.forward = run
    return loss


def _versions(inputs: Sequence[Any]) -> list[int]:
    """How often each tensor was written to."""
    tensors = [part for each in inputs for part in (each if isinstance(each, tuple) else (each,))]
    return [tensor._version for tensor in tensors]


def told(error: BaseException, file: str) -> str:
    """An error in a user's file in one line, with the line it comes from."""
    path = str(Path(file).resolve())
    lines = [str(frame.lineno) for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines = [str(error.lineno)]
    where = f" (line {', '.join(lines[-_TRACED:])})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def _text(file: str) -> bytes:
    path = Path(file)
    if not path.is_file():
        raise RmrkdError(f"`{file}` does not exist, or is no file", "its path is taken from the working directory")
    with path.open("rb") as stream:
        text = stream.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise RmrkdError(f"`{file}` has more than {_MOST_BYTES} bytes, which no loss needs")
    return text


def _is_named(kind: str, allowed: Sequence[str]) -> bool:
    file = Path(code_file(kind)).resolve()
    return any(Path(named).resolve() == file for named in allowed)


def _is_module(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
