"""The directory of one run: configuration, log, checkpoints and results."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rmrkd_cli.checkpoints.run_checkpoints import RunCheckpoints
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import to_yaml
from rmrkd_cli.presets.safe_yaml import parse_yaml, read_yaml
from rmrkd_cli.presets.schema import OWN_METHOD, Preset
from rmrkd_cli.results.record import read_record
from rmrkd_cli.results.training_log import to_line
from rmrkd_cli.storage.atomic import cannot_write, write_text
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.training.extension import LENGTH_KEYS, is_extension, reaches, saved_schedule

# Keys that may differ when a run is resumed.
_MAY_CHANGE = (
    "title", "paper", "data.cache", "teacher.min_miou",
    *(f"schedule.{key}" for key in ("workers", "keep", "checkpoint_interval", "log_interval")),
    "schedule.skip_nonfinite", "schedule.skip_corrupt",
)  # fmt: skip
_MAY_CHANGE_WITH_FORCE = ("schedule.batch_size", "schedule.accumulate")

# Role → keys that it does not use.
_NOT_USED_BY = {
    "teacher": ("student.", "losses", "method", "schedule.time_budget"),
    "baseline": ("teacher.", "losses", "method"),
    "distill": ("teacher.schedule",),
}


def run_path(work_dir: Path, role: str, method: str) -> Path:
    """Return `<work_dir>/<role>`; for a distillation with another method than the preset's, `<role>-<method>`."""
    named = role == "distill" and method != OWN_METHOD
    return work_dir / (f"{role}-{method}" if named else role)


class RunDir:
    """The files of one run. Only rank 0 writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "log.jsonl"
        self.student = path / "student.pth"
        self.result = path / "result.json"
        self.checkpoints = RunCheckpoints(path)

    @property
    def finished(self) -> bool:
        return self.student.is_file() and self.result.is_file()

    def is_finished(self, preset: Preset) -> bool:
        """Return whether the run is finished and as long as the preset says; a shorter one can be trained further.

        Raises:
            RmrkdError: When the result cannot be read.
        """
        if not self.finished:
            return False
        return reaches(read_record(self.result).get("training") or {}, preset.schedule_for(preset.role))

    @property
    def contains_run(self) -> bool:
        """Whether the directory contains more than a `config.yaml`, which a run that never started leaves."""
        if not self.path.is_dir():
            return False
        return any(file.name != self.config.name and not file.name.startswith(".") for file in self.path.iterdir())

    def check_usable(self, preset: Preset, *, resume: bool, fresh: bool, force: bool = False) -> None:
        """Check that a run of `preset` may use the directory; change nothing.

        Args:
            force: The batch size and the number of passes may differ.

        Raises:
            RmrkdError: When the directory contains a run and neither `resume` nor `fresh` is set, or when the run to
                resume has other settings.
        """
        if not self.contains_run or fresh:
            return
        if not resume:
            state = "a finished run" if self.finished else "an unfinished run"
            raise RmrkdError(
                f"`{self.path}` contains {state}, which is not overwritten",
                "--resume continues it, --fresh starts over and renames the existing directory, --work-dir DIR selects "
                "another directory",
            )
        self._check_same_settings(preset, _MAY_CHANGE + (_MAY_CHANGE_WITH_FORCE if force else ()))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory against other commands until this process ends.

        The lock file lies beside the directory, because `--fresh` renames the directory.

        Raises:
            RmrkdError: When another process holds the lock, or the lock file cannot be created.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._creation_error(error) from error
        try:
            self._acquire(lock)
            yield
        finally:
            os.close(lock)

    def _acquire(self, lock: int) -> None:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # belongs to this process; children do not inherit it
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except (BlockingIOError, PermissionError):
            holder = os.pread(lock, 1000, 0).decode("utf-8", "replace") or "another process"
            raise RmrkdError(
                f"`{self.path}` is in use by {holder}",
                "wait until it ends, or stop it with SIGTERM (it saves its state), or use another --work-dir",
            ) from None
        except OSError:
            return  # the file system has no locks or is full; training works without the lock

    def create(self, preset: Preset, *, fresh: bool) -> None:
        """Create the directory and write `config.yaml`; with `fresh` rename an existing run. Call `check_usable` first.

        Raises:
            RmrkdError: When the directory cannot be created.
        """
        try:
            if self.contains_run and fresh:
                self.path.rename(self._next_free_name())
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._creation_error(error) from error
        write_text(to_yaml(preset, f"rmrkd train --preset {self.config} --work-dir DIR"), self.config)

    def _creation_error(self, error: OSError) -> RmrkdError:
        return RmrkdError(f"cannot create the run directory `{self.path}`: {error.strerror}", "--work-dir DIR")

    def append_log(self, line: Mapping[str, Any]) -> None:
        """Append a line to `log.jsonl`; remove it again if it cannot be written completely.

        Raises:
            RunError: When it cannot be written.
        """
        before: int | None = None
        try:
            with self.log.open("a", encoding="utf-8") as stream:
                before = os.fstat(stream.fileno()).st_size
                stream.write(to_line(line))
        except OSError as error:
            if before is not None:
                with suppress(OSError):  # the first error is the cause
                    os.truncate(self.log, before)
            raise cannot_write(self.log, error) from error

    def sync_log(self) -> None:
        """Sync the log to the disk; call it before a checkpoint, which stores the number of its lines."""
        if self.log.is_file():
            with self.log.open("rb") as stream:
                os.fsync(stream.fileno())

    def truncate_log(self, lines: int) -> int:
        """Remove the lines that were logged after the checkpoint to resume from.

        Args:
            lines: Number of lines when the checkpoint was written.

        Returns:
            Number of lines now; smaller than `lines` if somebody removed lines.
        """
        if not self.log.is_file():
            return 0
        text = self.log.read_text(encoding="utf-8", errors="replace")
        remaining = text.splitlines(keepends=True)[:lines]
        if remaining and not remaining[-1].endswith("\n"):
            remaining.pop()  # incomplete, because the process was killed
        if "".join(remaining) != text:
            write_text("".join(remaining), self.log)
        return len(remaining)

    def _next_free_name(self) -> Path:
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.old{number}")).exists():
            number += 1
        return target

    def _check_same_settings(self, preset: Preset, may_change: tuple[str, ...]) -> None:
        """Raise RmrkdError if `config.yaml` differs from `preset`, except in the keys `may_change`."""
        if not self.config.is_file():
            raise RmrkdError(
                f"`{self.path}` is not a run directory: it is not empty and has no `config.yaml`",
                "use another directory with --work-dir DIR",
            )
        try:
            contents = read_yaml(self.config, "configuration")
        except RmrkdError as error:
            raise RmrkdError(error.message, "--fresh, or --work-dir DIR") from error
        before, now = _flatten(contents), _flatten(parse_yaml(to_yaml(preset), "preset"))
        ignored = may_change + _NOT_USED_BY.get(preset.role, ())
        schedule = saved_schedule(contents, preset.role)
        if schedule is not None and is_extension(schedule, preset.schedule_for(preset.role)):
            ignored += LENGTH_KEYS
        changed = [
            key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and not key.startswith(ignored)
        ]
        changed.sort(key=lambda key: (key.count("."), key))  # the most general first
        if changed:
            lines = [
                f"  {_shorten(key)}: {_shorten(before.get(key))} in the run, {_shorten(now.get(key))} now"
                for key in changed[:10]
            ]
            shorter = any(key in LENGTH_KEYS for key in changed)
            raise RmrkdError(
                f"`{self.path}` contains a run with other settings:\n" + "\n".join(lines),
                (
                    "a run can be trained further, with a larger --max-iters, but not be made shorter; "
                    if shorter
                    else ""
                )
                + "repeat its settings, or use --fresh or --work-dir DIR"
                + (", or --force to resume anyway" if set(changed) <= set(_MAY_CHANGE_WITH_FORCE) else ""),
            )


def _shorten(value: Any) -> str:
    text = escape_control(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key → value of nested mappings."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
