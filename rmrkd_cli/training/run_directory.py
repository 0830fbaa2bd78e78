"""A run's directory: its configuration, log, checkpoints and results, and whether it may be used."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rmrkd_cli.checkpoints.run_checkpoints import RunCheckpoints
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import to_yaml
from rmrkd_cli.presets.safe_yaml import parse_yaml, read_yaml
from rmrkd_cli.presets.schema import OWN_METHOD, Preset
from rmrkd_cli.storage.atomic import cannot_write, write_text
from rmrkd_cli.terminal.sanitize import escape_control

# between a run and its resumption
_MAY_CHANGE = (
    "title", "paper", "data.cache", "teacher.min_miou",
    *(f"schedule.{key}" for key in ("workers", "keep", "checkpoint_interval", "log_interval")),
    "schedule.skip_nonfinite", "schedule.skip_corrupt",
)  # fmt: skip
_WITH_FORCE = ("schedule.batch_size", "schedule.accumulate")

_NOT_USED_BY = {
    "teacher": ("student.", "losses", "method", "schedule.time_budget"),
    "baseline": ("teacher.", "losses", "method"),
}


def run_path(work_dir: Path, role: str, method: str) -> Path:
    """`<work dir>/<role>`, with the method's name where it is not the preset's own."""
    named = role == "distill" and method != OWN_METHOD
    return work_dir / (f"{role}-{method}" if named else role)


class RunDir:
    """Files of one run; only the first worker writes."""

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

    @property
    def used(self) -> bool:
        """Whether anything was trained here; a run that never began leaves its configuration alone."""
        if not self.path.is_dir():
            return False
        return any(file.name != self.config.name and not file.name.startswith(".") for file in self.path.iterdir())

    def check(self, preset: Preset, *, resume: bool, fresh: bool, force: bool = False) -> None:
        """Whether a run of `preset` may use the directory; changes nothing.

        Args:
            force: The number of images a step may differ.

        Raises:
            RmrkdError: When it holds a run and neither `--resume` nor `--fresh` was given, or another run than
                the one to resume.
        """
        if not self.used or fresh:
            return
        if not resume:
            state = "a finished run" if self.finished else "a run that did not finish"
            raise RmrkdError(
                f"`{self.path}` holds {state}, and nothing is overwritten",
                "--resume goes on with it, --fresh moves it aside, --work-dir DIR chooses another place",
            )
        self._check_same(preset, _MAY_CHANGE + (_WITH_FORCE if force else ()))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other commands out for as long as this process lives, however it ends.

        The lock lies beside the directory, which may be moved aside.

        Raises:
            RmrkdError: When another process holds it, or there can be no file beside it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._cannot_make(error) from error
        try:
            self._lock(lock)
            yield
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: its children do not inherit it
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except (BlockingIOError, PermissionError):
            holder = os.pread(lock, 1000, 0).decode("utf-8", "replace") or "another process"
            raise RmrkdError(
                f"`{self.path}` is in use by {holder}",
                "wait for it, or end it with SIGTERM: it saves its state; or --work-dir DIR",
            ) from None
        except OSError:
            return  # a file system without locks, or a full one: nothing is lost by that

    def claim(self, preset: Preset, *, fresh: bool) -> None:
        """Takes the directory for a run, after `check`; an older run is moved aside where `fresh` is set."""
        try:
            if self.used and fresh:
                self.path.rename(self._next_free_name())
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_make(error) from error
        write_text(to_yaml(preset, f"rmrkd train --preset {self.config} --work-dir DIR"), self.config)

    def _cannot_make(self, error: OSError) -> RmrkdError:
        return RmrkdError(f"cannot make the run directory `{self.path}`: {error.strerror}", "--work-dir DIR")

    def append_log(self, line: Mapping[str, Any]) -> None:
        before = self.log.stat().st_size if self.log.exists() else 0
        try:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            os.truncate(self.log, before)  # no half line
            raise cannot_write(self.log, error) from error

    def sync_log(self) -> None:
        """Before a checkpoint that counts the log's lines they must be on the disk as surely as it will be."""
        if self.log.is_file():
            with self.log.open("rb") as stream:
                os.fsync(stream.fileno())

    def cut_log(self, lines: int) -> int:
        """Forgets what was logged after the checkpoint a run is resumed from: it will be logged again.

        Args:
            lines: How many the log had when the checkpoint was written.

        Returns:
            How many it has now: fewer, where somebody removed some.
        """
        if not self.log.is_file():
            return 0
        text = self.log.read_text(encoding="utf-8", errors="replace")
        kept = text.splitlines(keepends=True)[:lines]
        if kept and not kept[-1].endswith("\n"):
            kept.pop()  # cut by a kill
        if "".join(kept) != text:
            write_text("".join(kept), self.log)
        return len(kept)

    def _next_free_name(self) -> Path:
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.old{number}")).exists():
            number += 1
        return target

    def _check_same(self, preset: Preset, may_change: tuple[str, ...]) -> None:
        if not self.config.is_file():
            raise RmrkdError(
                f"`{self.path}` is not empty and holds no `config.yaml`, so it is not a run",
                "choose another place with --work-dir DIR",
            )
        try:
            before = _flat(read_yaml(self.config, "configuration"))
        except RmrkdError as error:
            raise RmrkdError(error.message, "--fresh, or --work-dir DIR") from error
        now = _flat(parse_yaml(to_yaml(preset), "preset"))
        ignored = may_change + _NOT_USED_BY.get(preset.role, ())
        changed = [
            key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and not key.startswith(ignored)
        ]
        changed.sort(key=lambda key: (key.count("."), key))  # the most general first
        if changed:
            lines = [
                f"  {_short(key)}: {_short(before.get(key))} there, {_short(now.get(key))} now" for key in changed[:10]
            ]
            raise RmrkdError(
                f"`{self.path}` holds another run:\n" + "\n".join(lines),
                "repeat its settings, or choose --fresh or --work-dir DIR"
                + (", or --force to go on all the same" if set(changed) <= set(_WITH_FORCE) else ""),
            )


def _short(value: Any) -> str:
    text = escape_control(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
