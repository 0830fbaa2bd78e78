"""Python and the packages: versions against the ranges that the installed rmrkd declares, conflicts, and imports."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rmrkd_cli import __version__
from rmrkd_cli.doctor.check import Check, first_line, install_missing
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

# With these a release is tested; the ranges are wider. A test holds torch's to those in pyproject.toml.
TESTED = {"torch": "2.15.0", "torchvision": "0.29.2", **VERSIONS}
_WHY = {"torch": "in older ones a checkpoint can run code in spite of weights_only=True"}
_MMCV = "they write into the same folder `mmcv` as mmcv-full"
_BACKPORTS = {"typing": "typing", "dataclasses": "dataclasses", "enum34": "enum", "pathlib": "pathlib"}
_CV2 = ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_IMPORTS = ("numpy", "torch", "cv2", "mmcv", "mmseg.models")  # torchvision is asked for by mmcv and never used
_INSTALLED_AS = {"cv2": "opencv-python", "mmcv": "mmcv-full", "mmseg.models": "mmsegmentation"}
_LIBRARIES = {  # shared libraries that minimal systems lack, and the Debian packages that hold them
    "libGL.so": "libgl1",
    "libgthread": "libglib2.0-0",
    "libglib": "libglib2.0-0",
    "libSM": "libsm6",
    "libXext": "libxext6",
    "libgomp": "libgomp1",
}


def package_checks() -> Iterator[Check]:
    yield from _own()
    yield from _versions()
    yield from _conflicts()


def _own() -> Iterator[Check]:
    """The installed distribution, and the command that a shell finds."""
    version = version_of(DISTRIBUTION)
    if version is None:
        yield Check("rmrkd", "wrong", f"{__version__}, not installed", "an installed package", reinstall_command())
    elif version != __version__:
        expected = "the same version"
        yield Check("rmrkd", "wrong", f"code {__version__}, installed as {version}", expected, reinstall_command())
    else:
        yield Check("rmrkd", "ok", version)
    command, own = shutil.which("rmrkd"), Path(sysconfig.get_path("scripts"))
    if command is None:
        yield Check("command", "note", "no `rmrkd` on PATH", f"{own / 'rmrkd'}", f'export PATH="{own}:$PATH"')
    elif not Path(command).resolve().is_relative_to(own.resolve()) and Path(command).parent != own:
        found = f"`{command}` belongs to another Python"
        yield Check("command", "note", found, f"{own / 'rmrkd'}", f'export PATH="{own}:$PATH"')
    else:
        yield Check("command", "ok", command)


def _versions() -> Iterator[Check]:
    from packaging.specifiers import SpecifierSet

    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return  # said already
    python, wanted = platform.python_version(), metadata["Requires-Python"] or ""
    if SpecifierSet(wanted).contains(python, prereleases=True):
        yield Check("Python", "ok", python)
    else:
        yield Check("Python", "wrong", python, wanted, "uv venv --python 3.12, and install rmrkd in it")
    for requirement in sorted(declared_requirements(), key=lambda one: one.name):
        yield _package(requirement)
    yield from _mmseg()


def _mmseg() -> Iterator[Check]:
    """The extra that builds networks; `rmrkd setup` installs it, or explains why it cannot."""
    try:
        check_python()
    except RmrkdError as error:
        yield Check("mmsegmentation", "wrong", error.message, "Python 3.10, 3.11 or 3.12", error.hint)
        return
    for requirement in declared_requirements(EXTRA):
        yield _package(requirement)


def _package(requirement: Requirement) -> Check:
    from packaging.version import Version

    name, wanted, version = requirement.name, str(requirement.specifier), version_of(requirement.name)
    mend = _mend(name, f"{name}{wanted}")
    if version is None:
        beside = [other for other in _CV2 if version_of(other)] if name == "opencv-python" else []
        if beside and requirement.specifier.contains(version_of(beside[0]) or "", prereleases=True):
            return Check(name, "note", f"{beside[0]} {version_of(beside[0])} in its place", wanted, mend)
        return Check(name, "wrong", "not installed", wanted, mend)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(name, "wrong", version, wanted + (f" ({_WHY[name]})" if name in _WHY else ""), mend)
    tested = TESTED.get(name)
    if tested is not None and Version(version).release != Version(tested).release:
        return Check(name, "note", version, f"tested with {tested}", _mend(name, f"{name}=={tested}"))
    return Check(name, "ok", version)


def _mend(name: str, requirement: str) -> str:
    return SETUP_COMMAND if name in VERSIONS else install_command(requirement)


def _conflicts() -> Iterator[Check]:
    found = []
    strangers = [name for name in ("mmcv", "mmcv-lite") if version_of(name)]
    if strangers:
        # Removing them also removes files of mmcv-full, which is then installed again.
        mend = f"{uninstall_command(*strangers, 'mmcv-full')} && {SETUP_COMMAND}"
        found.append(Check("conflicts", "wrong", _named(strangers), _MMCV, mend))
    if version_of("mmengine"):
        why = "mmsegmentation 1.x needs it, 0.30 does not"
        found.append(Check("conflicts", "note", _named(["mmengine"]), why, uninstall_command("mmengine")))
    backports = [name for name in _BACKPORTS if version_of(name) and _hides(name)]
    if backports:
        why = "Python's own modules, which these hide"
        found.append(Check("conflicts", "wrong", _named(backports), why, uninstall_command(*backports)))
    versions = {name: version for name in ("opencv-python", *_CV2) if (version := version_of(name))}
    if len(versions) > 1:
        again = install_command("opencv-python", options="--force-reinstall --no-deps")
        mend = f"{uninstall_command(*(name for name in versions if name != 'opencv-python'))} && {again}"
        status = "wrong" if len(set(versions.values())) > 1 else "note"
        why = "one of them: all write into the folder `cv2`"
        found.append(Check("conflicts", status, _named(list(versions)), why, mend))  # type: ignore[arg-type]
    yield from found or [Check("conflicts", "ok", "none")]


def _hides(name: str) -> bool:
    """Whether a backport's module is found before Python's own, as through PYTHONPATH; else it does no harm."""
    origin = getattr(sys.modules.get(_BACKPORTS[name]), "__file__", None) or ""
    return Path(origin).parent != Path(sysconfig.get_path("stdlib"))


def import_checks() -> Iterator[Check]:
    """Imports what networks and images need; a module that cannot be imported says so itself."""
    failed: list[Check] = []
    supported = sys.version_info[:2] < FIRST_UNSUPPORTED_PYTHON
    imports = [name for name in _IMPORTS if supported or _INSTALLED_AS.get(name) not in VERSIONS]
    for name in imports:
        check = _import(name)
        if check is not None and check.found not in {before.found for before in failed}:  # else for the same reason
            failed.append(check)
    yield from failed or [Check("imports", "ok", ", ".join(imports))]
    if version_of("mmcv-full"):
        yield _compiled_ops()


def _import(name: str) -> Check | None:
    try:
        if name in ("mmcv", "mmseg.models"):
            from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

            make_mmseg_importable()
        importlib.import_module(name)
    except RmrkdError as error:  # mmsegmentation is missing, or of a version that does not work
        return Check(f"import {name}", "wrong", error.message, "an import without errors", error.hint)
    except Exception as error:
        said = first_line(error)
        missing = [package for library, package in _LIBRARIES.items() if library in said]
        package = _INSTALLED_AS.get(name, name)
        again = install_command(package, options="--force-reinstall --no-deps")
        if package in VERSIONS:
            again = f"{SETUP_COMMAND} --reinstall"
        mend = f"apt-get install {missing[0]}" if missing else install_missing(error)
        if not mend or not version_of(package):
            mend = again if version_of(package) else _mend(package, package)
        return Check(f"import {name}", "wrong", said, "an import without errors", mend)
    return None


def _compiled_ops() -> Check:
    """They may be there or not; the stand-in that rmrkd puts in their place has no file."""
    try:
        spec = importlib.util.find_spec("mmcv._ext")
    except ImportError:
        spec = None
    if spec is not None and spec.origin is not None:
        return Check("compiled ops", "ok", "mmcv-full's are there; none is needed")
    return Check("compiled ops", "ok", "mmcv-full's are not built; none is needed")


def _named(names: list[str]) -> str:
    return ", ".join(f"{name} {version_of(name)}" for name in names)
