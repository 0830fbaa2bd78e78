"""Python files of the user, which run only if the command line names them with `--code FILE`."""

from __future__ import annotations

import hashlib
import sys
import traceback
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.presets.network_schema import Network
    from rmrkd_cli.presets.schema import Preset

_MAX_BYTES = 1 << 20
_MAX_LINES = 3  # line numbers of the user's file in a message
_run_code: dict[str, str] = {}  # path → SHA-256 of the text that was run last
_allowed: list[str] = []


def allow_files(files: Iterable[str]) -> None:
    """Let networks run these files, those that the command line of this process names, and no others."""
    _allowed[:] = files


def allowed_files() -> tuple[str, ...]:
    """Return the files that networks may run."""
    return tuple(_allowed)


def network_files(preset: Preset, role: str) -> list[str]:
    """Return the files that build the networks of a role; stored outputs take the place of a teacher."""
    networks: list[Network] = [preset.teacher if role == "teacher" else preset.student]
    if role == "distill" and preset.teacher.outputs is None:
        networks.append(preset.teacher)
    return sorted({str(each.name).rpartition(":")[0] for each in networks if each.library == "python"})


def is_named(file: str, allowed: Sequence[str]) -> bool:
    """Return whether the command line names a file, by any path that leads to it."""
    path = Path(file).resolve()
    return any(Path(named).resolve() == path for named in allowed)


def hashes(files: Iterable[str]) -> dict[str, str]:
    """Return file → SHA-256 of its text.

    Raises:
        RmrkdError: A file does not exist or is too large.
    """
    return {file: hashlib.sha256(read_code(file)).hexdigest() for file in files}


def hashes_of_run_code(files: Iterable[str]) -> dict[str, str]:
    """Return what `hashes` returns, of the text that `run_code` ran; the files are not read again."""
    return {file: _run_code[str(Path(file).resolve())] for file in files}


def check_same_code(meta: Mapping[str, Any], now: Mapping[str, str], run: Path) -> None:
    """Raise RmrkdError where a run was trained with other code than its losses and networks have now.

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


def run_code(file: str) -> types.ModuleType:
    """Run a file, or return the module of an earlier run of the same text.

    The caller has checked that the command line names the file.

    Raises:
        RmrkdError: The file cannot be read, or it fails.
    """
    text, path = read_code(file), str(Path(file).resolve())
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


def error_summary(error: BaseException, file: str) -> str:
    """Return an error in the user's file as one line of text, with the line numbers it comes from."""
    path = str(Path(file).resolve())
    lines = [str(frame.lineno) for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines = [str(error.lineno)]
    where = f" (line {', '.join(lines[-_MAX_LINES:])})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def read_code(file: str) -> bytes:
    """Return the text of a file.

    Raises:
        RmrkdError: It does not exist or is too large.
    """
    path = Path(file)
    if not path.is_file():
        raise RmrkdError(f"`{file}` does not exist or is not a file", "the path is relative to the working directory")
    with path.open("rb") as stream:
        text = stream.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise RmrkdError(f"`{file}` is larger than {_MAX_BYTES} bytes, the most a Python file may have")
    return text
