"""A training of a benchmark: a command of `rmrkd` in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import OWN_METHOD
from rmrkd_cli.training.plan import Run, plan_runs

ROOT = Path(__file__).parents[1]
BASELINE, TEACHER = "baseline", "teacher"  # roles, listed like methods
Start = Callable[[list[str], Path], int]  # arguments of `rmrkd`, a file for its output; its exit status


@dataclass(frozen=True)
class Training:
    """One role or method for some seeds, trained by a separate command, so that its memory is measured alone.

    Attributes:
        name: "teacher", "baseline", or a method.
        preset: A name or a file.
        settings: `KEY.PATH=VALUE`, as `--set` takes them.
    """

    name: str
    preset: str
    folder: Path
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    device: str

    @property
    def role(self) -> str:
        return self.name if self.name in (BASELINE, TEACHER) else "distill"

    @property
    def _method(self) -> str | None:
        return self.name if self.role == "distill" and self.name != OWN_METHOD else None

    def runs(self) -> list[Run]:
        """Return one run for each seed, as the command plans them."""
        settings = [*self.settings, f"role={self.role}", f"seed={self.seeds[0]}"]
        preset = load_preset(self.preset, method=self._method, overrides=settings)
        return [run for plan in plan_runs(preset, self.folder, self.seeds) for run in plan]

    @property
    def finished(self) -> bool:
        """Whether every seed is finished.

        Raises:
            RmrkdError: The folder contains runs with other settings.
        """
        runs = self.runs()
        for run in runs:
            run.run_dir.check_usable(run.preset, resume=True, fresh=False)
        return all(run.run_dir.finished for run in runs)

    def arguments(self) -> list[str]:
        """Return the arguments of `rmrkd`; existing runs are resumed."""
        method = ["--method", self._method] if self._method is not None else []
        settings = [part for text in self.settings for part in ("--set", text)]
        return [
            "train", "--preset", self.preset, "--role", self.role, *method,
            "--seeds", ",".join(map(str, self.seeds)), "--work-dir", str(self.folder),
            "--device", self.device, "--resume", *settings,
        ]  # fmt: skip


def start(arguments: list[str], output: Path) -> int:
    """Run `rmrkd` in a new process, write its output to a file, and return the exit status."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as stream:
        command = wrap_in_shell([sys.executable, "-m", "rmrkd_cli", *arguments])
        return subprocess.call(command, cwd=ROOT, stdout=stream, stderr=stream)


def wrap_in_shell(command: Sequence[str]) -> list[str]:
    """Return the command as the child of a shell.

    On Linux, a process starts with the peak memory of its parent, and this process has loaded torch.
    """
    return ["sh", "-c", '"$@"; exit $?', "sh", *command]
