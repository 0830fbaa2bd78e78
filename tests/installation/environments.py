"""Python environments of their own, for tests that install rmrkd as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Settings of this process that would reach into another environment.
_OWN = ("PYTHONPATH", "VIRTUAL_ENV", "UV", "UV_PROJECT_ENVIRONMENT", "UV_RUN_RECURSION_DEPTH", "COLUMNS")


def build_wheel(folder: Path) -> Path:
    """Build rmrkd's wheel from this checkout, in this process's environment, which has the build backend."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """An empty virtual environment of this Python.

    Attributes:
        python: Its interpreter.
        bin: Folder of its commands.
    """

    def __init__(self, folder: Path, *, pip: bool) -> None:
        venv.create(folder, with_pip=pip, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"

    def unpack(self, wheel: Path) -> None:
        """Install a pure wheel without its dependencies and without an installer."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.bin.parent / "lib" / version / "site-packages")

    def run(self, *command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment, found on its own PATH first."""
        environment = {key: value for key, value in os.environ.items() if key not in _OWN}
        environment["PATH"] = f"{self.bin}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            [str(word) for word in command], cwd=cwd, env={**environment, **variables}, capture_output=True, text=True
        )

    def checked(self, *command: object, cwd: Path, **variables: str) -> str:
        """As `run`, for a command that must succeed; return what it printed."""
        done = self.run(*command, cwd=cwd, **variables)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def packages(self, cwd: Path) -> dict[str, str]:
        """Return name and version of everything that is installed."""
        code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        return dict(json.loads(self.checked(self.python, "-c", code, cwd=cwd)))
