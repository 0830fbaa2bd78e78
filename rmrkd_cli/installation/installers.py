"""Install packages with pip or uv, under the build constraint of mmcv-full."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.mmseg import BUILD_CONSTRAINT
from rmrkd_cli.installation.requirements import version_of

# First pip with --build-constraint; newer ones no longer apply PIP_CONSTRAINT to builds.
_PIP_WITH_BUILD_CONSTRAINT = (25, 3)
_PIP_WITH_PYTHON = (22, 3)  # first pip with --python
# Environment variables that would compile mmcv-full's operators (which takes minutes), install elsewhere, or forbid
# building.
_DROPPED = (
    *("PIP_NO_BUILD_ISOLATION", "PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"),
    *("PIP_USER", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_REQUIRE_HASHES", "PIP_DRY_RUN", "PIP_IGNORE_INSTALLED"),
    *("UV_NO_BUILD_ISOLATION", "UV_NO_BUILD", "UV_NO_BINARY", "UV_BUILD_CONSTRAINT", "UV_SYSTEM_PYTHON"),
    *("UV_TARGET", "UV_PREFIX", "UV_REQUIRE_HASHES", "PYTHONPATH", "MMCV_WITH_OPS", "MMCV_WITH_TRT", "FORCE_CUDA"),
)

_PIP_SETTINGS = {
    "PIP_NO_INPUT": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_NO_CACHE_DIR": "1",  # the cache may have an mmcv-full that was built for another torch
}

_GET_INSTALLER = "install uv (docs.astral.sh/uv), or pip into this environment; on Debian: apt-get install python3-venv"


@dataclass(frozen=True)
class Installer:
    """A program that installs packages into the environment of this process.

    Attributes:
        name: For messages: `pip 26.3`.
        command: The command line before `install` or `wheel`.
        kind: "pip" or "uv".
        pip_version: Major and minor version; (0, 0) for uv.
    """

    name: str
    command: tuple[str, ...]
    kind: str
    pip_version: tuple[int, int] = (0, 0)

    def install(self, requirements: Sequence[str], *, find_links: Path | None = None, reinstall: bool = False) -> None:
        """Install exactly these requirements, without their dependencies.

        Args:
            requirements: Such as `mmcv-full==1.7.2`.
            find_links: Folder with the files, instead of a package index.
            reinstall: Also install packages that are installed already.

        Raises:
            RunError: The installer failed; the message has its last lines.
        """
        target = ["--python", sys.executable] if self.kind == "uv" else []
        links = ["--no-index", "--find-links", str(find_links.resolve())] if find_links is not None else []
        again = ["--reinstall" if self.kind == "uv" else "--force-reinstall"] if reinstall else []
        self._run(["install", *target, *links, *again, *requirements])

    def build_wheels(self, requirements: Sequence[str], folder: Path) -> None:
        """Download or build a wheel of each requirement into a folder; pip only.

        Raises:
            RunError: pip failed; the message has its last lines.
        """
        self._run(["wheel", "--wheel-dir", str(folder.resolve()), *requirements])

    def _run(self, arguments: Sequence[str]) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in _DROPPED}
        with TemporaryDirectory(prefix="rmrkd-") as folder:
            constraint = Path(folder) / "build-constraint.txt"
            constraint.write_text(f"{BUILD_CONSTRAINT}\n", encoding="utf-8")
            verb, *rest = arguments
            command = [*self.command, verb, "--no-deps", *self._options(constraint, environment), *rest]
            done = subprocess.run(
                command,
                # In the working directory uv would read a project's settings.
                cwd=folder if self.kind == "uv" else None,
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace",
            )  # fmt: skip
        if done.returncode:
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            raise RunError(f"{self.name} failed:\n" + "\n".join(f"  {line}" for line in lines[-8:]))

    def _options(self, constraint: Path, environment: dict[str, str]) -> list[str]:
        if self.kind == "uv":
            return ["--build-constraint", str(constraint)]
        environment.update(_PIP_SETTINGS)
        if self.pip_version >= _PIP_WITH_BUILD_CONSTRAINT:
            return ["--build-constraint", str(constraint)]
        environment["PIP_CONSTRAINT"] = " ".join(filter(None, [environment.get("PIP_CONSTRAINT"), constraint.as_uri()]))
        # Otherwise an old pip with setuptools and wheel runs setup.py in this environment, which has torch.
        return ["--use-pep517"]


@contextmanager
def find_installer(*, pip_only: bool = False) -> Iterator[Installer]:
    """Yield pip of this environment, else uv, else pip in a temporary environment.

    Args:
        pip_only: Skip uv, which cannot write wheels.

    Raises:
        RmrkdError: None of these is available.
    """
    version = version_of("pip")
    if version is not None:
        yield _pip(version, (sys.executable, "-m", "pip"))
        return
    uv = _uv_command()
    if uv is not None and not pip_only:
        yield Installer("uv", (*uv, "pip"), "uv")
        return
    with TemporaryDirectory(prefix="rmrkd-pip-") as folder:
        yield _temporary_pip(Path(folder))


def _pip(version: str, command: tuple[str, ...]) -> Installer:
    from packaging.version import Version

    parsed = Version(version)
    return Installer(f"pip {version}", command, "pip", (parsed.major, parsed.minor))


def _uv_command() -> tuple[str, ...] | None:
    """Return the command of uv: from UV (set by `uv run`), on PATH, next to this Python, or its module."""
    beside = Path(sys.executable).parent / "uv"
    for candidate in (os.environ.get("UV"), shutil.which("uv"), str(beside)):
        if candidate and os.access(candidate, os.X_OK):
            return (candidate,)
    return (sys.executable, "-m", "uv") if importlib.util.find_spec("uv") is not None else None


def _temporary_pip(folder: Path) -> Installer:
    """Return the pip that is bundled with this Python, in a new environment; it installs into this environment."""
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(folder / "env")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    python = str(folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if made.returncode:
        raise RmrkdError(f"neither pip nor uv is available for {sys.executable}", _GET_INSTALLER)
    asked = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=True)
    installer = _pip(asked.stdout.split()[1], (python, "-m", "pip"))
    if installer.pip_version < _PIP_WITH_PYTHON:
        raise RmrkdError(f"{installer.name}, which is bundled with this Python, is too old", _GET_INSTALLER)
    return Installer(
        f"{installer.name} of a temporary environment", (*installer.command, "--python", sys.executable), "pip",
        installer.pip_version,
    )  # fmt: skip
