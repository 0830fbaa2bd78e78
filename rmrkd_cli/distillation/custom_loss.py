"""Custom losses: a class in the user's Python file, which runs only if the command line names the file."""

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
from rmrkd_cli.presets.loss_schema import custom_loss_file, is_custom_loss
from rmrkd_cli.presets.schema import Preset

_MAX_BYTES = 1 << 20
_MAX_LINES = 3  # line numbers of the user's file in a message
_run_code: dict[str, str] = {}  # path → SHA-256 of the text that was run last
_INPUTS = "a loss gets maps (B, C, H, W) of student and teacher, and labels (B, 1, Hi, Wi)"


def check_named(preset: Preset, allowed: Sequence[str]) -> None:
    """Raise RmrkdError for a loss whose file the command line does not name. The file is not read."""
    for name, spec in preset.losses.items():
        if is_custom_loss(spec.type) and not _is_named(spec.type, allowed):
            file = custom_loss_file(spec.type)
            raise RmrkdError(
                f"loss `{name}` is Python code in `{file}`, which runs only if the command line names that file",
                f"check the file, then add --code {file}",
            )


def hashes(preset: Preset, allowed: Sequence[str]) -> dict[str, str]:
    """Return file → SHA-256 of the files that a preset's custom losses come from."""
    check_named(preset, allowed)
    return {file: hashlib.sha256(_read(file)).hexdigest() for file in _files(preset)}


def hashes_of_run_code(preset: Preset) -> dict[str, str]:
    """Return what `hashes` returns, of the text that `load_class` ran; the files are not read again."""
    return {file: _run_code[str(Path(file).resolve())] for file in _files(preset)}


def _files(preset: Preset) -> list[str]:
    return sorted({custom_loss_file(spec.type) for spec in preset.losses.values() if is_custom_loss(spec.type)})


def check_same_code(meta: Mapping[str, Any], now: Mapping[str, str], run: Path) -> None:
    """Raise RmrkdError where a run was trained with other code than its losses have now.

    Args:
        meta: `meta` of one of the run's checkpoints.
        now: What `hashes` returns now.
        run: The run directory, for the message.
    """
    sources = meta.get("sources")
    before = sources.get("code") if isinstance(sources, dict) else None
    if (before or {}) != dict(now):
        raise RmrkdError(
            f"`{run}` was trained with other code: {_format_hashes(before)} then, {_format_hashes(now)} now",
            "give the same file, or --fresh to start over",
        )


def _format_hashes(files: object) -> str:
    if not isinstance(files, Mapping) or not files:
        return "none"
    return ", ".join(f"`{file}` {str(digest)[:12]}…" for file, digest in files.items())


def load_class(kind: str, allowed: Sequence[str]) -> type[nn.Module]:
    """Run a file and return its class, for `path/to/file.py:Class`.

    Args:
        kind: `path/to/file.py:Class`.
        allowed: The files that the command line names; others do not run.

    Raises:
        RmrkdError: When the file may not run, fails, or has no such subclass of `nn.Module`.
    """
    file, _, name = kind.rpartition(":")
    if not _is_named(kind, allowed):
        raise RmrkdError(f"`{file}` runs only if the command line names it", f"check the file, then add --code {file}")
    module = _run(file)
    cls = vars(module).get(name)
    known = [key for key, value in vars(module).items() if _is_module(value) and value.__module__ == module.__name__]
    if cls is None:
        raise RmrkdError(f"`{file}` has no class `{name}`, {did_you_mean(name, known)}", f"--method {file}:CLASS")
    if not _is_module(cls):
        raise RmrkdError(f"`{name}` in `{file}` must be a subclass of `torch.nn.Module`")
    return cls  # type: ignore[no-any-return]


def _run(file: str) -> types.ModuleType:
    text, path = _read(file), str(Path(file).resolve())
    _run_code[path] = hashlib.sha256(text).hexdigest()
    name = f"rmrkd_own_{hashlib.sha256(path.encode() + text).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # pickle and dataclasses look it up there
    try:
        exec(compile(text, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RmrkdError(f"`{file}` cannot be run: {error_summary(error, file)}") from error
    return module


def wrap_errors(loss: nn.Module, file: str) -> nn.Module:
    """Return the same loss, whose `forward` reports errors with the lines of the user's file."""
    forward = loss.forward

    def run(*inputs: Any) -> Any:
        before = _tensor_versions(inputs)
        try:
            value = forward(*inputs)
        except torch.OutOfMemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise RunError(f"`{file}` failed: {error_summary(error, file)}", f"fix the file: {_INPUTS}") from error
        if _tensor_versions(inputs) != before:
            raise RunError(f"`{file}` changes its inputs in place, but other losses need them unchanged", _INPUTS)
        return value

    loss.forward = run
    return loss


def _tensor_versions(inputs: Sequence[Any]) -> list[int]:
    """Return how often each tensor was written to."""
    tensors = [part for each in inputs for part in (each if isinstance(each, tuple) else (each,))]
    return [tensor._version for tensor in tensors]


def error_summary(error: BaseException, file: str) -> str:
    """Return an error in the user's file as one line of text, with the line numbers it comes from."""
    path = str(Path(file).resolve())
    lines = [str(frame.lineno) for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines = [str(error.lineno)]
    where = f" (line {', '.join(lines[-_MAX_LINES:])})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def _read(file: str) -> bytes:
    path = Path(file)
    if not path.is_file():
        raise RmrkdError(f"`{file}` does not exist or is not a file", "the path is relative to the working directory")
    with path.open("rb") as stream:
        text = stream.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise RmrkdError(f"`{file}` is larger than {_MAX_BYTES} bytes, the most a loss file may have")
    return text


def _is_named(kind: str, allowed: Sequence[str]) -> bool:
    file = Path(custom_loss_file(kind)).resolve()
    return any(Path(named).resolve() == file for named in allowed)


def _is_module(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
