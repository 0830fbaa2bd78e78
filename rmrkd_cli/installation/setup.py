"""Install mmsegmentation into the environment that runs rmrkd."""

from __future__ import annotations

import importlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.installation.installers import find_installer
from rmrkd_cli.installation.mmseg import (
    PYTHON_310_VERSIONS,
    SUPPORT_VERSIONS,
    VERSIONS,
    check_conflicts,
    check_python,
    packages_to_install,
)
from rmrkd_cli.installation.requirements import version_of

Log = Callable[[str], None]
# Texts of pip and uv when they cannot reach a package index.
_NO_NETWORK = re.compile(r"connect|resol|dns|network|timed? ?out|retries|no matching distribution|offline", re.I)


def set_up(log: Log, *, source: Path | None = None, dry_run: bool = False, reinstall: bool = False) -> dict[str, str]:
    """Install the missing packages of the extra `mmseg` into this environment.

    All versions are fixed, and no dependencies are installed, so torch, numpy and all others stay unchanged.

    Args:
        log: Called with one line for each package before it is installed.
        source: Folder with the files, for machines without a network; None uses the package index.
        dry_run: Only report what would be installed.
        reinstall: Also reinstall mmcv-full, mmsegmentation and mmcls, to repair damaged files.

    Returns:
        Name and version of each package that was or would be installed; empty when all are installed already.

    Raises:
        RmrkdError: Python is too new, a package conflicts, or the environment is not writable or managed by the system.
        RunError: The installer failed.
    """
    check_python()
    check_conflicts()
    packages = {**packages_to_install(), **(VERSIONS if reinstall else {})}
    if packages:
        folder = _check_writable()
        with find_installer() as installer:
            verb = "would install" if dry_run else "installing"
            log(f"{verb} into {folder} with {installer.name}, other packages stay unchanged:")
            for name, version in packages.items():
                log(f"  {name} {version}{_note(name)}")
            if dry_run:
                return packages
            try:
                installer.install(_pinned(packages), find_links=source, reinstall=reinstall)
            except RunError as error:
                raise RunError(error.message, _after_failure(error.message, packages, source)) from error
        importlib.invalidate_caches()
    else:
        log(f"already installed: {', '.join(f'{name} {version}' for name, version in VERSIONS.items())}")
    return packages


def download(folder: Path, log: Log) -> list[Path]:
    """Write wheels of all packages that `set_up` can need into a folder, for a machine without a network.

    Returns:
        The files; mmcv-full is already built in its wheel.

    Raises:
        RmrkdError: mmcv-full cannot be built on this Python.
        RunError: pip failed.
    """
    check_python()
    packages = {**SUPPORT_VERSIONS, **PYTHON_310_VERSIONS, **VERSIONS}
    with find_installer(pip_only=True) as installer:
        log(f"writing wheels into {folder} with {installer.name}: {', '.join(packages)}")
        installer.build_wheels(_pinned(packages), folder)
    return sorted(folder.glob("*.whl"))


def _pinned(packages: dict[str, str]) -> list[str]:
    return [f"{name}=={version}" for name, version in packages.items()]


def _note(name: str) -> str:
    before = version_of(name)
    replaced = f", replaces {before}" if before else ""
    return replaced + (", built from source without compiled operators" if name == "mmcv-full" else "")


def _check_writable() -> Path:
    """Return the folder that packages are installed into.

    Raises:
        RmrkdError: The system manages this Python, or the folder is not writable.
    """
    own_environment = sys.prefix != sys.base_prefix
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    new_environment = "python3 -m venv ENV && ENV/bin/python -m pip install RMRKD-WHEEL && ENV/bin/rmrkd setup"
    if not own_environment and marker.is_file():
        raise RmrkdError(
            f"{sys.prefix} is managed by the system, so packages cannot be installed into it", new_environment
        )
    folder = Path(sysconfig.get_path("purelib"))
    if not os.access(folder, os.W_OK):
        own = Path(site.getusersitepackages())
        if own_environment or not site.ENABLE_USER_SITE or not os.access(own, os.W_OK):
            raise RmrkdError(f"`{folder}` is not writable, so packages cannot be installed into it", new_environment)
        return own
    return folder


def _after_failure(message: str, packages: dict[str, str], source: Path | None) -> str:
    """Return the hint for a failed installation; without a network, it lists the files to copy to this machine."""
    files = ", ".join(f"{name.replace('-', '_')}-{version}-*.whl" for name, version in packages.items())
    if source is not None:
        return f"`{source}` must contain the files that `rmrkd setup --download DIR` writes: {files}"
    if not _NO_NETWORK.search(message):
        return "rmrkd doctor"
    return (
        f"on a machine with a network run `rmrkd setup --download DIR`, copy DIR ({files}), then rmrkd setup --from DIR"
    )
