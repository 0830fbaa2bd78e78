"""Check the paths of inputs and results before the work starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import first_control
from rmrkd_cli.terminal.text import shorten_value

_MAX_PATH, _MAX_PATH_PART = 3000, 255  # characters, bytes


def check_free_folder(folder: Path | None, *, force: bool | None = None) -> None:
    """Raise RmrkdError unless the folder is empty, or can be created.

    Args:
        folder: None checks nothing.
        force: Value of `--force`: allow a folder with files in it. None: the command has no such option.
    """
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise RmrkdError(f"`{folder}` is a file", "choose a new or an empty folder")
    if folder.exists() and any(folder.iterdir()) and not force:
        hint = "choose a new or an empty folder"
        replace = ", or replace the files of the same names in it with --force"
        raise RmrkdError(f"`{folder}` is not empty", hint if force is None else hint + replace)
    _check_writable(folder)


def check_new_file(path: Path | None, *, force: bool | None = None, inputs: Iterable[Path] = ()) -> None:
    """Check that a result can be written to a file.

    Args:
        path: None checks nothing.
        force: Value of `--force`: allow an existing file, except one of `inputs`. None: the command has no such option.
        inputs: Files that the command reads.

    Raises:
        RmrkdError: The file exists, is one of `inputs`, or its folder cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise RmrkdError(f"`{path}` is a folder", "give the path of a file")
    for other in inputs:
        if path == other or (path.exists() and other.exists() and path.samefile(other)):
            raise RmrkdError(f"`{path}` is the same file as `{other}`", "choose another name")
    if os.path.lexists(path) and not force:
        hint = (
            "choose another name, or delete it" if force is None else "choose another name, or replace it with --force"
        )
        raise RmrkdError(f"`{path}` already exists", hint)
    if path.exists() and not path.is_file():
        raise RmrkdError(f"`{path}` is not a regular file", "choose another name")
    _check_writable(path)


def _check_writable(path: Path) -> None:
    """Check that the nearest existing parent folder is writable; missing folders are created later."""
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise RmrkdError(f"`{path}` cannot be written: `{parent}` is not a folder", "choose another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RmrkdError(f"`{path}` cannot be written: no write permission for `{parent}`", "choose another folder")


def check_recordable(path: Path | str | None, option: str) -> None:
    """Raise RmrkdError for a path that a preset file cannot contain; a run writes its preset into its folder."""
    text = str(path or "")
    longest_part = max(len(os.fsencode(part)) for part in text.split("/"))
    if first_control(text) is not None:
        problem = f"contains the character {first_control(text)}"
    elif len(text) > _MAX_PATH:
        problem = f"has {len(text)} characters, at most {_MAX_PATH} are allowed"
    elif longest_part > _MAX_PATH_PART:
        problem = f"has a part of {longest_part} bytes, at most {_MAX_PATH_PART} are allowed"
    else:
        return
    raise RmrkdError(f"`{option} {shorten_value(text)}` {problem}", "choose another folder")


def absolute_path(folder: str | None) -> str | None:
    """Return the absolute path of a folder that the command line names; None for None."""
    return os.path.abspath(os.path.expanduser(folder)) if folder is not None else None


def check_inputs(paths: Iterable[Path]) -> None:
    """Raise RmrkdError for the first path that does not exist."""
    for path in paths:
        if not path.exists():
            raise RmrkdError(f"`{path}` does not exist", "name images, videos, or folders of them")
