"""Read the requirements of the installed rmrkd, and build the commands that install packages into this environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "rmrkd"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def declared_requirements(extra: str = "") -> list[Requirement]:
    """Return the requirements of rmrkd, or of one of its extras, that apply on this Python.

    Args:
        extra: Name of an extra; empty for the packages that rmrkd always needs.

    Returns:
        An empty list where rmrkd is not installed, and runs from its source.
    """
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for requirement in map(Requirement, declared):
        marker = requirement.marker
        applies = marker is None or marker.evaluate({"extra": extra})
        always = marker is None or marker.evaluate({"extra": ""})
        if applies and (not extra or not always):
            found.append(requirement)
    return found


def install_command(*requirements: str, options: str = "") -> str:
    """Return the command that installs packages into this environment, quoted for a shell."""
    quoted = (shlex.quote(name) for name in requirements)
    return " ".join([*_pip("install"), *([options] if options else []), *quoted])


def uninstall_command(*names: str) -> str:
    """Return the command that removes packages from this environment."""
    return " ".join([*_pip("uninstall"), *(["-y"] if version_of("pip") else []), *names])


def install_extra_command(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    It lists the packages instead of `rmrkd[extra]`: a package index may have another project named rmrkd.
    """
    names = [f"{requirement.name}{requirement.specifier}" for requirement in declared_requirements(extra)]
    return install_command(*names) if names else install_command(f".[{extra}]", options="-e")


def reinstall_command() -> str:
    """Return the command that reinstalls rmrkd from its original folder, file or repository."""
    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        origin = json.loads(text or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if not url:
        return install_command() + " CLONE-OR-WHEEL"
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}"
    editable = origin.get("dir_info", {}).get("editable")
    options = "-e" if editable else "--force-reinstall --no-deps"
    return install_command(unquote(url.removeprefix("file://")), options=options)


def explain_missing_module(error: ModuleNotFoundError) -> RmrkdError | None:
    """Return an error that lists the required packages that are not installed, for a failed import.

    It reads the requirements as text: the package that parses them may be missing too.

    Returns:
        None where every required package is installed; the import failed for another reason.
    """
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return RmrkdError(
            f"the module `{error.name}` is missing, and rmrkd is not installed in {sys.prefix}", reinstall_command()
        )
    missing: dict[str, str] = {}
    for requirement in declared:
        name = _NAME.match(requirement)
        if name is not None and ";" not in requirement and version_of(name[0]) is None:
            missing[name[0]] = requirement
    if not missing:
        return None
    packages = "a package" if len(missing) == 1 else f"{len(missing)} packages"
    return RmrkdError(
        f"{packages} that rmrkd needs {'is' if len(missing) == 1 else 'are'} not installed: {', '.join(missing)}",
        install_command(*missing.values()),
    )


def _pip(verb: str) -> list[str]:
    # Looked up in the metadata: importing pip would change setuptools in this process.
    if version_of("pip"):
        return [_python(), "-m", "pip", verb]
    return ["uv", "pip", verb, *([] if _python() == "python" else ["--python", _python()])]


def _python() -> str:
    """Return `python` where that name runs this interpreter, and its path otherwise."""
    found = shutil.which("python")
    same = found is not None and os.path.abspath(found) == os.path.abspath(sys.executable)
    return "python" if same else shlex.quote(sys.executable)
