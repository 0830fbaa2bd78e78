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
from rmrkd_cli.presets.schema import OWN_METHOD, Preset
from rmrkd_cli.results.record import read_record
from rmrkd_cli.results.training_log import to_line
from rmrkd_cli.storage.atomic import cannot_write, write_text
from rmrkd_cli.training.extension import reaches
from rmrkd_cli.training.run_settings import check_same_settings


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
        if not self.config.is_file():
            raise RmrkdError(
                f"`{self.path}` is not a run directory: it is not empty and has no `config.yaml`",
                "use another directory with --work-dir DIR",
            )
        check_same_settings(self.config, preset, force=force, tensor_names=self.checkpoints.tensor_names)

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
