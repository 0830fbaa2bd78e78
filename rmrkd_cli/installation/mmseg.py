"""Check the packages of the extra `mmseg`: mmsegmentation, mmcv-full, mmcls, and what they need."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.util import find_spec

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.requirements import uninstall_command, version_of
from rmrkd_cli.terminal.text import join_and

EXTRA = "mmseg"
SETUP_COMMAND = "rmrkd setup"
# rmrkd is tested with these versions, and `rmrkd setup` installs them.
VERSIONS = {"mmcv-full": "1.7.2", "mmsegmentation": "0.30.0", "mmcls": "0.25.0"}
MODULES = {"mmcv-full": "mmcv", "mmsegmentation": "mmseg", "mmcls": "mmcls"}
# What they need beyond rmrkd's own requirements. Any installed version of these is kept.
SUPPORT_VERSIONS = {"addict": "2.4.0", "yapf": "0.43.0", "prettytable": "3.18.0", "wcwidth": "0.9.4"}
PYTHON_310_VERSIONS = {"tomli": "2.0.2"}  # of yapf, before Python 3.11
if sys.version_info < (3, 11):
    SUPPORT_VERSIONS |= PYTHON_310_VERSIONS
# mmcv-full 1.7.2 is published as a source archive only, and its setup.py imports pkg_resources.
BUILD_CONSTRAINT = "setuptools<81"
# Later Pythons: setup.py reads `locals()` after `exec`, which Python 3.13 changed (PEP 667).
FIRST_PYTHON, FIRST_UNSUPPORTED_PYTHON = (3, 10), (3, 13)
_SAME_FOLDER = ("mmcv", "mmcv-lite")  # distributions that write into the same folder `mmcv` as mmcv-full


@cache
def require_mmseg() -> None:
    """Check that mmcv-full, mmsegmentation and mmcls are installed in supported versions.

    It reads metadata and imports nothing. The result is cached.

    Raises:
        RmrkdError: A package is missing or has another version; the hint is `rmrkd setup`.
    """
    missing = _missing(MODULES) or _missing({name: name for name in SUPPORT_VERSIONS})
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise RmrkdError(f"this command needs {join_and(missing)}, which {verb} not installed", SETUP_COMMAND)
    for name, tested in VERSIONS.items():
        version = version_of(name)
        if version is not None and _series(version) != _series(tested):
            raise RmrkdError(
                f"{name} {version} is installed, and rmrkd needs {_series(tested)}.x (tested with {tested})",
                SETUP_COMMAND,
            )
    check_conflicts()


def check_python() -> None:
    """Check that mmcv-full can be built on this Python.

    Raises:
        RmrkdError: It cannot; the hint has the commands that create an environment with another Python.
    """
    if not FIRST_PYTHON <= sys.version_info[:2] < FIRST_UNSUPPORTED_PYTHON:
        raise RmrkdError(
            f"mmcv-full {VERSIONS['mmcv-full']} cannot be built on Python {platform.python_version()}, "
            "only on 3.10, 3.11 and 3.12",
            "uv venv --python 3.12 ENV && uv pip install --python ENV RMRKD-WHEEL && ENV/bin/rmrkd setup",
        )


def check_conflicts() -> None:
    """Check that no installed package overwrites files of mmcv-full.

    Raises:
        RmrkdError: One does; the hint has the commands that uninstall it, with mmcv-full, since they share files.
    """
    found = [f"{name} {version}" for name in _SAME_FOLDER if (version := version_of(name))]
    if found:
        names = [name.split()[0] for name in found] + ["mmcv-full"] * (version_of("mmcv-full") is not None)
        raise RmrkdError(
            f"{', '.join(found)} is installed, and writes into the same folder `mmcv` as mmcv-full",
            f"use a separate environment for rmrkd, or {uninstall_command(*names)} && {SETUP_COMMAND}",
        )


def packages_to_install() -> dict[str, str]:
    """Return name and version of each package that `rmrkd setup` has to install, in order."""
    support = {name: version for name, version in SUPPORT_VERSIONS.items() if version_of(name) is None}
    main = {name: version for name, version in VERSIONS.items() if version_of(name) != version}
    return {**support, **main}


def _missing(modules: dict[str, str]) -> list[str]:
    """Return the distributions that have neither metadata nor a module here."""
    return [name for name, module in modules.items() if version_of(name) is None and find_spec(module) is None]


def _series(version: str) -> str:
    """Return `0.30` of `0.30.0`; releases of one series are compatible."""
    return ".".join(version.split(".")[:2])
