"""Check Python and the packages: versions, conflicts, and imports."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rmrkd_cli import __version__
from rmrkd_cli.doctor.check import Check, describe_error, fix_for_missing
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import EXTRA, FIRST_UNSUPPORTED_PYTHON, SETUP_COMMAND, VERSIONS, check_python
from rmrkd_cli.installation.requirements import (
    DISTRIBUTION,
    declared_requirements,
    install_command,
    reinstall_command,
    uninstall_command,
    version_of,
)

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# Each release is tested with these; the declared ranges are wider. A test compares torch's with pyproject.toml.
TESTED = {"torch": "2.15.0", "torchvision": "0.29.2", **VERSIONS}
_REASONS = {"torch": "in older versions a checkpoint can run code in spite of weights_only=True"}
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_BACKPORTS = {"typing": "typing", "dataclasses": "dataclasses", "enum34": "enum", "pathlib": "pathlib"}
_IMPORTS = {  # module -> distribution; torchvision is left out, since mmcv imports it and never uses it
    "numpy": "numpy", "torch": "torch", "cv2": "opencv-python", "mmcv": "mmcv-full", "mmseg.models": "mmsegmentation",
}  # fmt: skip
_DEBIAN_PACKAGES = {  # of shared libraries that minimal systems do not have
    "libGL.so": "libgl1",
    "libgthread": "libglib2.0-0",
    "libglib": "libglib2.0-0",
    "libSM": "libsm6",
    "libXext": "libxext6",
    "libgomp": "libgomp1",
}


def package_checks() -> Iterator[Check]:
    yield _check_rmrkd()
    yield _check_command()
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        found = "PYTHONDONTWRITEBYTECODE is set; each start takes 5 to 10 s longer"
        yield Check("bytecode", "warning", found, "stored bytecode", "unset PYTHONDONTWRITEBYTECODE")
    yield from _check_versions()
    yield from _check_conflicts()


def _check_rmrkd() -> Check:
    version = version_of(DISTRIBUTION)
    if version is None:
        found = f"{__version__}, not installed"
        return Check("rmrkd", "error", found, "an installed package", reinstall_command())
    if version != __version__:
        found = f"code {__version__}, installed as {version}"
        return Check("rmrkd", "error", found, "the same version", reinstall_command())
    return Check("rmrkd", "ok", version)


def _check_command() -> Check:
    """Check that a shell finds the `rmrkd` of this environment."""
    command, scripts = shutil.which("rmrkd"), Path(sysconfig.get_path("scripts"))
    fix = f'export PATH="{scripts}:$PATH"'
    if command is None:
        return Check("command", "warning", "no `rmrkd` on PATH", f"{scripts / 'rmrkd'}", fix)
    if not Path(command).resolve().is_relative_to(scripts.resolve()) and Path(command).parent != scripts:
        return Check("command", "warning", f"`{command}` is of another Python", f"{scripts / 'rmrkd'}", fix)
    return Check("command", "ok", command)


def _check_versions() -> Iterator[Check]:
    from packaging.specifiers import SpecifierSet

    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return  # `_check_rmrkd` reports it
    python, wanted = platform.python_version(), metadata["Requires-Python"] or ""
    if SpecifierSet(wanted).contains(python, prereleases=True):
        yield Check("Python", "ok", python)
    else:
        yield Check("Python", "error", python, wanted, "uv venv --python 3.12, and install rmrkd in it")
    for requirement in sorted(declared_requirements(), key=lambda requirement: requirement.name):
        yield _check_package(requirement)
    try:
        check_python()
    except RmrkdError as error:
        yield Check("mmsegmentation", "error", error.message, "Python 3.10, 3.11 or 3.12", error.hint)
    else:
        yield from map(_check_package, declared_requirements(EXTRA))


def _check_package(requirement: Requirement) -> Check:
    from packaging.version import Version

    name, wanted, version = requirement.name, str(requirement.specifier), version_of(requirement.name)
    fix = _install_fix(name, f"{name}{wanted}")
    if version is None:
        replacement = next((other for other in _OPENCV if version_of(other)), "") if name == _OPENCV[0] else ""
        if replacement and requirement.specifier.contains(version_of(replacement) or "", prereleases=True):
            return Check(name, "warning", f"{replacement} {version_of(replacement)} instead", wanted, fix)
        return Check(name, "error", "not installed", wanted, fix)
    if not requirement.specifier.contains(version, prereleases=True):
        reason = f" ({_REASONS[name]})" if name in _REASONS else ""
        return Check(name, "error", version, wanted + reason, fix)
    tested = TESTED.get(name)
    if tested is not None and Version(version).release != Version(tested).release:
        return Check(name, "warning", version, f"tested with {tested}", _install_fix(name, f"{name}=={tested}"))
    return Check(name, "ok", version)


def _install_fix(name: str, requirement: str) -> str:
    return SETUP_COMMAND if name in VERSIONS else install_command(requirement)


def _check_conflicts() -> Iterator[Check]:
    """Find installed packages that overwrite or hide files of others."""
    found = []
    mmcv = [name for name in ("mmcv", "mmcv-lite") if version_of(name)]
    if mmcv:  # removing them also removes files of mmcv-full, so it is reinstalled
        fix = f"{uninstall_command(*mmcv, 'mmcv-full')} && {SETUP_COMMAND}"
        expected = "mmcv-full alone: all of these write into the folder `mmcv`"
        found.append(Check("conflicts", "error", _with_versions(mmcv), expected, fix))
    backports = [name for name in _BACKPORTS if version_of(name) and _hides_stdlib(name)]
    if backports:
        expected = "Python's own modules, which these hide"
        found.append(Check("conflicts", "error", _with_versions(backports), expected, uninstall_command(*backports)))
    opencv = [name for name in _OPENCV if version_of(name)]
    if len(opencv) > 1:
        reinstall = install_command("opencv-python", options="--force-reinstall --no-deps")
        fix = f"{uninstall_command(*(name for name in opencv if name != 'opencv-python'))} && {reinstall}"
        expected = "one of these: all write into the folder `cv2`"
        same_version = len({version_of(name) for name in opencv}) == 1
        status = "warning" if same_version else "error"
        found.append(Check("conflicts", status, _with_versions(opencv), expected, fix))  # type: ignore[arg-type]
    yield from found or [Check("conflicts", "ok", "none")]


def _hides_stdlib(name: str) -> bool:
    """Return whether Python finds a backport's module before its own, as through PYTHONPATH."""
    origin = getattr(sys.modules.get(_BACKPORTS[name]), "__file__", None) or ""
    return Path(origin).parent != Path(sysconfig.get_path("stdlib"))


def _with_versions(names: list[str]) -> str:
    return ", ".join(f"{name} {version_of(name)}" for name in names)


def import_checks() -> Iterator[Check]:
    """Import the packages that contain compiled code, or depend on it."""
    supported = sys.version_info[:2] < FIRST_UNSUPPORTED_PYTHON
    modules = [module for module, package in _IMPORTS.items() if supported or package not in VERSIONS]
    failed: dict[str, Check] = {}
    for module in modules:
        check = _check_import(module)
        if check is not None:
            failed.setdefault(check.found, check)  # one for each cause
    yield from failed.values() or [Check("imports", "ok", ", ".join(modules))]


def _check_import(module: str) -> Check | None:
    name, expected = f"import {module}", "an import without errors"
    try:
        if module in ("mmcv", "mmseg.models"):
            from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

            make_mmseg_importable()
        importlib.import_module(module)
    except RmrkdError as error:  # mmsegmentation is missing, or of an unsupported version
        return Check(name, "error", error.message, expected, error.hint)
    except Exception as error:
        found, package = describe_error(error), _IMPORTS[module]
        libraries = [package for library, package in _DEBIAN_PACKAGES.items() if library in found]
        if libraries:
            fix = f"apt-get install {libraries[0]}"
        elif not version_of(package):
            fix = _install_fix(package, package)
        else:
            reinstall = install_command(package, options="--force-reinstall --no-deps")
            fix = fix_for_missing(error) or (f"{SETUP_COMMAND} --reinstall" if package in VERSIONS else reinstall)
        return Check(name, "error", found, expected, fix)
    return None
