"""The names in `--track`, and the packages that they need. Imports no tracker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.installation.requirements import declared_requirements, install_extra_command, version_of
from rmrkd_cli.terminal.text import shorten

DEFAULT = ("tensorboard",)
NAMES = ("tensorboard", "wandb", "mlflow")
_OFF = "none"
_EXTRAS = ("wandb", "mlflow")  # TensorBoard is always installed


def parse_trackers(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the trackers of `tensorboard,wandb,mlflow`; none for `none` or no names, and the default for None.

    Args:
        given: Names with commas between them, or a list of names.

    Raises:
        RmrkdError: For an unknown name, or `none` beside others.
    """
    if given is None:
        return DEFAULT
    text = given if isinstance(given, str) else ",".join(given) or _OFF
    names = list(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    hint = "--track tensorboard,wandb,mlflow names one or several, --track none no tracker"
    unknown = next((name for name in names if name not in (*NAMES, _OFF)), None)
    if unknown is not None:
        found = did_you_mean(unknown, [*NAMES, _OFF]) if unknown else f"known: {', '.join((*NAMES, _OFF))}"
        raise RmrkdError(f"`--track {shorten(text)}`: unknown tracker `{shorten(unknown)}`, {found}", hint)
    if _OFF in names and len(names) > 1:
        raise RmrkdError(f"`--track {shorten(text)}`: `none` excludes other trackers", hint)
    return tuple(name for name in names if name != _OFF)


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of the trackers are installed, before anything is trained.

    Raises:
        RmrkdError: When one is missing or too old; the hint is the command that installs it.
    """
    for name in names:
        if name in _EXTRAS:
            for problem in _problems(name):
                raise RmrkdError(f"`--track {name}` needs {problem}", install_extra_command(name))


def _problems(name: str) -> Iterator[str]:
    if find_spec(name) is None:
        yield f"the package {name}, which is not installed"
    needed = {requirement.name.lower(): requirement for requirement in declared_requirements(name)}
    if name == "mlflow" and not _writes_sql_store():
        needed = {key: requirement for key, requirement in needed.items() if key.startswith("mlflow")}
    for requirement in needed.values():
        version = version_of(requirement.name)
        if version is None:
            yield f"the package {requirement.name}, which is not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name}{requirement.specifier}, and {version} is installed"


def _writes_sql_store() -> bool:
    """Return whether MLflow writes into an SQL database itself: its default, or named in MLFLOW_TRACKING_URI."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return not address or address.split(":")[0].split("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")
