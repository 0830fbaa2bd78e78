"""mmsegmentation and mmcv-full, the extra `mmseg`: pinned versions, what is missing, and the error that says so."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.util import find_spec

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.requirements import uninstall_command, version_of

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
    """Stop unless mmcv-full, mmsegmentation and mmcls are installed in versions that rmrkd works with.

    It reads metadata and imports nothing, so a command can call it first. What was found is remembered.

    Raises:
        RmrkdError: Names what is missing or of another version; the hint is `rmrkd setup`.
    """
    missing = _missing(MODULES) or _missing({name: name for name in SUPPORT_VERSIONS})
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise RmrkdError(f"this command needs {_listed(missing)}, which {verb} not installed", SETUP_COMMAND)
    for name, tested in VERSIONS.items():
        version = version_of(name)
        if version is not None and _series(version) != _series(tested):
            raise RmrkdError(
                f"{name} {version} is installed, and rmrkd needs {_series(tested)}.x (tested with {tested})",
                SETUP_COMMAND,
            )
    check_conflicts()


def check_python() -> None:
    """Stop on a Python on which mmcv-full cannot be built.

    Raises:
        RmrkdError: With the commands that make an environment of a Python that works.
    """
    if not FIRST_PYTHON <= sys.version_info[:2] < FIRST_UNSUPPORTED_PYTHON:
        raise RmrkdError(
            f"mmcv-full {VERSIONS['mmcv-full']} cannot be built on Python {platform.python_version()}, "
            "only on 3.10, 3.11 and 3.12",
            "uv venv --python 3.12 ENV && uv pip install --python ENV RMRKD-WHEEL && ENV/bin/rmrkd setup",
        )


def check_conflicts() -> None:
    """Stop where a distribution is installed that overwrites files of mmcv-full.

    Raises:
        RmrkdError: With the commands that remove it; mmcv-full goes with it, since they share files.
    """
    found = [f"{name} {version}" for name in _SAME_FOLDER if (version := version_of(name))]
    if found:
        names = [name.split()[0] for name in found] + ["mmcv-full"] * (version_of("mmcv-full") is not None)
        raise RmrkdError(
            f"{', '.join(found)} is installed here and writes into the same folder `mmcv` as mmcv-full",
            f"use an environment of its own for rmrkd, or {uninstall_command(*names)} && {SETUP_COMMAND}",
        )


def packages_to_install() -> dict[str, str]:
    """Return name and version of every package that `rmrkd setup` has to install here, in order of installation."""
    support = {name: version for name, version in SUPPORT_VERSIONS.items() if version_of(name) is None}
    main = {name: version for name, version in VERSIONS.items() if version_of(name) != version}
    return {**support, **main}


def _missing(modules: dict[str, str]) -> list[str]:
    """Return the distributions of which neither metadata nor the module can be found."""
    return [name for name, module in modules.items() if version_of(name) is None and find_spec(module) is None]


def _series(version: str) -> str:
    """`0.30` of `0.30.0`: releases of one series work alike."""
    return ".".join(version.split(".")[:2])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
