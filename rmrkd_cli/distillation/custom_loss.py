"""Custom losses: a class in the user's Python file, which runs only if the command line names the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rmrkd_cli.errors import RmrkdError, RunError, did_you_mean
from rmrkd_cli.presets import user_code
from rmrkd_cli.presets.loss_schema import custom_loss_file, is_custom_loss
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.presets.user_code import error_summary as error_summary

_INPUTS = "a loss gets maps (B, C, H, W) of student and teacher, and labels (B, 1, Hi, Wi)"


def check_named(preset: Preset, allowed: Sequence[str]) -> None:
    """Raise RmrkdError for a loss whose file the command line does not name. The file is not read."""
    for name, spec in preset.losses.items():
        if is_custom_loss(spec.type) and not user_code.is_named(custom_loss_file(spec.type), allowed):
            file = custom_loss_file(spec.type)
            raise RmrkdError(
                f"loss `{name}` is Python code in `{file}`, which runs only if the command line names that file",
                f"check the file, then add --code {file}",
            )


def hashes(preset: Preset, allowed: Sequence[str]) -> dict[str, str]:
    """Return file → SHA-256 of the files that a preset's custom losses come from."""
    check_named(preset, allowed)
    return user_code.hashes(_files(preset))


def code_that_ran(preset: Preset, role: str) -> dict[str, dict[str, str]]:
    """Return `code`: the SHA-256 of each file that built a network or loss of a role; empty without such files.

    It is that of the text that ran; the files are not read again.
    """
    files = user_code.network_files(preset, role) + (_files(preset) if role == "distill" else [])
    hashes = user_code.hashes_of_run_code(files)
    return {"code": hashes} if hashes else {}


def _files(preset: Preset) -> list[str]:
    return sorted({custom_loss_file(spec.type) for spec in preset.losses.values() if is_custom_loss(spec.type)})


def load_class(kind: str, allowed: Sequence[str]) -> type[nn.Module]:
    """Run a file and return its class, for `path/to/file.py:Class`.

    Args:
        kind: `path/to/file.py:Class`.
        allowed: The files that the command line names; others do not run.

    Raises:
        RmrkdError: When the file may not run, fails, or has no such subclass of `nn.Module`.
    """
    file, _, name = kind.rpartition(":")
    if not user_code.is_named(file, allowed):
        raise RmrkdError(f"`{file}` runs only if the command line names it", f"check the file, then add --code {file}")
    module = user_code.run_code(file)
    cls = vars(module).get(name)
    known = [key for key, value in vars(module).items() if _is_module(value) and value.__module__ == module.__name__]
    if cls is None:
        raise RmrkdError(f"`{file}` has no class `{name}`, {did_you_mean(name, known)}", f"--method {file}:CLASS")
    if not _is_module(cls):
        raise RmrkdError(f"`{name}` in `{file}` must be a subclass of `torch.nn.Module`")
    return cls  # type: ignore[no-any-return]


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


def _is_module(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
